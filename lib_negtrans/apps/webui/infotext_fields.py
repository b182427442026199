"""What the script writes into a picture's text beside the shared keys, and how a control reads its value back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lib_negtrans import TITLE
from lib_negtrans.embeddings import NO_EMBEDDING
from lib_negtrans.translation import arguments
from lib_negtrans.translation.infotext import EMBEDDING_KEY, WEIGHT_KEY
from lib_negtrans.translation.params import TranslationParams

HASH_KEY = "NegTrans embedding hash"
PRESET_KEY = "NegTrans preset"
SCRIPT_KEY = "NegTrans script"  # in pasted fields only: what "Script" was, where we are not in the dropdown
STOOD_DOWN_KEY = "NegTrans guidance stood down"  # what was asked for where neutral-prompt combined the predictions


def field_names() -> list[str]:
    """Every key of ours, in the order of the controls: the names for the host's "Send to"."""
    options = TranslationParams.options()
    return [PRESET_KEY, EMBEDDING_KEY, WEIGHT_KEY, *(options[name].infotext or "" for name in arguments.PANEL_OPTIONS)]


def is_ours(fields: dict[str, str]) -> bool:
    """Whether a parsed infotext is that of a translation."""
    return TITLE in (fields.get("Script"), fields.get(SCRIPT_KEY))


def reader(name: str) -> Callable[[dict[str, str]], Any]:
    """From a parsed infotext to the value of one control; None, which changes nothing, for a picture not of ours."""

    def read(fields: dict[str, str]) -> Any:
        if not is_ours(fields):
            return None
        if name == "preset":
            return fields.get(PRESET_KEY)
        if name == "embedding":
            return fields.get(EMBEDDING_KEY, NO_EMBEDDING)
        weighs = name == "embedding_weight"
        options, unwritten = TranslationParams.options(), TranslationParams.unwritten
        key, default = (WEIGHT_KEY, 1.0) if weighs else (options[name].infotext, unwritten(name))
        if key not in fields:  # an empty text is left out of the picture
            return default
        try:
            return float(fields[key]) if weighs else TranslationParams.typed(name, fields[key])
        except ValueError:  # ParamError too
            return default

    return read
