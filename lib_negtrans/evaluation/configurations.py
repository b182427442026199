"""Named configurations to compare: `default,no-tac,none` and, with changes, `no-tac:strength=.5:steps=30`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lib_negtrans.core.guidance import KINDS as GUIDANCE_KINDS
from lib_negtrans.lora.files import LoraFile
from lib_negtrans.options import ParamError
from lib_negtrans.translation.negatives import Negative, with_negatives
from lib_negtrans.translation.params import TRANSLATION_PRESETS, TranslationParams, translation_preset

# What each name changes; presets of params.py are names too. A dict may set prompts: those win over the call's.
NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "no-tac": ("no attention control", {"tac_ratio": 0.0}),
    "none": ("no embedding and no prompts: the reconstruction", {"prompt": "", "negative_prompt": ""}),
    "plain": ("plain DDIM inversion over all steps, features recomputed",
              {"solver": "ddim", "fixed_point": 0, "features": "recomputed", "step_share": 1.0}),
    "noise": ("img2img with the negative: noise instead of inversion, no attention control",
              {"start": "noise", "tac_ratio": 0.0}),
    "noise-tac": ("img2img with the negative and attention control", {"start": "noise"}),
    **{kind: (f"guidance {kind}", {"guidance": kind}) for kind in GUIDANCE_KINDS if kind != "cfg"},
}  # fmt: skip
# names for several at once
GROUPS = {"guidance": ("a row per guidance variant", ("default", *GUIDANCE_KINDS[1:]))}


@dataclass(frozen=True)
class Configuration:
    """One way to translate: its row's name, parameters, trigger word -> vectors (n, width), and LoRAs with weights."""

    name: str
    params: TranslationParams
    embeddings: Mapping[str, Tensor]
    loras: Sequence[tuple[LoraFile, float]] = ()


def describe_names() -> str:
    """One line of help: every name that `parse_configurations` knows."""
    known = {name: text for name, (text, _) in (TRANSLATION_PRESETS | NAMED | GROUPS).items()}
    return "; ".join(f"{name}: {text}" for name, text in known.items())


def parse_configurations(
    text: str,
    values: Mapping[str, Any] | None = None,
    negatives: Sequence[Negative] = (),
) -> list[Configuration]:
    """`NAME[:FIELD=VALUE]...,...` -> configurations, in order, each once; a group's changes are put on all its members.

    values: the call's parameters, for all of them; what a name sets wins over those, what the text sets over both.
    negatives: put before the negative prompt of all but "none". Raises ParamError.
    """
    found: dict[str, Configuration] = {}
    for item in _items(text):
        name, *changes = item.split(":")
        if name in TRANSLATION_PRESETS:
            base = TRANSLATION_PRESETS[name][1]
        elif name in NAMED:
            base = NAMED[name][1]
        else:
            known = [*TRANSLATION_PRESETS, *NAMED, *GROUPS]
            raise ParamError(f"unknown configuration {name!r}; there are {', '.join(known)}.")
        merged = {**(values or {}), **base, **dict(_change(change) for change in changes)}
        params = translation_preset("default", **merged)
        found[item] = Configuration(item, *with_negatives(params, negatives if name != "none" else ()))
    if not found:
        raise ParamError("--configs names nothing: give for example default,no-tac,none.")
    return list(found.values())


def _items(text: str) -> Iterator[str]:
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, *changes = item.split(":")
        members = GROUPS[name][1] if name in GROUPS else (name,)
        yield from (":".join([member, *changes]) for member in members)


def _change(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    key = key.strip().replace("-", "_")
    names = TranslationParams.options()
    if not separator or key not in names:
        raise ParamError(f"{text!r} is not FIELD=VALUE with a field of {', '.join(names)}.")
    return key, TranslationParams.typed(key, value)
