"""How LoRAs lie in files: the keys of kohya's, diffusers' and peft's layouts, and what is none. Keys and shapes only.

kohya      lora_unet_down_blocks_0_..._to_q.{lora_down.weight, lora_up.weight, lora_mid.weight, alpha}
diffusers  unet.down_blocks.0. ... .to_q.lora.{down,up}.weight, or attn1.processor.to_q_lora.{down,up}.weight
peft       base_model.model.down_blocks.0. ... .to_q.lora_{A,B}.weight; diffusers writes lora_{A,B} too
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from lib_negtrans.models.ldm_names import to_diffusers

from .names import TEXT_PREFIX, UNET_PREFIX

DOWN, UP, MID, ALPHA = "down", "up", "mid", "alpha"
PEFT_PREFIX = "base_model.model."
_KOHYA = re.compile(r"(lora_(?:unet|te)_\w+)\.(?:lora_(down|up|mid)\.weight|(alpha))")
_DOTTED = re.compile(r"(.+?)(?:\.lora_(A|B|down|up)(?:\.default)?|[._]lora(?:_linear_layer)?\.(down|up))\.weight")
_DOTTED_ALPHA = re.compile(r"(.+)\.alpha")
_BUNDLED = re.compile(r"bundle_emb\.([^.]+)\.(.+)")
_PARTS = {"A": DOWN, "B": UP}

_OTHER_KINDS = {
    "a DoRA": r"dora_scale|lora_magnitude_vector",
    "a LoHa": r"\.hada_",
    "a LoKr": r"\.lokr_",
    "an OFT": r"\.oft_",
    "an IA3": r"\.on_input$",
    "a GLoRA": r"\.[ab][12]\.weight$",
    "a file of whole differences": r"\.diff(_b)?$",
}
_OTHER_MODELS = {
    "Flux": r"(double|single)_blocks|single_transformer_blocks",
    "SD3 or another transformer": r"joint_blocks|^transformer\.|^lora_transformer_",
    "SDXL": r"^lora_te[12]_|^text_encoder_2\.|^lora_unet_(input|output|middle)_block|transformer_blocks[._][1-9]",
}
_CONTEXT_WIDTHS = {1024: "SD2", 2048: "SDXL"}


def other_kind(keys: Iterable[str]) -> str | None:
    """What a file is instead of a LoRA, such as "a LoHa"; None for what may be one."""
    return _first(_OTHER_KINDS, keys)


def other_model(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The kind of model other than SD1 that a LoRA was made for, by its keys and widths; None for what may be SD1."""
    if found := _first(_OTHER_MODELS, shapes):
        return found
    for key, shape in shapes.items():
        parsed = parse_key(key)
        if parsed is not None and parsed[1] == DOWN and parsed[0].endswith("_attn2_to_k") and len(shape) > 1:
            return _CONTEXT_WIDTHS.get(shape[1])
    return None


def _first(patterns: Mapping[str, str], keys: Iterable[str]) -> str | None:
    return next((name for name, pattern in patterns.items() if any(re.search(pattern, key) for key in keys)), None)


def layout_of(keys: Iterable[str]) -> str:
    """ "kohya", "diffusers" or "peft"."""
    keys = list(keys)
    if any(key.startswith(PEFT_PREFIX) for key in keys):
        return "peft"
    return "kohya" if any(_KOHYA.fullmatch(key) for key in keys) else "diffusers"


def parse_key(key: str) -> tuple[str, str] | None:
    """(kohya name, "down" | "up" | "mid" | "alpha") of a key of any layout; None for what is no part of a LoRA."""
    if match := _KOHYA.fullmatch(key):
        return match[1], match[2] or match[3]
    if key.startswith("lora_"):
        return None
    if match := _DOTTED.fullmatch(key):
        part = match[2] or match[3]
        return _kohya_name(match[1]), _PARTS.get(part, part)
    if match := _DOTTED_ALPHA.fullmatch(key):
        return _kohya_name(match[1]), ALPHA
    return None


def bundled_key(key: str) -> tuple[str, str] | None:
    """(embedding's name, rest) of the key of an embedding that lies in a LoRA file; None for any other key."""
    match = _BUNDLED.fullmatch(key)
    return (match[1], match[2]) if match else None


def _kohya_name(module: str) -> str:
    module = module.removeprefix(PEFT_PREFIX).replace(".processor.", ".")
    prefix = TEXT_PREFIX if module.startswith(("text_encoder.", "text_model.")) else UNET_PREFIX
    if prefix == UNET_PREFIX:
        module = to_diffusers(module.removeprefix("unet.").removeprefix("diffusion_model."))
        module = re.sub(r"\.to_out$", ".to_out.0", module)
    else:
        module = re.sub(r"\.to_(q|k|v|out)$", r".\1_proj", module.removeprefix("text_encoder."))
        module = module if module.startswith("text_model.") else f"text_model.{module}"
    return prefix + module.replace(".", "_")


def configured_alpha(config: Mapping[str, Any], name: str, rank: int) -> float:
    """The alpha that peft's configuration gives a module: its own or the common one, as kohya means it (alpha / rank).

    Its "rslora" divides by the root of the rank instead. Raises KeyError, TypeError, ValueError for a broken one.
    """
    dotless = {pattern.replace(".", "_"): alpha for pattern, alpha in (config.get("alpha_pattern") or {}).items()}
    own = (alpha for pattern, alpha in dotless.items() if name.endswith(f"_{pattern}"))
    alpha = float(next(own, config["lora_alpha"]))
    return alpha * math.sqrt(rank) if config.get("use_rslora") else alpha
