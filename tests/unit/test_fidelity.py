"""How near the presets come to a fine grid, on the demonstration model with small renders (benchmarks/translate.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lib_negtrans.evaluation.crops import spread
from lib_negtrans.models.standalone import default_model_path, load_model
from lib_negtrans.pictures.images import fit_within, flatten_alpha, load_picture
from lib_negtrans.pictures.tree import image_files
from lib_negtrans.steps import finish
from lib_negtrans.translation.params import TranslationParams, translation_preset
from lib_negtrans.translation.pipeline import translate_latent

RENDERS = Path(__file__).resolve().parents[2] / "assets" / "renders" / "eval"
NEGATIVE = "a 3d render of a dress on a mannequin"


@pytest.fixture(scope="module")
def host():
    return load_model(default_model_path(), device="cpu")


@pytest.fixture(scope="module")
def latents(host):
    files = spread(image_files(RENDERS), 3)
    return host.encode_image(torch.stack([fit_within(flatten_alpha(load_picture(path)), (256, 256)) for path in files]))


@pytest.fixture(scope="module")
def fine(host, latents):
    """29 steps to the same timestep 281, exactly inverted: the result and the trajectory."""
    return run(
        host,
        latents,
        TranslationParams(
            solver="ddim", steps=100, strength=0.295, fixed_point=5, step_share=1.0, negative_prompt=NEGATIVE
        ),
    )


def run(host, latents, params):
    return finish(translate_latent(host, latents, params))[:2]


def preset(name, **values):
    return translation_preset(name, negative_prompt=NEGATIVE, **values)


def decibels(error, latents):
    return float((20 * torch.log10(6 * latents.std() / error.square().flatten(1).mean(1).sqrt())).mean())


def test_captured_and_recomputed_features_are_one(host, latents):
    results = [run(host, latents, preset("default", features=kind))[0] for kind in ("captured", "recomputed")]
    assert decibels(results[0] - results[1], latents) > 55


def test_fast_keeps_forty_decibels_and_a_better_round_trip_than_plain_inversion(host, latents, fine):
    assert decibels(run(host, latents, preset("fast"))[0] - fine[0], latents) > 40
    round_trip = {"cfg_scale": 1.0, "tac_ratio": 0.0}
    plain = run(host, latents, TranslationParams(solver="ddim", fixed_point=0, step_share=1.0, **round_trip))[0]
    plain = plain - latents
    fast = run(host, latents, translation_preset("fast", **round_trip))[0] - latents
    assert fast.abs().max() < plain.abs().max() / 100


def test_the_default_is_as_near_as_all_steps_of_ddim_at_half_their_cost(host, latents, fine):
    near, rows = {}, {}
    for name, values in (("default", {}), ("all", {"solver": "ddim", "step_share": 1.0})):
        result, _, forwards = finish(translate_latent(host, latents, preset("default", **values)))
        near[name], rows[name] = decibels(result - fine[0], latents), forwards.total / len(latents)
    assert near["default"] > 45 and near["default"] > near["all"] - 1
    assert rows == {"default": 27, "all": 54}


def test_the_exact_trajectory_is_ten_times_as_near_as_the_published_one(host, latents):
    """To the exact inverse of DDIM sampling on the same grid, which an inversion is to find."""
    exact = run(host, latents, preset("faithful", fixed_point=5))[1]

    def error(name):
        found = run(host, latents, preset(name, step_share=1.0))[1]
        assert found.schedule.timesteps == exact.schedule.timesteps
        return (torch.stack(found.latents) - torch.stack(exact.latents)).square().mean().sqrt()

    assert error("faithful") < 0.1 * error("fashionr2r")
