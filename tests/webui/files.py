"""Small files that the tests put beside the demonstration model: an embedding, a LoRA and a ControlNet, random."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lib_negtrans.embeddings.card import save
from lib_negtrans.embeddings.files import Embedding
from tests.webui.server import REPOSITORY

BLOCKS = {
    "down_blocks_0_attentions_0": "input_blocks.1.1",
    "mid_block_attentions_0": "middle_block.1",
    "up_blocks_3_attentions_2": "output_blocks.11.1",
}
RANK = 4
WIDTHS = (1, 1, 1, 1, 2, 2, 2, 4, 4, 4, 4, 4)  # of SD1's twelve blocks on the way down, in the first one's


def copy_renders(folder: Path, count: int) -> Path:
    """The first of the repository's renders, 256x256, in a folder that is made if need be."""
    folder.mkdir(exist_ok=True)
    for path in sorted((REPOSITORY / "assets/renders/train").glob("fl_*.jpg"))[:count]:
        with Image.open(path) as image:
            image.resize((256, 256)).save(folder / f"{path.stem}.png")
    return folder


def make_embedding(folder: Path, model: Path) -> Path:
    """Two vectors as large as token vectors are."""
    table = load_file(model)["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"].float()
    generator = torch.Generator().manual_seed(0)
    path = folder / "neg-test.pt"
    save(path, Embedding(path.stem, torch.randn(2, table.shape[1], generator=generator) * table.std()))
    return path


def make_lora(folder: Path, model: Path) -> Path:
    """kohya's layout, on three self- and cross-attentions of the UNet."""
    weights, generator, lora = load_file(model), torch.Generator().manual_seed(0), {}
    for kohya, ldm in BLOCKS.items():
        for attention in ("attn1", "attn2"):
            for projection in ("to_q", "to_k", "to_v"):
                weight = weights[f"model.diffusion_model.{ldm}.transformer_blocks.0.{attention}.{projection}.weight"]
                key = f"lora_unet_{kohya}_transformer_blocks_0_{attention}_{projection}"
                lora[f"{key}.lora_down.weight"] = torch.randn(RANK, weight.shape[1], generator=generator) * 0.1
                lora[f"{key}.lora_up.weight"] = torch.randn(weight.shape[0], RANK, generator=generator) * 0.3
                lora[f"{key}.alpha"] = torch.tensor(float(RANK))
    path = folder / "test-lora.safetensors"
    save_file(lora, path, metadata={"ss_output_name": path.stem, "ss_base_model_version": "sd_v1", "ss_v2": "False"})
    return path


def make_controlnet(folder: Path, model: Path) -> Path:
    """A ControlNet in the layout of the first ones: the UNet's own way down, and a way in for a picture.

    As a trained one, it has outputs other than zero: of a tenth of what they are added to.
    """
    unet = {
        key.removeprefix("model.diffusion_model."): tensor.float()
        for key, tensor in load_file(model).items()
        if key.startswith("model.diffusion_model.")
    }
    control = {key: unet[key] for key in unet if key.startswith(("time_embed.", "input_blocks.", "middle_block."))}
    generator = torch.Generator().manual_seed(0)

    def convolution(name: str, channels: int, out: int, size: int, gain: float) -> None:
        weight = torch.randn(out, channels, size, size, generator=generator)
        control[f"{name}.weight"] = weight * gain / (channels * size * size) ** 0.5
        control[f"{name}.bias"] = torch.zeros(out)

    width = unet["input_blocks.0.0.weight"].shape[0]
    hint = (3, 16, 16, 32, 32, 96, 96, 256, width)
    for index, (channels, out) in enumerate(pairwise(hint)):
        convolution(f"input_hint_block.{2 * index}", channels, out, 3, 2)
    for block, times in enumerate(WIDTHS):
        convolution(f"zero_convs.{block}.0", times * width, times * width, 1, 0.1)
    convolution("middle_block_out.0", WIDTHS[-1] * width, WIDTHS[-1] * width, 1, 0.1)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "test-control.safetensors"
    save_file({f"control_model.{key}": tensor.contiguous() for key, tensor in control.items()}, path)
    return path
