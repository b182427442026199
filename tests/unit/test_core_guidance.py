"""The identities of the guidance variants: each is cfg in a limit, and none breaks at the edges."""

from __future__ import annotations

import pytest
import torch

from lib_negtrans.core.guidance import (
    OPTIONS,
    VARIANTS,
    Guidance,
    cfg,
    limited,
    rescale,
)
from lib_negtrans.core.guidance.perp import Perp, perpendicular
from lib_negtrans.core.guidance.salience import Salience
from lib_negtrans.core.guidance.sega import Sega
from lib_negtrans.core.guidance.topk import TopK, keep_largest

W = 7.5


def predictions(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, 4, 8, 8, generator=generator).to(dtype) for _ in range(3))


def test_cfg_with_an_empty_prompt_is_reversed_sega_without_threshold():
    u, _, n = predictions()
    guided = Sega(threshold=0, warmup=0, momentum=0)(u, u, n, W, step=0)
    assert torch.allclose(guided, cfg(n, u, W), atol=1e-5)


def test_top_k_with_everything_is_cfg_and_with_nothing_ignores_the_negative():
    u, c, n = predictions()
    assert torch.allclose(TopK(1.0)(u, c, n, W, 0), cfg(n, c, W), atol=1e-4)
    assert torch.equal(TopK(0.0)(u, c, n, W, 0), cfg(u, c, W))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.5, 1.0])
def test_keep_largest_keeps_the_share_it_names_per_picture(ratio, dtype):
    v = predictions(dtype=dtype)[0]
    v[1] *= 100  # a strong picture must not take the weak one's share
    kept = keep_largest(v, ratio)
    assert kept.dtype == dtype
    assert (kept != 0).flatten(1).sum(1).tolist() == [round(ratio * 256)] * 2
    if 0 < ratio < 1:
        for row, source in zip(kept, v, strict=True):
            assert row[row != 0].abs().min() >= source[row == 0].abs().max()
    assert (keep_largest(torch.ones(1, 4, 8, 8), 0.5) != 0).sum() == 128  # ties
    with pytest.raises(ValueError, match="between 0 and 1"):
        keep_largest(v, 1.5)


def test_perp_with_an_orthogonal_negative_is_cfg_and_the_projection_is_orthogonal():
    u, c, n = predictions()
    direction = c - u
    orthogonal = perpendicular(n - u, direction)
    dot = (orthogonal * direction).flatten(1).sum(1) / (
        orthogonal.flatten(1).norm(dim=1) * direction.flatten(1).norm(dim=1)
    )
    assert dot.abs().max() < 1e-6
    assert torch.allclose(Perp()(u, c, u + orthogonal, W, 0), cfg(u + orthogonal, c, W), atol=1e-4)
    # a negative that is the prompt itself takes nothing away
    assert torch.allclose(Perp()(u, c, c, W, 0), cfg(u, c, W), atol=1e-3)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-22, 1e-7])
def test_perp_survives_a_tiny_direction(size):
    u, _, n = predictions()
    assert torch.isfinite(Perp()(u, u + size * torch.ones_like(u), n, W, 0)).all()
    assert torch.allclose(perpendicular(n, torch.full_like(n, min(size, 1e-22))), n)


@pytest.mark.parametrize("size", [10.0**exponent for exponent in range(-8, 1)])
def test_perp_makes_no_direction_of_rounding(size):
    u, c, n = predictions()
    small = u + size * c
    generator = torch.Generator().manual_seed(1)
    rounded = small * (1 + torch.finfo(torch.float32).eps * torch.randn(small.shape, generator=generator))
    exact, other = (Perp()(u, direction, n, 1.0 + 1.0, 0) for direction in (small, rounded))
    # sqrt(eps) / 2 of the vector's norm of 23 at most, along a unit vector
    assert (exact - other).norm() < 0.008


def test_perp_is_as_exact_as_its_input():
    _, c, n = (values.double() for values in predictions())
    for size in (1.0, 1e-3):
        assert (perpendicular(n, size * c) * c).flatten(1).sum(1).abs().max() < 1e-6
    assert perpendicular(n, c).dtype == torch.float64


def test_salience_takes_one_winner_everywhere():
    u, c, n = predictions()
    guided = Salience()(u, c, n, W, 0)
    base, replaced = cfg(u, c, W), cfg(u, c, W) - (W - 1) * ((n - u) - (c - u))
    is_base, is_replaced = torch.isclose(guided, base, atol=1e-4), torch.isclose(guided, replaced, atol=1e-4)
    assert (is_base | is_replaced).all() and is_base.any() and is_replaced.any()
    # against the empty prompt nothing is ever less salient than nothing: D = 0 is uniform
    assert torch.isfinite(Salience()(u, u, n, W, 0)).all()


