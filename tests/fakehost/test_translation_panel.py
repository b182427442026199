"""The panel: what it returns to the host, and the line that says what will happen."""

from __future__ import annotations

import html
import re
from types import SimpleNamespace

import pytest

from lib_negtrans.translation import arguments
from lib_negtrans.translation.params import TRANSLATION_PRESETS, TranslationParams
from lib_negtrans.translation.wording import controlled_layers, translation_sentences

gr = pytest.importorskip("gradio", reason="gradio comes with the webui and the page's environment")


def build(fake_host, host_controls=None):
    from lib_negtrans.apps.webui.panel import script_panel

    return script_panel(lambda: ["None", "neg-render"], lambda: ["None", "neg-render", "new"], host_controls or {})


def events(page):
    """Each event's function, and what the browser is told of it."""
    functions = page.fns.values() if isinstance(page.fns, dict) else page.fns  # a list in gradio 3
    return list(zip((function.fn for function in functions), page.get_config_file()["dependencies"], strict=True))


def test_inputs_are_the_argument_list_with_its_defaults(fake_host):
    with gr.Blocks():
        for _ in range(3):  # the API asks for the panel twice more
            panel = build(fake_host)
    assert len(panel.inputs) == len(arguments.NAMES)
    values = arguments.parse([component.value for component in panel.inputs])
    assert values == arguments.parse([{}])
    assert all(component.label for component in panel.inputs)
    assert all(component.elem_id.startswith("negtrans_") for component in panel.inputs)


def test_every_control_but_the_version_is_pasted(fake_host):
    with gr.Blocks():
        panel = build(fake_host)
    assert [component for component, _ in panel.infotext_fields] == panel.inputs[1:]


def test_the_version_is_never_saved_as_a_default(fake_host):
    with gr.Blocks():
        assert build(fake_host).inputs[0].do_not_save_to_config


def test_presets_set_the_hosts_sliders_of_the_same_page_only(fake_host):
    from lib_negtrans.apps.panels.translation_panel import preset_updates

    with gr.Blocks() as page:
        steps = gr.Slider(1, 150, value=20, label="Sampling steps")
        build(fake_host, {"steps": steps})
    with gr.Blocks() as another:
        build(fake_host, {"steps": steps})
    assert any(steps._id in event["outputs"] for _, event in events(page))
    assert not any(steps._id in event["outputs"] for _, event in events(another))
    assert [update["value"] for update in preset_updates(["order", "steps"], "fashionr2r")] == ["published", 50]


def test_layer_counts_are_those_of_the_method():
    assert [controlled_layers(flag) for flag in (1, 64, 256, 1024, 4096)] == [0, 5, 10, 15, 16]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "The render is inverted in 9 of 50 steps, up to noise level 281 of 1000. The seed"),
        ({}, "In the first 7 of them, 10 of 16"),
        ({}, "about 28 model calls"),
        ({"solver": "ddim", "step_share": 1.0}, "level 281 of 1000, and 9 more model calls make this exact. The seed"),
        ({"solver": "difference", "step_share": 0.4}, "in 6 of 50 steps, up to noise level 281 of 1000. The seed"),
        (
            TRANSLATION_PRESETS["fashionr2r"][1] | {"source_prompt": "a render"},
            "in 15 of 50 steps, up to noise level 281 of 1000. The seed",
        ),
        ({"start": "noise"}, "Noise from the seed is added"),
        ({"tac_ratio": 0.0}, "Attention control is off"),
        ({"tac_blend": 0.0}, "Attention control is off"),
        ({"tac_blend": 0.25}, "10 of 16 attention layers hold 25 % of the render"),
        ({"tac_depths": "1 0.5 0 0.2"}, "In the first 9 of them, 11 of 16"),
        ({"guidance": "topk", "topk_ratio": 0.05}, "using only its strongest 5 %"),
        ({"guidance": "sega", "prompt": "a photo"}, "about 37 model calls"),
        ({"strength": 0.9}, "changes the picture a lot"),
        ({"strength": 0.0}, "This cannot work: Strength must be above 0"),
        ({"order": "published"}, "This cannot work: The published inversion order"),
    ],
)
def test_the_line_says_what_will_happen(changes, words):
    assert words in " ".join(translation_sentences(TranslationParams(**changes), "neg-render"))


def test_the_line_names_what_it_leads_away_from():
    def said(embedding=None, weight=1.0, negative_prompt=""):
        return " ".join(translation_sentences(TranslationParams(negative_prompt=negative_prompt), embedding, weight))

    assert "away from (neg-render:1.5) and the negative prompt, with" in said("neg-render", 1.5, "blurry")
    assert "away from neg-render, with CFG" in said("neg-render")
    assert "away from the negative prompt, with CFG" in said(negative_prompt="blurry")
    assert "nothing to lead away from: choose a negative embedding" in said()


def test_chips_are_what_differs_from_the_preset_and_put_it_back(fake_host):
    from lib_negtrans.apps.panels.translation_panel import reset_updates
    from lib_negtrans.apps.panels.translation_summary import summary_html

    # the sliders of a fresh page of the webui
    values = TranslationParams().to_dict() | {"steps": 20, "cfg_scale": 7.0, "strength": 0.75, "topk_ratio": 0.9}
    shown = summary_html("default", "neg-render", 1.0, values)
    assert re.findall("data-negtrans-reset='(.*?)'", shown) == ["strength", "steps", "cfg_scale", "all"]
    assert "<span>Steps</span><span>20</span>\u2192<span>50</span>" in shown and "data-changed=''" in shown
    names = ["strength", "tac_ratio", "steps"]
    one = reset_updates(names, "steps#1", "texture")
    assert one[2]["value"] == 50 and [u.get("value") for u in one[:2]] == [None, None] and one[3] == ""
    assert [u["value"] for u in reset_updates(names, "all#2", "texture")[:3]] == [0.3, 1.0, 50]
    values |= {"guidance": "topk", "strength": 0.0}
    shown = summary_html("default", "None", 1.0, values)
    assert "This cannot work" in shown and "data-changed='guidance'" in shown
    assert "negtrans-chips" not in summary_html("default", None, 1.0, TranslationParams().to_dict())


