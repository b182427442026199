"""The same picture again does not invert again, and comes out the same to the byte; another one does."""

from __future__ import annotations

import pytest
import torch

from lib_negtrans.core.attention import AttentionControl, shallow_layers
from lib_negtrans.core.features import FeatureBudget, features_bytes
from lib_negtrans.core.inversion import Trajectory
from lib_negtrans.core.schedule import Schedule, sd1_alphas_cumprod
from lib_negtrans.translation.cache import TrajectoryCache, host_state, inversion_key, network_state, trajectory_bytes
from lib_negtrans.translation.params import TranslationParams, translation_preset
from lib_negtrans.translation.pipeline import translate
from tests.tiny_model import tiny_host

NEGATIVES = ("a 3d render of a doll", "cgi")


def params(preset="default", **values) -> TranslationParams:
    whole = {"step_share": 1.0} if preset == "default" else {}
    return translation_preset(preset, **{"steps": 20, **whole, **values})


def ddim_params(**values) -> TranslationParams:
    return params(**{"solver": "ddim", **values})


@pytest.mark.parametrize("preset", ["default", "fast", "single", "fashionr2r"])
def test_a_second_translation_does_not_invert_and_differs_in_nothing(calm_tiny_host, image, preset):
    cache, host = TrajectoryCache(), calm_tiny_host
    for number, negative in enumerate(NEGATIVES):
        values = params(preset, negative_prompt=negative, cfg_scale=7.5 - number)
        found = translate(host, image, values, cache=cache)
        alone = translate(host, image, values)
        assert torch.equal(found.image, alone.image) and torch.equal(found.latent, alone.latent)
        assert (found.forwards.inversion == 0) == (number == 1) == found.forwards.cached
        assert found.forwards.guided == alone.forwards.guided
    assert "from the cache" in str(found.forwards)


def test_a_second_translation_needs_no_encoder(calm_tiny_host, image, monkeypatch):
    cache = TrajectoryCache()
    first = translate(calm_tiny_host, image, params(), cache=cache)
    monkeypatch.setattr(calm_tiny_host, "encode_image", lambda image: pytest.fail("encoded again"))
    assert torch.equal(translate(calm_tiny_host, image, params(), cache=cache).image, first.image)
    with pytest.raises(pytest.fail.Exception):
        translate(calm_tiny_host, image + 1e-3, params(), cache=cache)


def test_dropped_features_are_computed_again_also_from_the_cache(calm_tiny_host, image, monkeypatch):
    host, values = calm_tiny_host, params(negative_prompt=NEGATIVES[0], fixed_point=4)
    whole = translate(host, image, values, cache=TrajectoryCache())
    size = features_bytes(whole.trajectory.features[5])
    monkeypatch.setattr(host, "feature_budget", FeatureBudget(2 * size, 0, half=True))
    cache = TrajectoryCache()
    results = [translate(host, image, values, cache=cache) for _ in range(2)]
    for result in results:
        assert len(result.trajectory.features) == 2 and len(result.trajectory.features.dropped) == 3
        # the first step from the inversion's own end needs none; two of the other dropped ones are computed
        assert result.forwards.source == 2 and "3 computed again" in str(result.forwards)
        assert (result.latent - whole.latent).norm() < 0.01 * whole.latent.norm()
    assert torch.equal(results[0].latent, results[1].latent) and results[1].forwards.cached


def key(host, latent, values, capture_flag=256, alphas=None, context=None):
    alphas = sd1_alphas_cumprod() if alphas is None else alphas
    schedule = Schedule(alphas, values.timesteps, host.prediction_type)
    context = host.encode_prompts([values.source_prompt]) if context is None else context
    capture = None if capture_flag is None else AttentionControl(shallow_layers(host.unet, (8, 8), capture_flag))
    return inversion_key(host_state(host), latent, values, schedule, context, capture)


def test_what_changes_the_trajectory_changes_the_key(shared_tiny_host):
    host = shared_tiny_host
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    plain = key(host, latent, ddim_params())
    assert plain == key(host, latent.clone(), ddim_params())
    same = ({"prompt": "a photo"}, {"negative_prompt": "neg"}, {"cfg_scale": 2.0}, {"seed": 5}, {"guidance": "perp"})
    for values in same:
        assert key(host, latent, ddim_params(**values)) == plain, values
    other = (
        {"source_prompt": "a render"}, {"strength": 0.4}, {"fixed_point": 2}, {"step_share": 0.5}, {"tac_ratio": 0.5},
        {"solver": "difference"}, {"order": "published", "fixed_point": 0, "features": "recomputed"},
    )  # fmt: skip
    found = [key(host, latent, ddim_params(**values)) for values in other]
    found += [
        key(host, latent + 1e-6, ddim_params()),
        key(host, latent, ddim_params(), capture_flag=64),
        key(host, latent, ddim_params(), capture_flag=None),
        key(host, latent, ddim_params(), alphas=sd1_alphas_cumprod() * 0.999),
        key(host, latent, ddim_params(), context=host.encode_prompts([""]) * 1.001),
        key(tiny_host(seed=1), latent, ddim_params()),
        key(tiny_host(dtype=torch.bfloat16), latent, ddim_params()),
    ]
    assert plain not in found and len(set(found)) == len(found)


def test_the_released_order_is_guided_where_there_is_a_source_prompt(shared_tiny_host):
    latent = torch.zeros(1, 4, 8, 8)
    published = {"order": "published", "fixed_point": 0, "features": "recomputed", "solver": "ddim"}

    def at(cfg_scale, source_prompt):
        return key(shared_tiny_host, latent, params(**published, cfg_scale=cfg_scale, source_prompt=source_prompt))

    assert at(7.5, "") == at(3.0, "") and at(7.5, "a render") != at(3.0, "a render")


def test_weights_written_to_in_any_way_and_hooks_change_the_state(tiny_host):
    unet = tiny_host.unet
    weight = unet.up_blocks[-1].attentions[-1].transformer_blocks[0].attn1.to_q.weight
    states = [network_state(unet)]
    with torch.no_grad():
        weight.add_(0.01)
    states.append(network_state(unet))
    weight.data = weight.data + 0.01
    states.append(network_state(unet))
    handle = unet.mid_block.register_forward_hook(lambda module, args, output: output)
    states.append(network_state(unet))
    handle.remove()
    assert len(set(states)) == 4 and network_state(unet) == states[2]


def trajectory(values: int) -> Trajectory:
    return Trajectory(Schedule(sd1_alphas_cumprod(), (1,)), [torch.zeros(values)])


def test_the_least_recently_used_go_first():
    cache = TrajectoryCache(limit=3 * 400)
    kept = {name: trajectory(100) for name in "abc"}
    assert trajectory_bytes(kept["a"]) == 400
    for name, value in kept.items():
        assert cache.put(name, value)
    assert cache.get("a") is kept["a"]
    assert cache.put("d", trajectory(150))
    assert cache.get("a") is kept["a"] and cache.get("b") is None and cache.get("c") is None
    assert cache._bytes() == 1000 and len(cache._kept) == 2
    # one that alone is too large is not kept, and costs the others nothing
    assert not cache.put("e", trajectory(301))
    assert cache.get("d") is not None and cache.get("e") is None
    cache.clear()
    assert cache.get("a") is None and cache._bytes() == 0


def test_a_key_that_is_put_again_counts_once():
    cache = TrajectoryCache(limit=1000)
    for _ in range(3):
        cache.put("a", trajectory(100))
    assert (len(cache._kept), cache._bytes()) == (1, 400)
    assert not TrajectoryCache(limit=0).put("a", trajectory(1))
