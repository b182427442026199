"""Guidance inside the host's CFG denoiser: what is combined, how, and that the denoiser is left as it was."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lib_negtrans.core.guidance import Concept, Guidance, cfg
from lib_negtrans.core.guidance.topk import TopK

W = 7.5


class CfgDenoiser(torch.nn.Module):
    def combine_denoised(self, x_out, conds_list, uncond, cond_scale):
        """As the host's."""
        denoised_uncond = x_out[-uncond.shape[0] :]
        denoised = torch.clone(denoised_uncond)
        for i, conds in enumerate(conds_list):
            for cond_index, weight in conds:
                denoised[i] += (x_out[cond_index] - denoised_uncond[i]) * (weight * cond_scale)
        return denoised


@pytest.fixture
def combined_by(fake_host):
    from lib_negtrans.apps.webui.a1111.combining import combined_by

    return combined_by


# two images, the first with two prompts by AND: [c0a, c0b, c1, n0, n1]
CONDS = [[(0, 1.0), (1, 0.5)], [(2, 1.0)]]


def rows(seed=0):
    return torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def combine(combined_by, guidance, unconditional, scale=W, denoiser=None):
    denoiser = denoiser or CfgDenoiser()
    with combined_by(denoiser, guidance, 0, unconditional):
        return denoiser.combine_denoised(rows(), CONDS, torch.zeros(2, 77, 8), scale)


def test_the_limits_are_the_hosts_own_guidance_with_and_composed(combined_by):
    plain = CfgDenoiser().combine_denoised(rows(), CONDS, torch.zeros(2, 77, 8), W)
    empty = rows(1)[:2]
    for guidance in (Guidance("cfg"), Guidance("topk", {"topk_ratio": 1.0})):
        for unconditional in (None, lambda: empty):
            torch.testing.assert_close(combine(combined_by, guidance, unconditional), plain, rtol=0, atol=1e-4)
    assert not torch.allclose(combine(combined_by, Guidance("topk", {"topk_ratio": 0.1}), lambda: empty), plain)


def test_the_empty_prompts_prediction_is_asked_for_once_and_only_where_it_is_used(combined_by):
    asked = []

    def unconditional():
        asked.append(1)
        return torch.zeros(2, 4, 8, 8)

    combine(combined_by, Guidance("cfg", rescale_amount=0.5), unconditional)
    combine(combined_by, Guidance("perp"), unconditional, scale=1.0)  # as where the host leaves the unconds out
    assert asked == []
    combine(combined_by, Guidance("perp"), unconditional)
    assert asked == [1]


@pytest.mark.parametrize("scale", [W, 1.0])
def test_concepts_are_added_to_what_the_host_composed(combined_by, scale):
    wool, x = rows(2)[:2], rows()
    guidance = Guidance(concepts=[Concept("wool", TopK(0.1), 0.5)])
    denoiser = CfgDenoiser()
    with combined_by(denoiser, guidance, 0, None, lambda: {"wool": wool}):
        found = denoiser.combine_denoised(x, CONDS, torch.zeros(2, 77, 8), scale)
    cond = CfgDenoiser().combine_denoised(x, CONDS, torch.zeros(2, 77, 8), 1.0)
    torch.testing.assert_close(found, guidance(cond, cond, x[-2:], scale, 0, {"wool": wool}))
    assert (found - cond).abs().max() > 1


def test_an_empty_prompt_is_its_own_unconditional(combined_by):
    found = combine(combined_by, Guidance("perp"), None)[1]
    torch.testing.assert_close(found, cfg(rows()[4], rows()[2], W), rtol=0, atol=1e-4)


def test_what_another_extension_put_there_goes_on_composing_and_comes_back(combined_by):
    denoiser = CfgDenoiser()
    theirs = denoiser.combine_denoised = lambda x_out, conds, uncond, scale: torch.full((2, 4, 8, 8), float(scale))
    result = combine(combined_by, Guidance("topk", {"topk_ratio": 0.0}), None, denoiser=denoiser)
    assert torch.equal(result, torch.ones(2, 4, 8, 8))  # the prompt's prediction is what they compose at scale 1
    assert denoiser.combine_denoised is theirs


def test_the_denoiser_is_put_back_after_an_error(combined_by):
    denoiser = CfgDenoiser()
    with pytest.raises(RuntimeError, match="boom"), combined_by(denoiser, Guidance("perp"), 0, None):
        raise RuntimeError("boom")
    assert "combine_denoised" not in vars(denoiser)


@pytest.mark.parametrize(
    ("prompt", "installed", "enabled", "acts"),
    [
        ("a photo AND_PERP red", True, True, True),
        ("a photo AND_TOPK red :0.5", True, True, True),
        ("a photo AND red", True, True, False),
        ("a photo AND_PERP red", True, False, False),
        ("a photo AND_PERP red", False, True, False),
        ("BRAND_PERPETUAL", True, True, False),
    ],
)
def test_where_neutral_prompt_acts(fake_host, monkeypatch, prompt, installed, enabled, acts):
    from lib_negtrans.apps.webui.a1111 import combining

    monkeypatch.setattr(combining, "sd_samplers", SimpleNamespace())
    if installed:
        setattr(combining.sd_samplers, "__neutral_prompt_hijacker", object())
    options = SimpleNamespace(data={"neutral_prompt_enabled": enabled})
    monkeypatch.setattr(combining, "shared", SimpleNamespace(opts=options))
    assert combining.neutral_prompt_acts(["", prompt]) is acts