def test_the_panel_is_calm(fake_host):
    """Preset, embedding, weight, mask and background are open, the summary under them, the others in closed groups."""
    with gr.Blocks() as page:
        build(fake_host)
    config = page.get_config_file()
    by_id = {c["id"]: c["props"] | {"type": c["type"]} for c in config["components"]}

    def walk(node, group=None):
        props = by_id.get(node["id"], {})
        if props.get("type") == "accordion":
            assert props["open"] is False
            group = props["label"]
        yield (props.get("elem_id") or "").removeprefix("negtrans_img2img_"), group
        for child in node.get("children", ()):
            yield from walk(child, group)

    places = dict(walk(config["layout"]))
    order = list(places)
    open_options = [name for name in arguments.PANEL_OPTIONS if places[name] is None]
    assert open_options == ["mask", "background"]
    assert {places[name] for name in arguments.PANEL_OPTIONS} == {None, "Inversion", "Attention", "Guidance", "Colour"}
    assert order.index("background") < order.index("summary") < order.index("source_prompt")
    assert "apply_preset" not in places


def test_what_does_nothing_is_hidden_until_its_guidance_is_chosen(fake_host):
    def visible(blocks):
        props = {c["props"].get("elem_id"): c["props"] for c in blocks.get_config_file()["components"]}
        return {n for n in arguments.PANEL_OPTIONS if props[f"negtrans_img2img_{n}"]["visible"]}

    with gr.Blocks() as page:
        panel = dict(zip(arguments.NAMES, build(fake_host).inputs, strict=True))
    by_guidance = {name for name in arguments.PANEL_OPTIONS if name.startswith(("topk", "sega"))}
    hidden = by_guidance | {"background", "fixed_point"}
    assert visible(page) == set(arguments.PANEL_OPTIONS) - hidden and len(by_guidance) == 6
    topk, mask = {"topk_ratio"}, {"background"}
    for hidden, cases in (
        (by_guidance, {"cfg": set(), "topk": topk, "sega": by_guidance - topk}),
        (mask, {"none": set(), "border": mask}),
        ({"colour_strength"}, {"off": set(), "latent": {"colour_strength"}}),
    ):
        ids = {panel[name]._id for name in hidden}
        change = next(function for function, event in events(page) if ids == set(event["outputs"]))
        order = [name for name in arguments.PANEL_OPTIONS if name in hidden]
        for value, shown in cases.items():
            updates = change(value) if len(order) > 1 else [change(value)]
            assert {name for name, update in zip(order, updates, strict=True) if update["visible"]} == shown


def test_every_preset_is_explained_in_the_panel():
    from lib_negtrans.apps.panels.translation_panel import preset_sentence

    for name, (sentence, _values) in TRANSLATION_PRESETS.items():
        assert sentence.endswith(".") and html.escape(sentence) in preset_sentence(name)
    assert preset_sentence(None) == preset_sentence("gone") == "<p class='negtrans-preset'></p>"


def test_use_in_img2img_leaves_the_page_ready(fake_host, monkeypatch):
    """Script and embedding are chosen and the preset's values on the page's sliders; no text is typed."""
    from lib_negtrans import TITLE
    from lib_negtrans.apps.webui import train_tab

    monkeypatch.setattr(train_tab, "manager", lambda: SimpleNamespace(snapshot=lambda: SimpleNamespace(name="neg-x")))
    with gr.Blocks() as page:
        sliders = {"steps": gr.Slider(1, 150, value=20), "strength": gr.Slider(0, 1, value=0.75, step=0.01)}
        panel = build(fake_host, {**sliders, "negative_prompt": gr.Textbox()}).panel
        choice, button = gr.Dropdown(choices=["None", TITLE]), gr.Button("Use in img2img")
        script = SimpleNamespace(title=lambda: TITLE, panel=panel, switch=[])
        runner = SimpleNamespace(scripts=[script], inputs=[choice])
        monkeypatch.setattr(fake_host.modules["modules.scripts"], "scripts_img2img", runner, raising=False)
        train_tab.connect_use(button)
    function, event = next(wired for wired in events(page) if "negtransShowImg2img" in wired[1].values())
    expected = [choice, panel.embedding, sliders["steps"], sliders["strength"]]
    assert event["outputs"] == [component._id for component in expected]
    assert [update["value"] for update in function("natural")] == [TITLE, "neg-x", 50, 0.5]


def test_a_slider_stands_under_the_gallery_and_says_nothing_yet(fake_host):
    fake_host.load_scripts()
    script = fake_host.scripts_data[-1].script_class()
    with gr.Blocks() as page:
        script.before["html_info_img2img"](SimpleNamespace(component=None))
    (made,) = (c["props"] for c in page.get_config_file()["components"] if c["type"] == "html")
    assert made["elem_id"] == "negtrans_img2img_compare"
    assert "<details hidden data-title='Realistic Translation'>" in made["value"]
    assert re.findall("<img [^>]*src='(.*?)'", made["value"]) == ["", ""]
