"""What was used, as PNG text in the webui's form, and back."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from lib_negtrans import TITLE, __version__
from lib_negtrans.models.protocol import UsedLora

from .params import TranslationParams

_PAIR = re.compile(r'\s*(\w[\w \-/]*?):\s*("(?:\\.|[^"\\])+"|[^,]*)(?:,|$)')
VERSION_KEY = "NegTrans version"
# the negative embedding has keys of its own where it is chosen from a list: the negative prompt is then as it was typed
EMBEDDING_KEY = "NegTrans negative embedding"
WEIGHT_KEY = "NegTrans embedding weight"
# of a student's picture: which file made it
STUDENT_KEY, STUDENT_HASH_KEY = "NegTrans student", "NegTrans student hash"
_NEGATIVE = "Negative prompt:"
LORA_HASHES_KEY = "Lora hashes"  # the webui's, by which it finds the files again
_HASH_DIGITS = 12
_LORA = re.compile(r"\s*<lora:([^:>]+)(?::([^:>]*))?[^>]*>", re.IGNORECASE)
# the webui's own keys stand for ours where these are missing
_SHARED_KEYS = {"steps": "Steps", "cfg_scale": "CFG scale", "strength": "Denoising strength"}


def _quote(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:"\n]', text) or text != text.strip() else text


def translation_fields(params: TranslationParams) -> dict[str, object]:
    """Infotext key -> value for every option that has a key; empty texts, and what does nothing here, are left out."""
    named = {name: opt.infotext for name, opt in params.options().items() if opt.infotext and params.applies(name)}
    fields = {key: getattr(params, name) for name, key in named.items()}
    return {VERSION_KEY: __version__} | {key: value for key, value in fields.items() if value != ""}


def format_infotext(
    params: TranslationParams,
    size: tuple[int, int],
    extra: dict[str, object] | None = None,
    loras: Sequence[UsedLora] = (),
) -> str:
    """The `parameters` text of a PNG: prompt, negative prompt and one line of pairs; size is (width, height).

    LoRAs stand in it as if the webui had loaded them: `<lora:name:weight>` in the prompt, and their hashes.
    """
    fields = {
        "Steps": params.steps, "Sampler": "DDIM", "CFG scale": params.cfg_scale, "Seed": params.seed,
        "Size": f"{size[0]}x{size[1]}", "Denoising strength": params.strength, "Script": TITLE,
        **translation_fields(params),
    }  # fmt: skip
    return _text(params.prompt, params.negative_prompt, fields, extra, loras)


def student_infotext(
    params: TranslationParams,
    student: tuple[str, str],
    options: Sequence[str],
    size: tuple[int, int],
    extra: dict[str, object] | None = None,
    loras: Sequence[UsedLora] = (),
) -> str:
    """`format_infotext` of a student's picture: one step, the student's (name, sha256), and the options it has."""
    kept = {key: value for key, value in translation_fields(params).items() if key in _keys(options)}
    fields = {
        "Steps": 1, "Size": f"{size[0]}x{size[1]}", "Script": TITLE, VERSION_KEY: __version__,
        STUDENT_KEY: student[0], STUDENT_HASH_KEY: student[1][:_HASH_DIGITS], **kept,
    }  # fmt: skip
    return _text("", "", fields, extra, loras)


def _keys(options: Sequence[str]) -> set[str | None]:
    return {TranslationParams.options()[name].infotext for name in options}


def _text(
    prompt: str,
    negative_prompt: str,
    fields: dict[str, object],
    extra: dict[str, object] | None,
    loras: Sequence[UsedLora],
) -> str:
    tags = " ".join(f"<lora:{lora.name}:{lora.weight:g}>" for lora in loras)
    hashes = ", ".join(f"{re.sub('[:,]', '', lora.name)}: {lora.webui_hash[:_HASH_DIGITS]}" for lora in loras)
    fields = {**fields, **({LORA_HASHES_KEY: hashes} if hashes else {}), **(extra or {})}
    pairs = ", ".join(f"{key}: {_quote(value)}" for key, value in fields.items())
    first = " ".join(filter(None, (prompt, tags)))
    return "\n".join([first, *([f"{_NEGATIVE} {negative_prompt}"] if negative_prompt else []), pairs])


def parse_pairs(line: str) -> dict[str, str]:
    """The pairs of an infotext's last line, unquoted."""
    return {
        key: json.loads(value) if value.startswith('"') and value.endswith('"') else value.strip()
        for key, value in _PAIR.findall(line)
    }


def parse_infotext(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt and the pairs of a PNG's `parameters`; all empty for a text of another kind."""
    *lines, last = text.strip().split("\n")
    pairs = parse_pairs(last)
    if "Steps" not in pairs:
        return "", "", {}
    at = next((number for number, line in enumerate(lines) if line.startswith(_NEGATIVE)), len(lines))
    negative = "\n".join(lines[at:])[len(_NEGATIVE) :].strip()
    return "\n".join(lines[:at]).strip(), negative, pairs


def loras_in(prompt: str) -> tuple[str, list[tuple[str, float]]]:
    """A prompt without its `<lora:name:weight>`, and the names and weights of these."""
    found = [(name, _number(weight)) for name, weight in _LORA.findall(prompt)]
    return _LORA.sub("", prompt).strip(), found


def _number(weight: str) -> float:
    try:
        return float(weight)
    except ValueError:
        return 1.0


def settings_from_infotext(text: str) -> dict[str, object]:
    """Every option of a translation that a PNG's `parameters` name, prompts included, typed.

    {} for no picture of ours, and for a student's, which these options did not make.

    Raises ParamError for a bad number.
    """
    prompt, negative, pairs = parse_infotext(text)
    if STUDENT_KEY in pairs or not any(key.startswith("NegTrans ") for key in pairs):
        return {}
    options = TranslationParams.options()
    shared = {str(options[name].infotext): pairs[key] for name, key in _SHARED_KEYS.items() if key in pairs}
    result: dict[str, object] = {"prompt": prompt, "negative_prompt": negative}
    if "Seed" in pairs:
        result["seed"] = TranslationParams.typed("seed", pairs["Seed"])
    # an empty text is not written, nor what does nothing
    result |= {name: TranslationParams.unwritten(name) for name, opt in options.items() if opt.infotext}
    return result | translation_params_from_fields({**shared, **pairs})


def translation_params_from_fields(fields: dict[str, str]) -> dict[str, object]:
    """Field name -> typed value for every infotext key of ours that is present. Raises ParamError for a bad number."""
    options = TranslationParams.options()
    return {n: TranslationParams.typed(n, fields[o.infotext]) for n, o in options.items() if o.infotext in fields}
