"""The method on a graphics card, or on what NEGTRANS_DEVICE names, beside the CPU in float32: `make gpu` runs it.

The bounds are of float32, with the card's shorter multiplications in its convolutions, and of the two half precisions.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib_negtrans.core.features import FeatureBudget
from lib_negtrans.models.standalone import default_model_path, load_model
from lib_negtrans.training.events import Finished, StepDone
from lib_negtrans.training.kinds import KINDS
from lib_negtrans.training.request import TrainingRequest
from lib_negtrans.training.run import Training
from lib_negtrans.translation.params import translation_preset
from lib_negtrans.translation.pipeline import translate

ASSETS = Path(__file__).resolve().parents[2] / "assets"
NEGATIVE = "a 3d render of clothes"
RENDER = ASSETS / "renders/eval/fl_62_003.jpg"
# precision -> dtype, mean difference in grey levels from the CPU's float32, relative difference of the first loss
PRECISIONS = {
    "fp32": (torch.float32, 0.2, 0.01),
    "fp16": (torch.float16, 0.5, 0.02),
    "bf16": (torch.bfloat16, 3.0, 0.05),
}


@pytest.fixture(scope="module")
def device() -> str:
    named = os.environ.get("NEGTRANS_DEVICE")
    if not named and not torch.cuda.is_available():
        pytest.skip("there is no graphics card, and NEGTRANS_DEVICE names no other device")
    return named or "cuda"


@pytest.fixture(scope="module")
def on_cpu():
    return load_model(default_model_path(), device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module", params=PRECISIONS)
def precision(request):
    return request.param


@pytest.fixture(scope="module")
def host(device, precision):
    return load_model(default_model_path(), device=device, dtype=PRECISIONS[precision][0])


@pytest.fixture(scope="module")
def render() -> torch.Tensor:
    with Image.open(RENDER) as file:
        pixels = np.array(file.convert("RGB").resize((256, 256), Image.Resampling.LANCZOS))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255


def result(host, render, preset="default", **values) -> torch.Tensor:
    params = translation_preset(preset, **{"negative_prompt": NEGATIVE, **values})
    return translate(host, render.to(host.device), params).image.float().cpu()


@pytest.mark.parametrize("preset", ["default", "fast", "single", "fashionr2r"])
def test_a_picture_is_the_cpus(host, on_cpu, render, precision, preset):
    ours, reference = result(host, render, preset), result(on_cpu, render, preset)
    assert (reference - result(on_cpu, render, preset, negative_prompt="")).abs().mean() * 255 > 0.5
    assert (ours - reference).abs().mean() * 255 < PRECISIONS[precision][1]


def test_captured_attention_that_lies_in_host_memory_gives_the_same_picture(host, render, monkeypatch):
    if host.device.type == "cpu":
        pytest.skip("on the CPU there is no other memory")
    pictures = []
    for budget in (FeatureBudget(2**40, 0, half=True), FeatureBudget(0, 2**40, half=True)):
        monkeypatch.setattr(host, "feature_budget", budget)
        pictures.append(result(host, render, features="captured"))
    assert torch.equal(*pictures)


def first_loss_and_end(host, kind, precision, images, folder, **values):
    options = {"steps": 6, "size": 128, "batch_size": 2, "save_every": 6, "seed": 1, "precision": precision, **values}
    request = TrainingRequest("neg-device", images, KINDS[kind].options.from_dict(options), kind=kind)
    out = folder / f"neg-device{KINDS[kind].suffix}"
    events = list(Training(request, host, folder / "run", out).run())
    losses = [event.loss for event in events if isinstance(event, StepDone)]
    assert len(losses) == 6 and all(map(np.isfinite, losses))
    return losses[0], events[-1]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "student"])  # which learns from pairs
def test_a_training_begins_as_on_the_cpu_and_ends(device, on_cpu, precision, kind, tmp_path):
    # every kind trains on a model in full precision; half precision is what its passes are computed in
    host = load_model(default_model_path(), device=device, dtype=torch.float32)
    images = ASSETS / "renders/train"
    mine, end = first_loss_and_end(host, kind, precision, images, tmp_path / "mine")
    reference, _ = first_loss_and_end(on_cpu, kind, "fp32", images, tmp_path / "cpu")
    assert isinstance(end, Finished)
    assert abs(mine / reference - 1) < PRECISIONS[precision][2]


@pytest.mark.parametrize(
    ("optimizer", "package"), [("adamw8bit", "bitsandbytes"), ("prodigy", "prodigyopt"), ("adafactor", "transformers")]
)
def test_other_optimizers_train(device, optimizer, package, tmp_path):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{optimizer} needs the package {package}")
    host = load_model(default_model_path(), device=device, dtype=torch.float32)
    rate = "1" if optimizer == "prodigy" else "1e-4"
    options = {"optimizer": optimizer, "lr": rate}
    _, end = first_loss_and_end(host, "lora", "fp32", ASSETS / "renders/train", tmp_path, **options)
    assert isinstance(end, Finished)
