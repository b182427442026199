"""What a translation will do, and how its options differ from the preset, as HTML. Pure functions, no gradio."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from lib_negtrans.embeddings import chosen_embedding
from lib_negtrans.options import ParamError
from lib_negtrans.translation.params import TRANSLATION_PRESETS, TranslationParams, preset_values
from lib_negtrans.translation.wording import cannot_work, translation_sentences

ALL = "all"  # stands for every option where one is named to be reset
DIFFERS = "These differ from the preset; a click puts one back:"
PUT_ALL_BACK = "Put all back"
# what the page's script says where the canvas has another shape than the render; it fills in the sizes
CANVAS_STRETCHES = "The render is {render} pixels and the canvas {canvas}: it would be stretched."
CANVAS_SET = "Set {size}"
STRENGTH = "Strength of change"  # the webui's own slider once more, in the panel


def summary_html(preset: str | None, embedding: str | None, weight: float | None, values: Mapping[str, Any]) -> str:
    """The sentences for these values of options, then a chip for each that is not the preset's.

    Its root carries data-changed, the groups that hold such options, for the page's script.
    """
    try:
        params = TranslationParams.from_given(dict(values))
        sentences = translation_sentences(params, chosen_embedding(embedding), float(weight or 0.0))
    except ParamError as error:
        params, sentences = None, [cannot_work(error)]
    # each in an element of its own, in which the page's script puts it into another language
    text = " ".join(f"<span>{html.escape(sentence)}</span>" for sentence in sentences)
    changed = differences(preset, params, values) if preset in TRANSLATION_PRESETS else {}
    groups = {TranslationParams.options()[name].group for name in changed} - {None}
    return (
        f"<div class='negtrans-summary' data-changed='{' '.join(sorted(g.lower() for g in groups if g))}'>"
        f"<p>{text}</p>{_chips_html(changed)}</div>"
    )


def differences(preset: str, params: TranslationParams | None, values: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Option name -> (its value, the preset's), for what has another and does something. params None: invalid."""
    wanted, found = preset_values(preset), {}
    for name, value in values.items():
        if name not in wanted or (params is not None and not params.applies(name)):
            continue
        try:
            typed = TranslationParams.typed(name, value)
        except ParamError:
            typed = value
        if typed != wanted[name]:
            found[name] = (typed, wanted[name])
    return found


def _chips_html(changed: Mapping[str, tuple[Any, Any]]) -> str:
    if not changed:
        return ""
    options = TranslationParams.options()
    chips = [
        f"<button type='button' data-negtrans-reset='{name}'><span>{html.escape(options[name].label)}</span>"
        f"<span>{_shown(value)}</span>\u2192<span>{_shown(wanted)}</span></button>"
        for name, (value, wanted) in changed.items()
    ]
    if len(chips) > 1:
        chips.append(f"<button type='button' data-negtrans-reset='{ALL}' class='negtrans-all'>{PUT_ALL_BACK}</button>")
    return f"<div class='negtrans-chips'><span>{DIFFERS}</span>{''.join(chips)}</div>"


def _shown(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return html.escape(text if len(text) <= 24 else f"{text[:23]}\u2026") or "\u2013"
