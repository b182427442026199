"""The script's argument list: order, version and meaning. Knows no host, so that tests and clients can use it.

`/sdapi/v1/img2img` puts a request's `script_args` into the host's list by slice assignment: a list of another length
moves the other scripts' arguments (HOST.md 2.3). So the order is fixed here, the first argument is the list's version,
and both are checked. A new argument goes to the end with a new VERSION.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lib_negtrans.embeddings.folder import NO_EMBEDDING
from lib_negtrans.options import ParamError

from .params import TRANSLATION_PRESETS, TranslationParams

TITLE = "Realistic Translation"
VERSION = 1
# options of TranslationParams with a control of their own; steps, CFG scale and strength are the host's
PANEL_OPTIONS = (
    "source_prompt", "start", "fixed_point", "tac_layers", "tac_ratio", "features", "order",
    "guidance", "topk_ratio", "sega_threshold", "sega_warmup", "sega_cooldown", "sega_momentum", "sega_beta",
    "cfg_rescale", "tac_halves", "tac_blend", "tac_depths",
    "solver", "step_share", "colour", "colour_strength", "mask", "background",
)  # fmt: skip
NAMES = ("version", "preset", "embedding", "embedding_weight", *PANEL_OPTIONS)
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
    """The argument list in the order of `NAMES`; None takes the preset's value. Raises ParamError in words."""
    if len(arguments) != len(NAMES):
        raise ParamError(wrong_length(len(arguments)))
    values = dict(zip(NAMES, arguments, strict=True))
    if values["version"] not in (VERSION, float(VERSION), str(VERSION)):
        raise ParamError(
            f"script_args must begin with {VERSION}, the version of the list, not {values['version']!r}; "
            f"the list is {', '.join(NAMES)}."
        )
    preset = values["preset"] or "default"
    if preset not in TRANSLATION_PRESETS:
        raise ParamError(f"unknown preset {preset!r}; there are {', '.join(TRANSLATION_PRESETS)}.")
    defaults = {**_panel_defaults(), **TRANSLATION_PRESETS[preset][1]}
    options = {name: cast(name, defaults[name] if values[name] is None else values[name]) for name in PANEL_OPTIONS}
    weight = 1.0 if values["embedding_weight"] is None else values["embedding_weight"]
    low, high = WEIGHT_RANGE
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not low <= weight <= high:
        raise ParamError(f"Embedding weight must lie between {low:g} and {high:g}, not {weight!r}.")
    name = values["embedding"]
    if name is not None and not isinstance(name, str):
        raise ParamError(f"The negative embedding must be a name or {NO_EMBEDDING}, not {name!r}.")
    return PanelValues(None if name in (None, "", NO_EMBEDDING) else name, float(weight), options)


def wrong_length(count: int) -> str:
    """The sentence for a list of another length."""
    return f"script_args has {count} values, {TITLE} takes {len(NAMES)}: {', '.join(NAMES)}."


def cast(name: str, value: Any) -> Any:
    """A value from a control or a PNG as the option's type: numbers come as floats or text. Raises ParamError."""
    kind = type(getattr(TranslationParams(), name))
    if kind is str:
        if not isinstance(value, str):
            raise ParamError(f"{TranslationParams.options()[name].label} must be text, not {value!r}.")
        return value.strip()
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ParamError(f"{TranslationParams.options()[name].label} must be a number, not {value!r}.") from None
    if kind is int and number != int(number):
        raise ParamError(f"{TranslationParams.options()[name].label} must be a whole number, not {value!r}.")
    return kind(number)


def preset_of(options: dict[str, Any]) -> str | None:
    """The preset whose panel values these are, if any."""
    for name, (_text, values) in TRANSLATION_PRESETS.items():
        if all(options[key] == {**_panel_defaults(), **values}[key] for key in PANEL_OPTIONS):
            return name
    return None


def _panel_defaults() -> dict[str, Any]:
    defaults = TranslationParams()
    return {name: getattr(defaults, name) for name in PANEL_OPTIONS}


def defaults() -> list[Any]:
    """The shortest valid list: everything as the default preset has it."""
    return [VERSION, *[None] * (len(NAMES) - 1)]
