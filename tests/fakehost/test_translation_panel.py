"""The panel: what it returns to the host, and the line that says what will happen."""

from __future__ import annotations

import html

import pytest

from lib_negtrans.translation import arguments
from lib_negtrans.translation.params import TRANSLATION_PRESETS, TranslationParams
from lib_negtrans.translation.wording import controlled_layers, describe_translation

gr = pytest.importorskip("gradio", reason="gradio comes with the webui and the page's environment")


def build(fake_host, host_controls=None):
    from lib_negtrans.apps.webui.panel import script_panel

    return script_panel(lambda: ["None", "neg-render"], lambda: ["None", "neg-render", "new"], host_controls or {})


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
        assert any(steps._id in d["outputs"] for d in page.dependencies)
    with gr.Blocks() as another:
        build(fake_host, {"steps": steps})
        assert not any(steps._id in d["outputs"] for d in another.dependencies)
    assert [update["value"] for update in preset_updates(["order", "steps"], "fashionr2r")] == ["published", 50]


def test_layer_counts_are_those_of_the_method():
    assert [controlled_layers(flag) for flag in (1, 64, 256, 1024, 4096)] == [0, 5, 10, 15, 16]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "The render is inverted in 12 of 50 steps, up to noise level 281 of 1000"),
        ({}, "In the first 10 of them, 10 of 16"),
        ({}, "about 45 model calls"),
        ({}, "level 281 of 1000, and 9 more model calls make this exact. The seed"),
        ({"solver": "difference", "step_share": 0.4}, "in 6 of 50 steps, up to noise level 281 of 1000. The seed"),
        (
            TRANSLATION_PRESETS["fashionr2r"][1] | {"source_prompt": "a render"},
            "in 15 of 50 steps, up to noise level 281 of 1000. The seed",
        ),
        ({"start": "noise"}, "Noise from the seed is added"),
        ({"tac_ratio": 0.0}, "Attention control is off"),
        ({"tac_blend": 0.0}, "Attention control is off"),
        ({"tac_blend": 0.25}, "10 of 16 attention layers hold 25 % of the render"),
        ({"tac_depths": "1 0.5 0 0.2"}, "In the first 12 of them, 11 of 16"),
        ({"guidance": "topk", "topk_ratio": 0.05}, "using only its strongest 5 %"),
        ({"guidance": "sega", "prompt": "a photo"}, "about 57 model calls"),
        ({"strength": 0.9}, "changes the picture a lot"),
        ({"strength": 0.0}, "This cannot work: Strength must be above 0"),
        ({"order": "published"}, "This cannot work: The published inversion order"),
    ],
)
def test_the_line_says_what_will_happen(changes, words):
    assert words in describe_translation(TranslationParams(**changes))


def test_the_line_names_the_embedding():
    assert "away from neg-render (weight 1.5) and" in describe_translation(TranslationParams(), "neg-render", 1.5)


def test_what_does_nothing_is_hidden_until_its_guidance_is_chosen(fake_host):
    def visible(blocks):
        props = {c["props"].get("elem_id"): c["props"] for c in blocks.get_config_file()["components"]}
        return {n for n in arguments.PANEL_OPTIONS if props[f"negtrans_img2img_{n}"]["visible"]}

    with gr.Blocks() as page:
        panel = dict(zip(arguments.NAMES, build(fake_host).inputs, strict=True))
    by_guidance = {name for name in arguments.PANEL_OPTIONS if name.startswith(("topk", "sega"))}
    assert visible(page) == set(arguments.PANEL_OPTIONS) - by_guidance - {"background"} and len(by_guidance) == 6
    topk, mask = {"topk_ratio"}, {"background"}
    for hidden, cases in (
        (by_guidance, {"cfg": set(), "topk": topk, "sega": by_guidance - topk}),
        (mask, {"none": set(), "border": mask}),
        ({"colour_strength"}, {"off": set(), "latent": {"colour_strength"}}),
    ):
        event = next(
            function
            for function, dependency in zip(page.fns, page.dependencies, strict=True)
            if {panel[name]._id for name in hidden} == set(dependency["outputs"])
        )
        order = [name for name in arguments.PANEL_OPTIONS if name in hidden]
        for value, shown in cases.items():
            updates = event.fn(value) if len(order) > 1 else [event.fn(value)]
            assert {name for name, update in zip(order, updates, strict=True) if update["visible"]} == shown


def test_every_preset_is_explained_in_the_panel():
    from lib_negtrans.apps.panels.translation_panel import preset_sentence

    for name, (sentence, _values) in TRANSLATION_PRESETS.items():
        assert sentence.endswith(".") and html.escape(sentence) in preset_sentence(name)
    assert preset_sentence(None) == preset_sentence("gone") == "<p class='negtrans-preset'></p>"
