"""The translation panel, built from `TranslationParams.options()`: in the webui's script and on the standalone page.

Works in gradio 3.41 (A1111) and 4 (Forge). Element ids begin with `negtrans_`.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from lib_negtrans.embeddings import NO_EMBEDDING, chosen_embedding
from lib_negtrans.options import ParamError
from lib_negtrans.translation.params import TRANSLATION_PRESETS, TranslationParams
from lib_negtrans.translation.wording import cannot_work, describe_translation

from .components import QUIET, option_component

REFRESH_SYMBOL = "\U0001f504"


@dataclass
class TranslationPanel:
    """The components. controls: option name -> component; host: sliders elsewhere on the page, by the same names."""

    preset: Any
    embedding: Any
    embedding_weight: Any
    summary: Any
    controls: dict[str, Any]
    host: dict[str, Any]

    @property
    def everything(self) -> dict[str, Any]:
        """Option name -> component, the page's own sliders among them."""
        return {**self.controls, **self.host}

    @property
    def summarised(self) -> list[Any]:
        """The components that the summary is about."""
        return [self.embedding, self.embedding_weight, *self.everything.values()]

    def summary_html(self, embedding: str | None, weight: float | None, *values: Any) -> str:
        """What a translation with these values of `summarised` will do."""
        try:
            params = TranslationParams.from_given(dict(zip(self.everything, values, strict=True)))
            text = describe_translation(params, chosen_embedding(embedding), float(weight or 0.0))
        except ParamError as error:
            text = cannot_work(error)
        return f"<p class='negtrans-summary'>{html.escape(text)}</p>"


def build_translation_panel(
    names: Sequence[str],
    embeddings: Callable[[], list[str]],
    rescan_embeddings: Callable[[], list[str]],
    elem_prefix: str = "negtrans_",
    host: Mapping[str, Any] | None = None,
    weight_range: tuple[float, float] = (0.0, 3.0),
    advanced: Sequence[str] = (),
) -> TranslationPanel:
    """Build the panel in the current gradio context.

    names: the options with a control here; those that the parameters call advanced, and those in `advanced`, are in an
    accordion; those that do nothing, as the others stand, are hidden. host: sliders that are on the page
    already, by option name: a preset sets them and the summary reads them. embeddings() gives the dropdown's choices,
    "None" first; rescan_embeddings() the same after looking at the disk.
    """
    options, defaults = TranslationParams.options(), TranslationParams()
    behind = [name for name in names if options[name].advanced or name in advanced]

    def control(name: str) -> Any:
        component = option_component(options[name], getattr(defaults, name), f"{elem_prefix}{name}")
        component.visible = defaults.applies(name)
        return component

    controls: dict[str, Any] = {}
    with gr.Row(elem_id=f"{elem_prefix}preset_row"):
        preset = gr.Dropdown(
            label="Preset", choices=list(TRANSLATION_PRESETS), value="default", elem_id=f"{elem_prefix}preset",
            info="Sets the options below, and also steps, CFG scale and strength above.",
        )  # fmt: skip
        apply_preset = gr.Button("Apply preset", elem_id=f"{elem_prefix}apply_preset", scale=0, min_width=120)
    sentence = gr.HTML(preset_sentence("default"), elem_id=f"{elem_prefix}preset_sentence")
    # also when a picture's text sets it
    preset.change(fn=preset_sentence, inputs=[preset], outputs=[sentence], **QUIET)
    with gr.Row(elem_id=f"{elem_prefix}embedding_row"):
        embedding = gr.Dropdown(
            label="Negative embedding", choices=embeddings(), value=NO_EMBEDDING, elem_id=f"{elem_prefix}embedding",
            info="It is put in front of what you type in the negative prompt.",
        )  # fmt: skip
        refresh = gr.Button(
            REFRESH_SYMBOL, elem_id=f"{elem_prefix}refresh_embeddings", elem_classes=["tool"], scale=0, min_width=40
        )
        # pressed by the page's script when the panel comes into sight: a training may have added one meanwhile
        relist = gr.Button("List", elem_id=f"{elem_prefix}list_embeddings", elem_classes=["negtrans_hidden"])
        weight = gr.Slider(
            label="Embedding weight", minimum=weight_range[0], maximum=weight_range[1], step=0.05, value=1.0,
            elem_id=f"{elem_prefix}embedding_weight",
            info="A higher weight pushes away more strongly. 1 is the embedding as it was trained.",
        )  # fmt: skip
    for name in names:
        if name not in behind:
            controls[name] = control(name)
    if behind:
        with gr.Accordion("More options", open=False, elem_id=f"{elem_prefix}more"):
            for name in behind:
                controls[name] = control(name)
    panel = TranslationPanel(
        preset, embedding, weight, gr.HTML(elem_id=f"{elem_prefix}summary"), {name: controls[name] for name in names},
        dict(host or {}),
    )  # fmt: skip
    panel.summary.value = panel.summary_html(*(component.value for component in panel.summarised))
    _connect(panel, {refresh: rescan_embeddings, relist: embeddings}, apply_preset)
    return panel


def preset_updates(panel_names: Sequence[str], preset: str) -> list[Any]:
    """A gradio update for each option that a preset sets; options that it leaves out go to their defaults."""
    defaults, values = TranslationParams(), TRANSLATION_PRESETS[preset][1]
    return [gr.update(value=values.get(name, getattr(defaults, name))) for name in panel_names]


def preset_sentence(preset: str | None) -> str:
    """What a preset does, as HTML; empty for an unknown name."""
    text = TRANSLATION_PRESETS[preset][0] if preset in TRANSLATION_PRESETS else ""
    return f"<p class='negtrans-preset'>{html.escape(text)}</p>"


def relisted(listed: Callable[[], list[str]], current: str | None) -> Any:
    """The update of a dropdown of embeddings to those that are listed now."""
    choices = listed()
    # no value where it can stay: one that was chosen or pasted meanwhile must not be put back
    return gr.update(choices=choices) if current in choices else gr.update(choices=choices, value=NO_EMBEDDING)


def _connect(panel: TranslationPanel, lists: Mapping[Any, Callable[[], list[str]]], apply_preset: Any) -> None:
    everything = panel.everything
    # "input" is a user's doing only: a pasted preset must not overwrite the other pasted values
    for event in (panel.preset.input, apply_preset.click):
        event(partial(preset_updates, list(everything)), [panel.preset], list(everything.values()), **QUIET)

    for button, listed in lists.items():
        button.click(partial(relisted, listed), [panel.embedding], [panel.embedding], **QUIET)
    _show_what_applies(panel.controls)
    for component in panel.summarised:
        component.change(fn=panel.summary_html, inputs=panel.summarised, outputs=[panel.summary], **QUIET)


def _show_what_applies(controls: Mapping[str, Any]) -> None:
    """Hide the controls that do nothing with what another one says, whenever that changes."""
    ruled: dict[str, dict[str, tuple[Any, ...]]] = {}  # ruler -> option -> the ruler's values under which it is shown
    for name in controls:
        ruler, values = TranslationParams.options()[name].applies or (None, ())
        if ruler is not None and ruler in controls:
            ruled.setdefault(ruler, {})[name] = values
    for ruler, names in ruled.items():

        def shown(value: Any, wanted: Sequence[tuple[Any, ...]] = tuple(names.values())) -> list[Any]:
            return [gr.update(visible=value in values) for values in wanted]

        one_or_all = shown if len(names) > 1 else lambda value, shown=shown: shown(value)[0]
        controls[ruler].change(one_or_all, [controls[ruler]], [controls[name] for name in names], **QUIET)
