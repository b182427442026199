"""The script's panel in the webui: the shared builder, the version argument, and how a picture's text fills it."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.context import Context

from lib_negtrans import TITLE
from lib_negtrans.apps.panels.before_after import before_after_html
from lib_negtrans.apps.panels.components import QUIET, in_browser, option_component
from lib_negtrans.apps.panels.translation_panel import TranslationPanel, build_translation_panel
from lib_negtrans.apps.panels.translation_summary import CANVAS_SET, CANVAS_STRETCHES, STRENGTH
from lib_negtrans.options import Option
from lib_negtrans.translation import arguments
from lib_negtrans.translation.params import TranslationParams

from . import infotext_fields as infotext

ELEM_PREFIX = "negtrans_img2img_"
ENABLED = "Translate the picture when Generate is pressed"
COMPARE = "Compare with the render"


@dataclass
class ScriptPanel:
    """What `Script.ui` gives the host: inputs in the order of `arguments.NAMES`, and the paste fields.

    panel: None where the host asks for the inputs alone, on another page than its own. switch: of a script that is
    always on, what is to be open and ticked; whether it is ticked is the last of the inputs.
    """

    panel: TranslationPanel | None
    inputs: list[Any]
    infotext_fields: list[tuple[Any, Callable[[dict[str, str]], Any]]]
    paste_field_names: list[str]
    switch: list[Any] = field(default_factory=list)


def script_panel(
    embeddings: Callable[[], list[str]],
    rescan_embeddings: Callable[[], list[str]],
    host_controls: Mapping[str, Any],
    always_on: bool = False,
) -> ScriptPanel:
    """Build the panel. host_controls of another page (the API asks for the panel on its own) are left alone.

    always_on: it stands beside other scripts' panels, folded and with a switch.
    """
    if not always_on:
        return _panel(embeddings, rescan_embeddings, host_controls)
    with gr.Accordion(TITLE, open=False, elem_id=f"{ELEM_PREFIX}always_on") as accordion:
        enabled: Any = gr.Checkbox(label=ENABLED, value=False, elem_id=f"{ELEM_PREFIX}enabled")
        panel = _panel(embeddings, rescan_embeddings, host_controls)
    enabled.do_not_save_to_config = True
    panel.inputs.append(enabled)
    panel.infotext_fields.append((enabled, infotext.is_ours))
    panel.switch = [accordion, enabled]
    return panel


def _panel(
    embeddings: Callable[[], list[str]], rescan_embeddings: Callable[[], list[str]], host_controls: Mapping[str, Any]
) -> ScriptPanel:
    version: Any = gr.Number(
        label="NegTrans argument list version", value=arguments.LIST_VERSION, precision=0, visible=False,
        elem_id=f"{ELEM_PREFIX}version",
    )  # fmt: skip
    version.do_not_save_to_config = True  # an old ui-config.json must not hide a newer version
    blocks = getattr(Context.root_block, "blocks", {})
    on_this_page = {name: c for name, c in host_controls.items() if blocks.get(c._id) is c}
    typed = [name for name in ("prompt", "negative_prompt") if name in on_this_page]
    prompts: dict[str, Any] = {name: on_this_page.pop(name) for name in typed}

    def above_the_options() -> None:
        if "strength" in on_this_page:
            _mirror(on_this_page["strength"])
        gr.HTML(_canvas_html(), elem_id=f"{ELEM_PREFIX}canvas")

    panel = build_translation_panel(
        arguments.PANEL_OPTIONS, embeddings, rescan_embeddings, ELEM_PREFIX, on_this_page, arguments.WEIGHT_RANGE,
        prompts, above_the_options,
    )  # fmt: skip
    components = {
        "version": version,
        "preset": panel.preset,
        "embedding": panel.embedding,
        "embedding_weight": panel.embedding_weight,
        **panel.controls,
    }
    fields = [(components[name], _reader(name, embeddings)) for name in arguments.NAMES if name != "version"]
    inputs = [components[name] for name in arguments.NAMES]
    return ScriptPanel(panel if on_this_page else None, inputs, fields, infotext.field_names())


def add_comparison() -> None:
    """Render and translation under a slider: hidden until the page's script finds a translation in the gallery."""
    slider = before_after_html("", "", (1, 1))
    folded = f"<details hidden data-title='{TITLE}'><summary>{COMPARE}</summary>{slider}</details>"
    gr.HTML(folded, elem_id=f"{ELEM_PREFIX}compare")


def _mirror(strength: Any) -> None:
    """The host's denoising strength once more, where the panel's other options are."""
    described = TranslationParams.options()["strength"]
    shown = Option(STRENGTH, described.help, strength.minimum, strength.maximum, strength.step)
    mirror = option_component(shown, strength.value, f"{ELEM_PREFIX}strength")
    mirror.do_not_save_to_config = True
    # in the browser alone, so that neither runs behind the other while one is moved
    copied = in_browser("(value) => value") | QUIET
    mirror.input(None, [mirror], [strength], **copied)
    strength.change(None, [strength], [mirror], **copied)


def _canvas_html() -> str:
    """Empty; the templates are for the page's script."""
    stretches, set_size = (html.escape(text, quote=True) for text in (CANVAS_STRETCHES, CANVAS_SET))
    return f"<div class='negtrans-canvas' data-stretches='{stretches}' data-set='{set_size}'></div>"


def _reader(name: str, embeddings: Callable[[], list[str]]) -> Callable[[dict[str, str]], Any]:
    read = infotext.reader(name)
    if name != "embedding":
        return read

    def read_embedding(fields: dict[str, str]) -> Any:
        value = read(fields)
        return None if value is None else gr.update(value=value, choices=embeddings())

    return read_embedding
