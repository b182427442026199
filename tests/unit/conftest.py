"""Fixtures of the unit tests."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from tests.ldm_unet import UNetModel
from tests.tiny_model import ldm_state, tiny_host, tiny_networks


@pytest.fixture(scope="module")
def host():
    """A tiny one; prompts matter in it as little as in any random network, but they do."""
    return tiny_host()


@pytest.fixture(scope="module", params=["diffusers", "ldm"])
def sd15(request):
    """SD1.5's shapes without memory."""
    with torch.device("meta"):
        if request.param == "ldm":
            return UNetModel()
        return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


@pytest.fixture
def image():
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def clipped_norms(monkeypatch):
    """The norms of the gradients that AdamW is given, step by step."""
    real, norms = torch.optim.AdamW.step, []

    def watched(self, *args, **kwargs):
        norms.append(float(self.param_groups[0]["params"][0].grad.norm()))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    return norms


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The file of a tiny checkpoint, to train on."""
    path = tmp_path_factory.mktemp("model") / "base.safetensors"
    save_file(ldm_state(tiny_networks()), path)
    return path
