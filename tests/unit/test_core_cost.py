"""The price of a translation in UNet sample-forwards."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel

from lib_negtrans.core.attention import AttentionControl, shallow_layers
from lib_negtrans.core.cost import call_costs
from tests.ldm_unet import UNetModel, diffusers_unet


@pytest.fixture(scope="module", params=["diffusers", "ldm"])
def sd15(request):
    with torch.device("meta"):
        if request.param == "ldm":
            return UNetModel()
        return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def costs(unet, size, flag=256):
    return call_costs(unet, AttentionControl(shallow_layers(unet, size, flag)), size, (77, 768))


def test_published_preset_costs_at_most_56(sd15):
    """90 as published; 15 steps, of which 13 are controlled and the first of them needs no source."""
    found = costs(sd15, (64, 64))
    assert found.source == pytest.approx(0.9548, abs=5e-4)
    assert found.guided == pytest.approx(1.9811, abs=5e-4)
    assert found.controlled == pytest.approx(1.9602, abs=5e-4)
    total = found.total(inversion=15, guided=3, controlled=12, source=12)
    assert total == pytest.approx(15 + 3 * found.guided + 12 * found.controlled + 12 * found.source)
    assert total <= 56


def test_counting_leaves_the_network_alone():
    unet = diffusers_unet()
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    found = call_costs(unet, AttentionControl(shallow_layers(unet, (8, 8), 256)), (8, 8), (7, 16))
    assert 0.5 < found.source < 1 and 1.5 < found.controlled < found.guided < 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())


def test_without_layers_nothing_is_cut():
    unet = diffusers_unet()
    found = call_costs(unet, AttentionControl([]), (8, 8), (7, 16))
    assert found.source == 1 and found.controlled == found.guided < 2
