"""The script's argument: one object of named values. Knows no host, so that tests and clients can use it.

A request's `script_args` is `[{"version": 2, "preset": .., "embedding": .., "embedding_weight": .., OPTION: ..}]`:
names in any order, what is left out as the preset has it, an unknown name refused. The panel's values come as a list in
the order of `NAMES`, which begins with 1; requests of version 1 are such lists, and are still taken.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lib_negtrans import TITLE
from lib_negtrans.embeddings import NO_EMBEDDING, chosen_embedding
from lib_negtrans.options import ParamError, is_text

from .params import TRANSLATION_PRESETS, TranslationParams, preset_values, translation_preset

VERSION, LIST_VERSION = 2, 1
# what the host has controls of its own for, by its names
HOST_OPTIONS = {
    "prompt": "prompt", "negative_prompt": "negative_prompt", "strength": "denoising_strength", "steps": "steps",
    "cfg_scale": "cfg_scale", "seed": "seed",
}  # fmt: skip
# the order of version 1's list: options that are newer than it are not in it
LIST_NAMES = (
    "version", "preset", "embedding", "embedding_weight",
    "source_prompt", "start", "fixed_point", "tac_layers", "tac_ratio", "features", "order",
    "guidance", "topk_ratio", "sega_threshold", "sega_warmup", "sega_cooldown", "sega_momentum", "sega_beta",
    "cfg_rescale", "tac_halves", "tac_blend", "tac_depths",
    "solver", "step_share", "colour", "colour_strength", "mask", "background",
)  # fmt: skip
NAMES = (*LIST_NAMES, *(n for n in TranslationParams.options() if n not in HOST_OPTIONS and n not in LIST_NAMES))
# options of TranslationParams with a control in the panel
PANEL_OPTIONS = NAMES[4:]
WEIGHT_RANGE = (0.0, 3.0)


@dataclass(frozen=True)
class PanelValues:
    """What the panel says: the negative embedding's name or None, its weight, and values of `PANEL_OPTIONS`."""

    embedding: str | None
    embedding_weight: float
    options: dict[str, Any]

    def params(self, steps: int, cfg_scale: float, strength: float) -> TranslationParams:
        """The parameters of a translation. Raises ParamError."""
        return TranslationParams.from_dict(
            {**self.options, "steps": int(steps), "cfg_scale": float(cfg_scale), "strength": float(strength)}
        )


def parse(arguments: Sequence[Any]) -> PanelValues:
    """What `named` takes, with the preset's values for what is left out. Raises ParamError in words."""
    values = named(arguments)
    defaults = translation_preset(values.get("preset") or "default").to_dict()
    options = {name: TranslationParams.typed(name, values.get(name, defaults[name])) for name in PANEL_OPTIONS}
    weight = values.get("embedding_weight", 1.0)
    low, high = WEIGHT_RANGE
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not low <= weight <= high:
        raise ParamError(f"Embedding weight must lie between {low:g} and {high:g}, not {weight!r}.")
    name = values.get("embedding")
    if name is not None and not (isinstance(name, str) and is_text(name)):
        raise ParamError(f"The negative embedding must be a name or {NO_EMBEDDING}, not {name!r}.")
    return PanelValues(chosen_embedding(name), float(weight), options)


def named(arguments: Sequence[Any]) -> dict[str, Any]:
    """Name -> value of an object alone in its list, or of a list in the order of `NAMES`; without those that are None.

    Nones may follow the object: the host counts a script's arguments. Raises ParamError in words.
    """
    if arguments and isinstance(arguments[0], Mapping):
        if any(value is not None for value in arguments[1:]):
            raise ParamError("script_args is one object: nothing but null may follow it.")
        values = dict(arguments[0])
        expected = VERSION
    elif len(arguments) in (len(NAMES), len(LIST_NAMES)):
        values = dict(zip(NAMES, arguments, strict=False))
        expected = LIST_VERSION
    else:
        raise ParamError(wrong_length(len(arguments)))
    for name in values:
        if name not in NAMES:
            raise ParamError(_unknown(name))
    version = values.pop("version", VERSION)
    if version not in (expected, str(expected)):
        raise ParamError(
            f"script_args must begin with {LIST_VERSION}, the version of the list, not {version!r}; the list is "
            f"{', '.join(NAMES)}."
            if expected == LIST_VERSION
            else f"script_args is an object of version {VERSION}, not {version!r}."
        )
    return {name: value for name, value in values.items() if value is not None}


def switched(arguments: Sequence[Any]) -> tuple[bool, list[Any]]:
    """Whether a script that is always on is to do anything, and its arguments.

    The panel's list has its switch behind it. An object needs none: who sends it wants a translation, unless it says
    `"enabled": false`; what the host has put behind it are its defaults.
    """
    if arguments and isinstance(arguments[0], Mapping):
        values = dict(arguments[0])
        return bool(values.pop("enabled", True)), [values]
    return bool(arguments and arguments[-1]), list(arguments[:-1])


def _unknown(name: str) -> str:
    if name in HOST_OPTIONS:
        return f"script_args takes no {name!r}: it is the request's own {HOST_OPTIONS[name]}."
    nearest = difflib.get_close_matches(str(name), NAMES, 1, cutoff=0)[0]
    return f"script_args takes no {name!r}: the nearest name that it takes is {nearest!r}."


def wrong_length(count: int) -> str:
    """The sentence for a list of another length."""
    return f"script_args has {count} values, {TITLE} takes one object, or {len(LIST_NAMES)}: {', '.join(LIST_NAMES)}."


def preset_of(options: dict[str, Any]) -> str | None:
    """The preset whose panel values these are, if any."""
    for name in TRANSLATION_PRESETS:
        wanted = preset_values(name)
        if all(options[key] == wanted[key] for key in PANEL_OPTIONS if key in wanted):
            return name
    return None