def test_sega_keeps_each_channels_share_and_waits_for_its_warm_up():
    u, _, n = predictions()
    n[:, 0] *= 50  # a loud channel must not silence the others
    moved = Sega(threshold=0.9, warmup=0, momentum=0)(u, u, n, W, step=0) - u
    assert (moved != 0).flatten(2).sum(2).tolist() == [[7] * 4] * 2  # 64 values, quantile .9
    sega = Sega(warmup=2, cooldown=3, momentum=0.5)
    results = [sega(u, u, n, W, step) for step in range(4)]
    assert torch.equal(results[0], u) and torch.equal(results[1], u) and torch.equal(results[3], u)
    # momentum has grown during the warm-up
    assert (results[2] - u).norm() > (Sega(warmup=0, momentum=0.5)(u, u, n, W, 0) - u).norm()


def test_rescale_restores_the_deviation():
    _, c, n = predictions()
    guided = cfg(n, c, W)
    assert torch.allclose(rescale(guided, c, 1.0).flatten(1).std(1), c.flatten(1).std(1), rtol=1e-4)
    assert torch.equal(rescale(guided, c, 0.0), guided)


def test_every_kind_by_its_name():
    u, c, n = predictions()
    expected = {
        "cfg": cfg(n, c, W), "perp": Perp()(u, c, n, W, 3), "topk": TopK(0.3)(u, c, n, W, 3),
        "salience": Salience()(u, c, n, W, 3), "sega": Sega()(u, c, n, W, 3),
    }  # fmt: skip
    assert set(expected) == set(VARIANTS)
    for kind, result in expected.items():
        guidance = Guidance(kind, {"topk_ratio": 0.3})
        assert guidance.reads_empty(W) == (kind != "cfg") and not guidance.reads_empty(1)
        assert torch.equal(guidance(u, c, n, W, 3), result), kind
        rescaled = Guidance(kind, {"topk_ratio": 0.3}, rescale_amount=0.7)
        assert torch.equal(rescaled(u, c, n, W, 3), rescale(result, c, 0.7)), kind
        assert torch.equal(rescaled(u, c, n, 1, 3), c), kind
    with pytest.raises(ValueError, match="must be one of cfg, perp"):
        Guidance("apg")


def test_plain_is_cfg_without_rescaling():
    assert Guidance().is_plain and not Guidance("perp").is_plain and not Guidance(rescale_amount=0.1).is_plain


def test_a_limited_push_is_as_strong_as_before_and_nowhere_far_above_its_average():
    generator = torch.Generator().manual_seed(5)
    push = torch.randn(2, 4, 16, 16, generator=generator)
    push[:, :, 3:5, 3:5] *= 20  # an edge
    push[1] *= 3
    held = limited(push, 0.5)
    assert torch.allclose(held.flatten(1).norm(dim=1), push.flatten(1).norm(dim=1))
    assert torch.allclose(torch.cosine_similarity(held, push, 1), torch.ones(2, 16, 16))
    before, after = (one.norm(dim=1).flatten(1) for one in (push, held))
    assert float((after.amax(1) / after.median(1).values).max()) < 0.2 * float(
        (before.amax(1) / before.median(1).values).min()
    )
    assert torch.allclose(limited(torch.full((1, 4, 8, 8), 0.3), 1.0), torch.tensor(0.3))  # the same everywhere
    assert torch.equal(limited(torch.zeros(1, 4, 8, 8), 0.5), torch.zeros(1, 4, 8, 8))
    # half precision cannot hold the sums of a large picture
    large = 4 * push[:1].repeat(1, 1, 10, 10)
    assert torch.allclose(limited(large.half(), 0.5).float(), limited(large, 0.5), rtol=5e-3, atol=5e-3)
    # what lies around without any push does not count
    wide = torch.nn.functional.pad(push[:1], (40, 40, 40, 40))
    assert torch.allclose(limited(wide, 0.5)[..., 40:-40, 40:-40], held[:1], rtol=1e-4)


def test_the_limit_is_put_on_any_variant_and_is_nothing_at_scale_one():
    u, c, n = predictions()
    for kind in VARIANTS:
        free, bound = (Guidance(kind, {"sega_warmup": 0}, limit=limit) for limit in (0.0, 0.5))
        assert torch.equal(bound(u, c, n, W, 3), c + limited(free(u, c, n, W, 3) - c, 0.5)), kind
        assert torch.equal(bound(u, c, n, 1, 3), c)
    assert not Guidance(limit=0.5).is_plain


def test_segas_scale_follows_the_slider_and_its_momentum_is_the_objects_own():
    u, c, n = predictions()
    limit = Guidance("sega", {"sega_threshold": 0, "sega_warmup": 0, "sega_momentum": 0})
    assert torch.allclose(limit(u, c, n, W, 0), cfg(n, c, W), atol=1e-4)
    first, other = (Guidance("sega", {"sega_warmup": 0}) for _ in range(2))
    once = first(u, c, n, W, 0)
    assert not torch.allclose(first(u, c, n, W, 1), once)
    assert torch.equal(other(u, c, n, W, 0), once)


def test_a_variants_options_are_named_after_it_and_described():
    assert list(OPTIONS) == [
        "topk_ratio", "sega_threshold", "sega_warmup", "sega_cooldown", "sega_momentum", "sega_beta",
    ]  # fmt: skip
    for name, (variant, field) in OPTIONS.items():
        assert name == f"{variant}_{field.name}"
        assert field.metadata["help"].startswith(f"For guidance {variant}: ") and field.metadata["label"]
