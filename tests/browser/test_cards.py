"""After a training the webui's two lists of cards are asked for one after the other, on a stand-in for its page."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# a list's button reads the folder for .5 s and then puts new cards into the page; what two at once read is not whole
PAGE = """
<div id="negtrans_train_status"><div data-busy="1" data-phase="training" data-kind="negative">x</div></div>
<button id="negtrans_train_poll"></button>
<script>
    let reading = 0;
    const readings = [];
    for (const tab of ["txt2img", "img2img"]) {
        const name = `${tab}_textual_inversion`;
        document.write(`<button id="${name}_extra_refresh_internal"></button><p><span id="${name}_cards"></span></p>`);
        document.getElementById(`${name}_extra_refresh_internal`).onclick = () => {
            readings.push([tab, ++reading]);
            setTimeout(() => {
                reading--;
                const cards = document.getElementById(`${name}_cards`);
                cards.outerHTML = cards.outerHTML.replace("><", ">new<");
            }, 500);
        };
    }
</script>
"""


def test_two_lists_of_cards_are_not_read_at_once(browser):
    page = browser.new_page()
    page.set_content(PAGE)
    page.add_script_tag(path=REPOSITORY / "javascript" / "negtrans_train.js")
    page.wait_for_timeout(1500)  # it sees the training under way
    page.evaluate("Object.assign(document.querySelector('[data-busy]').dataset, {busy: '0', phase: 'finished'})")
    page.wait_for_function("() => [...document.querySelectorAll('span')].every((cards) => cards.innerText === 'new')")
    assert page.evaluate("readings") == [["txt2img", 1], ["img2img", 1]]
    page.close()
