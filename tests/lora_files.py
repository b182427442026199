"""LoRA files for tests: random pairs for a model, and the same pairs in the layouts of other programs."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lib_negtrans.lora.files import LoraPair
from lib_negtrans.lora.names import lora_modules, lora_targets


def random_pairs(
    host, rank: int = 4, alpha: float = 2.0, seed: int = 0, scale: float = 0.1, **which: bool
) -> dict[str, LoraPair]:
    """A pair for each of `lora_targets(host, **which)`; what they add is about `scale` of a weight of unit gain."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    pairs = {}
    for name, module in lora_targets(host, **which).items():
        out, *inner = module.weight.shape
        up = draw(out, rank, 1, 1) if isinstance(module, nn.Conv2d) else draw(out, rank)
        gain = scale * rank / alpha / (rank * module.weight[0].numel()) ** 0.5
        pairs[name] = LoraPair(draw(rank, *inner) * gain, up, None, alpha)
    return pairs


def dotted_names(host) -> dict[str, str]:
    """kohya name -> unet.* or text_encoder.*, of a host on diffusers' modules."""
    modules = {id(module): name for name, module in lora_modules(host).items()}
    networks = {"unet": host.unet, "text_encoder": host.text_encoder}
    return {
        modules[id(module)]: f"{network}.{name}"
        for network, root in networks.items()
        for name, module in root.named_modules()
        if id(module) in modules
    }


def save_diffusers(path: Path, host, pairs: dict[str, LoraPair], alpha: float | None, style: str = "lora_A") -> None:
    """As `save_lora_weights` of diffusers does; style: "lora_A", "lora.down", or "processor" (before 0.22)."""
    state = {}
    for name, dotted in dotted_names(host).items():
        if name not in pairs:
            continue
        for part, other, value in (("lora_A", "down", pairs[name].down), ("lora_B", "up", pairs[name].up)):
            if dotted.startswith("text_encoder.") and style != "lora_A":
                key = f"{dotted}.lora_linear_layer.{other}.weight"
            elif style == "processor" and ".attn" in dotted:
                head, _, tail = dotted.removesuffix(".0").rpartition(".")
                key = f"{head}.processor.{tail}_lora.{other}.weight"
            else:
                key = f"{dotted}.{part}.weight" if style == "lora_A" else f"{dotted}.lora.{other}.weight"
            state[key] = value.contiguous()
    metadata = {"format": "pt"}
    if alpha is not None:
        rank = next(iter(pairs.values())).rank
        config = {"r": rank, "lora_alpha": alpha, "alpha_pattern": {}, "use_rslora": False}
        stated = {f"{network}.{key}": value for network in ("unet", "text_encoder") for key, value in config.items()}
        metadata["lora_adapter_metadata"] = json.dumps(stated)
    save_file(state, path, metadata=metadata)


def save_peft(folder: Path, host, pairs: dict[str, LoraPair], config: dict) -> Path:
    """As `PeftModel.save_pretrained` of the UNet does."""
    folder.mkdir(parents=True)
    state = {}
    for name, dotted in dotted_names(host).items():
        if name in pairs and dotted.startswith("unet."):
            key = "base_model.model." + dotted.removeprefix("unet.")
            state |= {f"{key}.lora_A.weight": pairs[name].down, f"{key}.lora_B.weight": pairs[name].up}
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder / "adapter_model.safetensors"
