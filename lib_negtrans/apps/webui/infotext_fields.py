"""What the script writes into a picture's text beside the shared keys, and how a control reads its value back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lib_negtrans import TITLE
from lib_negtrans.embeddings import NO_EMBEDDING
from lib_negtrans.options import ParamError
from lib_negtrans.translation import arguments
from lib_negtrans.translation.params import TranslationParams

EMBEDDING_KEY = "NegTrans negative embedding"
WEIGHT_KEY = "NegTrans embedding weight"
HASH_KEY = "NegTrans embedding hash"
PRESET_KEY = "NegTrans preset"
STOOD_DOWN_KEY = "NegTrans guidance stood down"  # what was asked for where neutral-prompt combined the predictions


def field_names() -> list[str]:
    """Every key of ours, in the order of the controls: the names for the host's "Send to"."""
    options = TranslationParams.options()
    return [PRESET_KEY, EMBEDDING_KEY, WEIGHT_KEY, *(options[name].infotext for name in arguments.PANEL_OPTIONS)]


def reader(name: str) -> Callable[[dict[str, str]], Any]:
    """From a parsed infotext to the value of one control; None, which changes nothing, for a picture not of ours."""

    def read(fields: dict[str, str]) -> Any:
        if fields.get("Script") != TITLE:
            return None
        if name == "preset":
            return fields.get(PRESET_KEY)
        if name == "embedding":
            return fields.get(EMBEDDING_KEY, NO_EMBEDDING)
        if name == "embedding_weight":
            return _number(fields.get(WEIGHT_KEY), 1.0)
        option = TranslationParams.options()[name]
        default = getattr(TranslationParams(), name)
        try:
            # an empty text is left out of the picture
            return TranslationParams.typed(name, fields[option.infotext]) if option.infotext in fields else default
        except ParamError:
            return default

    return read


def _number(text: str | None, default: float) -> float:
    try:
        return default if text is None else float(text)
    except ValueError:
        return default
