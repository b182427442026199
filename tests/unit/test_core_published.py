"""The `fashionr2r` preset against the released code itself.

fixtures/published.npz was made by running the released FashionR2R code (Style3D/FashionR2R @13ab4fc) on the CPU in
float32
with the tiny UNet built below, 64x64 pixels, 50 steps, strength .3, CFG 7.5, flag 256, ratio .9, both prompts empty:
latent (1,4,8,8) the start, contexts (2,5,16) of '' and of the negative, inversion (16,4,8,8) the stored source latents
in the order the code made them, sampled (15,4,8,8) the generated branch after each step. Its VAE was a stub that gives
`latent`; nothing of its code is here. Left out: xformers, CPU offload, the CUDA generator (it is not used with a start
latent) and files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lib_negtrans.core.schedule import sd1_alphas_cumprod
from lib_negtrans.steps import finish
from lib_negtrans.translation.params import translation_preset
from lib_negtrans.translation.pipeline import translate_latent
from tests.ldm_unet import call, diffusers_unet, ldm_twin

FIXTURE = Path(__file__).parent / "fixtures" / "published.npz"


@pytest.fixture(scope="module")
def published():
    with np.load(FIXTURE) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def tiny_unet():
    return diffusers_unet(seed=20241, gain=0.15)


class TinyHost:
    """What `translate_latent` needs of a host, with the fixture's contexts for '' and for any other prompt."""

    prediction_type = "epsilon"
    alphas_cumprod = sd1_alphas_cumprod()

    def __init__(self, unet, contexts):
        self.unet, self.contexts = unet, contexts
        self.rows: list[tuple[int, int]] = []

    def encode_prompts(self, prompts, embeddings=None):
        return self.contexts[[int(prompt != "") for prompt in prompts]]

    def predict_noise(self, latent, timestep, context):
        self.rows.append((timestep, latent.shape[0]))
        return call(self.unet, latent, timestep, context)


@pytest.fixture(scope="module", params=["diffusers", "ldm"])
def unet(request):
    return tiny_unet() if request.param == "diffusers" else ldm_twin(tiny_unet())


def translate(host, latent, **overrides):
    params = translation_preset("fashionr2r", negative_prompt="<negative-embedding>", **overrides)
    return finish(translate_latent(host, latent, params))


def test_preset_is_the_released_code(published, unet):
    host = TinyHost(unet, published["contexts"])
    final, trajectory, forwards = translate(host, published["latent"])

    assert (torch.cat(trajectory.latents) - published["inversion"]).abs().max() < 1e-4
    assert (final - published["sampled"][-1]).abs().max() < 1e-4
    # the released code evaluates 90 rows; the source branch counts whole here, cost.py says what it really takes
    assert (forwards.inversion, forwards.guided, forwards.source) == (15, 30, 12)
    assert sum(rows for _, rows in host.rows) == 57


def test_the_match_is_not_an_accident(published):
    """Every part of the preset is seen in the result: without it the difference is large."""
    host = TinyHost(tiny_unet(), published["contexts"])
    for overrides in (
        {"order": "ascending"},
        {"tac_layers": 1024},
        {"tac_layers": 64},
        {"tac_ratio": 0.8},
        {"tac_ratio": 1.0},
        {"cfg_scale": 7.0},
    ):
        final, *_ = translate(host, published["latent"], **overrides)
        assert (final - published["sampled"][-1]).abs().max() > 1e-3, overrides
