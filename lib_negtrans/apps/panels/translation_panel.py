"""The translation panel, built from `TranslationParams.options()`: in the webui's script and on the standalone page.

Works in gradio 3.41 (A1111), 4 (Forge) and 6 (the page), as all panels do. Element ids begin with `negtrans_`.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import gradio as gr

from lib_negtrans.embeddings import NO_EMBEDDING
from lib_negtrans.translation.params import TRANSLATION_PRESETS, TranslationParams, preset_values

from .components import QUIET, option_component
from .translation_summary import ALL, summary_html

REFRESH_SYMBOL = "\U0001f504"


@dataclass
class TranslationPanel:
    """The components. controls: option name -> component; host: sliders elsewhere on the page, by the same names.

    reset: a hidden text in which the page's script writes the option that is to be as the preset has it.
    prompts: the page's own by their names, which the summary reads.
    """

    preset: Any
    embedding: Any
    embedding_weight: Any
    reset: Any
    summary: Any
    controls: dict[str, Any] = field(default_factory=dict)
    host: dict[str, Any] = field(default_factory=dict)
    prompts: dict[str, Any] = field(default_factory=dict)

    @property
    def everything(self) -> dict[str, Any]:
        """Option name -> component, the page's own sliders among them."""
        return {**self.controls, **self.host}

    @property
    def summarised(self) -> list[Any]:
        """The components that the summary is about."""
        everything = [*self.everything.values(), *self.prompts.values()]
        return [self.preset, self.embedding, self.embedding_weight, *everything]

    def summary_html(self, preset: str | None, embedding: str | None, weight: float | None, *values: Any) -> str:
        """What a translation with these values of `summarised` will do, and how they differ from the preset."""
        names = [*self.everything, *self.prompts]
        return summary_html(preset, embedding, weight, dict(zip(names, values, strict=True)))


def build_translation_panel(
    names: Sequence[str],
    embeddings: Callable[[], list[str]],
    rescan_embeddings: Callable[[], list[str]],
    elem_prefix: str = "negtrans_",
    host: Mapping[str, Any] | None = None,
    weight_range: tuple[float, float] = (0.0, 3.0),
    prompts: Mapping[str, Any] = MappingProxyType({}),
    build_more: Callable[[], None] = lambda: None,
) -> TranslationPanel:
    """Build the panel in the current gradio context.

    names: the options with a control here; those of a group are in its accordion; those that do nothing, as the others
    stand, are hidden. host: sliders that are on the page already, by option name: a preset sets them and the summary
    reads them, as it reads prompts. embeddings() gives the dropdown's choices, "None" first;
    rescan_embeddings() the same after looking at the disk. build_more() adds what stands above the open options.
    """
    options, defaults = TranslationParams.options(), TranslationParams()
    controls: dict[str, Any] = {}

    def add_control(name: str) -> None:
        component = option_component(options[name], getattr(defaults, name), f"{elem_prefix}{name}")
        component.visible = defaults.applies(name)
        controls[name] = component

    preset = gr.Dropdown(
        label="Preset", choices=list(TRANSLATION_PRESETS), value="default", elem_id=f"{elem_prefix}preset",
        info="Sets all options, and also steps, CFG scale and strength.",
    )  # fmt: skip
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
    build_more()
    for name in names:
        if options[name].group is None:
            add_control(name)
    reset: Any = gr.Textbox(
        label="Reset", value="", elem_id=f"{elem_prefix}reset", elem_classes=["negtrans_hidden"], container=False
    )
    reset.do_not_save_to_config = True  # the webui's, which keeps what it calls defaults
    summary = gr.HTML(elem_id=f"{elem_prefix}summary")
    for group in dict.fromkeys(options[name].group for name in names):
        if group is not None:
            with gr.Accordion(group, open=False, elem_id=f"{elem_prefix}group_{group.lower()}"):
                for name in names:
                    if options[name].group == group:
                        add_control(name)
    controls = {name: controls[name] for name in names}
    panel = TranslationPanel(preset, embedding, weight, reset, summary, controls, dict(host or {}), dict(prompts))
    summary.value = panel.summary_html(*(component.value for component in panel.summarised))
    _connect(panel, {refresh: rescan_embeddings, relist: embeddings})
    return panel


def preset_updates(panel_names: Sequence[str], preset: str) -> list[Any]:
    """A gradio update for each option: those that a preset leaves out go to their defaults, what none sets stays."""
    values = preset_values(preset)
    return [gr.update(value=values[name]) if name in values else gr.update() for name in panel_names]


def reset_updates(panel_names: Sequence[str], asked: str, preset: str) -> list[Any]:
    """The updates of a click on a chip, whose option's name (or ALL) is before the "#"; the last empties the text."""
    wanted = (asked or "").partition("#")[0]
    updates = preset_updates(panel_names, preset if preset in TRANSLATION_PRESETS else "default")
    chosen = [u if wanted in (ALL, name) else gr.update() for name, u in zip(panel_names, updates, strict=True)]
    return [*chosen, ""]


def preset_sentence(preset: str | None) -> str:
    """What a preset does, as HTML; empty for an unknown name."""
    text = TRANSLATION_PRESETS[preset][0] if preset in TRANSLATION_PRESETS else ""
    return f"<p class='negtrans-preset'>{html.escape(text)}</p>"


def relisted(listed: Callable[[], list[str]], current: str | None) -> Any:
    """The update of a dropdown of embeddings to those that are listed now."""
    choices = listed()
    # no value where it can stay: one that was chosen or pasted meanwhile must not be put back
    return gr.update(choices=choices) if current in choices else gr.update(choices=choices, value=NO_EMBEDDING)


def _connect(panel: TranslationPanel, lists: Mapping[Any, Callable[[], list[str]]]) -> None:
    names, components = list(panel.everything), list(panel.everything.values())
    # "input" is a user's doing only: a pasted preset must not overwrite the other pasted values
    panel.preset.input(partial(preset_updates, names), [panel.preset], components, **QUIET)
    panel.reset.input(partial(reset_updates, names), [panel.reset, panel.preset], [*components, panel.reset], **QUIET)
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
