"""A before/after comparison with a divider that one drags, as plain HTML: for gr.HTML in the webui and on the page.

gradio does not run <script> in gr.HTML, so the divider is a range input laid over the pictures: the browser itself
does mouse, touch and keyboard, and one inline handler moves the split.
"""

from __future__ import annotations

import html
from pathlib import Path

# belongs to the component, so that it looks the same wherever it is put
_STYLE = Path(__file__).with_name("before_after.css").read_text(encoding="utf-8")
_MOVE = (
    "this.parentNode.style.setProperty('--split', this.value + '%');"
    "this.setAttribute('aria-valuetext', Math.round(this.value) + ' %')"
)


def before_after_html(before: str, after: str, size: tuple[int, int]) -> str:
    """Two pictures of one size (width, height) on top of each other; before and after are URLs, also data: ones.

    Where they are empty, the page's script fills them in. They are shown as wide as there is room, at most 70 % of the
    window high.
    """
    width, height = size
    before, after = html.escape(before, quote=True), html.escape(after, quote=True)
    return (
        f"<style>{_STYLE}</style>"
        f"<div class='negtrans-compare' style='aspect-ratio:{width}/{height};"
        f"max-width:calc(70vh * {width} / {height})'>"
        f"<img class='negtrans-after' src='{after}' alt='translated' draggable='false'>"
        f"<img class='negtrans-before' src='{before}' alt='render' draggable='false'>"
        "<span class='negtrans-label-before'>render</span><span class='negtrans-label-after'>translated</span>"
        f"<input type='range' min='0' max='100' step='0.1' value='50' oninput=\"{_MOVE}\" "
        "aria-label='render / translated' aria-valuetext='50 %'>"
        "<div class='negtrans-divider'></div></div>"
    )
