"""The demonstration model in assets/demo: there, small enough, in SD1's layout, and able to see and to draw."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "assets" / "demo"


@pytest.fixture(scope="module")
def networks():
    pytest.importorskip("diffusers")
    sys.path.insert(0, str(ROOT / "tools" / "demo_model"))
    try:
        from export import load_autoencoder, load_networks, load_tokenizer

        path = DEMO / "negtrans-demo.safetensors"
        return *load_networks(path), load_autoencoder(path), load_tokenizer(DEMO / "clip")
    finally:
        sys.path.pop(0)
        for name in ("export", "model", "autoencoder"):
            sys.modules.pop(name, None)


def test_all_files_are_there_and_together_under_40_mb():
    for name in ("negtrans-demo.safetensors", "negtrans-demo.yaml", "README.md", "clip/config.json"):
        assert (DEMO / name).is_file(), name
    assert sum(f.stat().st_size for f in DEMO.rglob("*") if f.is_file()) < 40e6


def test_tokenizer_is_clips(networks):
    assert networks[3]("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_sizes_of_the_networks(networks):
    unet, text, _, _ = networks
    assert unet.config.block_out_channels == (32, 64, 128, 128)
    assert text.config.hidden_size == unet.config.cross_attention_dim == 64


def test_encoding_a_picture_is_nearly_its_mean(networks):
    vae = networks[2]
    distribution = vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist
    assert distribution.std.max() < 1e-3


def test_autoencoder_gives_a_held_out_render_back_at_its_full_size(networks):
    vae = networks[2]
    path = sorted((ROOT / "assets" / "renders" / "eval").glob("fl_*.jpg"))[0]
    pixels = torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    again = vae.decode(vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
    psnr = -10 * ((again - pixels) / 2).square().mean().log10()
    assert psnr > 30


def test_prompts_have_a_mean_the_webui_can_divide_by(networks):
    text, tokenizer = networks[1], networks[3]
    prompts = ["", "a cat", "a 3d render of clothes", "photo " * 75]
    ids = tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    assert (text(ids)[0].mean((1, 2)) < -0.1).all()


def test_unet_knows_renders_from_photographs(networks):
    """At the timesteps of strength .3, latents of renders are explained better under the caption of renders."""
    unet, text, vae, tokenizer = networks
    paths = sorted((ROOT / "assets" / "renders" / "eval").glob("fl_*.jpg"))[:4]
    pictures = np.stack([np.asarray(Image.open(p).convert("RGB").resize((256, 256))) for p in paths])
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1
    z = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
    captions = ["a 3d render of clothes", "a photo of clothes"]
    ids = tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    generator = torch.Generator().manual_seed(0)
    bar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    losses = torch.zeros(2)
    for t in (60, 140, 220):
        eps = torch.randn(z.shape, generator=generator)
        noisy = bar[t].sqrt() * z + (1 - bar[t]).sqrt() * eps
        for k, context in enumerate(text(ids)[0]):
            losses[k] += (unet(noisy, t, context.expand(len(z), -1, -1)).sample - eps).square().mean()
    assert losses[0] < losses[1]
