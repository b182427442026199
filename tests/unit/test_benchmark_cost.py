"""The price of a translation in UNet sample-forwards."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cost import source_share, whole_rows
from lib_negtrans.core.attention import AttentionControl, shallow_layers
from lib_negtrans.translation.cache import TrajectoryCache
from lib_negtrans.translation.params import translation_preset
from lib_negtrans.translation.pipeline import Forwards, translate
from tests.ldm_unet import diffusers_unet


def share_of(unet, size, flag=256):
    return source_share(unet, AttentionControl(shallow_layers(unet, size, flag)), size, (77, 768))


@pytest.fixture(scope="module")
def found(sd15):
    return share_of(sd15, (64, 64))


def test_published_preset_costs_at_most_57(found):
    """90 as published; 15 steps, of which 13 are controlled and the first of them needs no source."""
    apart = Forwards(inversion=15, guided=30, source=12)
    assert whole_rows(apart, found) == pytest.approx(45 + 12 * found) and whole_rows(apart, found) <= 57
    assert whole_rows(Forwards(inversion=15, guided=30, source=12, beside=12), found) == 57


def test_what_a_source_leaves_out_begins_with_the_last_controlled_keys(sd15, found):
    """Counted by hand for the last block, of 4096 tokens and 320 channels, against torch's own count of the whole."""
    tokens, width, words = 64 * 64, 320, 77
    own = 2 * tokens**2 * width + 3 * tokens * width**2  # scores, values; the projections to keys, values, out
    cross = 2 * tokens * width**2 + 2 * words * 768 * width + 2 * tokens * words * width
    fed = tokens * width * 8 * width + tokens * 4 * width * width
    convolved = tokens * width**2 + tokens * 9 * width * 4
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        context = torch.zeros(1, words, 768)
        sd15(torch.zeros(1, 4, 64, 64), torch.zeros(1), context)
    assert (1 - found) * counter.get_total_flops() == pytest.approx(2 * (own + cross + fed + convolved), rel=1e-4)


def test_counting_leaves_the_network_alone():
    unet = diffusers_unet()
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    found = source_share(unet, AttentionControl(shallow_layers(unet, (8, 8), 256)), (8, 8), (7, 16))
    assert 0.5 < found < 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())


def test_without_layers_nothing_is_cut():
    unet = diffusers_unet()
    found = source_share(unet, AttentionControl([]), (8, 8), (7, 16))
    assert found == 1


# of the published code's 90 rows, as the targets for time are
@pytest.mark.parametrize(
    ("preset", "once", "again"),
    [("fashionr2r", 57 / 90, 42 / 90), ("default", 0.31, 0.2), ("fast", 0.2, 0.125), ("single", 0.034, 0.012)],
)
def test_presets_cost_by_flops(calm_tiny_host, found, preset, once, again):
    cache = TrajectoryCache()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    for negative, share in (("cgi", once), ("a doll", again)):
        result = translate(calm_tiny_host, image, translation_preset(preset, negative_prompt=negative), cache=cache)
        assert whole_rows(result.forwards, found) <= share * 90
