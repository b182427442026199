"""SD1's UNet has two sets of module names: ldm's (checkpoint files, the webui) and diffusers' (LoRA files too).

This is the map. For the layout of SD1: four levels of two blocks, in whatever widths.
"""

from __future__ import annotations

_LEVELS, _BLOCKS = 4, 2
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def _block_names() -> dict[str, str]:
    """diffusers' name -> ldm's, of each block that has other names; no key is the beginning of another."""
    names = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    for level in range(_LEVELS):
        for block in range(_BLOCKS):
            names[f"down_blocks.{level}.resnets.{block}"] = f"input_blocks.{3 * level + block + 1}.0"
            names[f"down_blocks.{level}.attentions.{block}"] = f"input_blocks.{3 * level + block + 1}.1"
        for block in range(_BLOCKS + 1):
            names[f"up_blocks.{level}.resnets.{block}"] = f"output_blocks.{3 * level + block}.0"
            if level:  # the lowest has no attention: there the upsampler has this place
                names[f"up_blocks.{level}.attentions.{block}"] = f"output_blocks.{3 * level + block}.1"
        names[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{3 * level + 3}.0.op"
        names[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{3 * level + 2}.{2 if level else 1}.conv"
    return names


_TO_LDM = _block_names()
_TO_DIFFUSERS = {ldm: name for name, ldm in _TO_LDM.items()}


def to_ldm(name: str) -> str:
    """ldm's name of a module or tensor of diffusers' UNet2DConditionModel; a name that both share is given back."""
    return _renamed(name, _TO_LDM, RESNET)


def to_diffusers(name: str) -> str:
    """diffusers' name of a module or tensor of ldm's UNetModel; a name that both share is given back."""
    return _renamed(name, _TO_DIFFUSERS, {ldm: inner for inner, ldm in RESNET.items()})


def _renamed(name: str, blocks: dict[str, str], inner: dict[str, str]) -> str:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        if (block := blocks.get(".".join(parts[:count]))) is not None:
            rest = ".".join(parts[count:])
            for old, new in inner.items():
                if rest == old or rest.startswith(f"{old}."):
                    rest = new + rest[len(old) :]
                    break
            return f"{block}.{rest}" if rest else block
    return name
