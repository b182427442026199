"""What a training writes, opened by diffusers and by kohya's scripts: the predictions are those of our own host.

NEGTRANS_KOHYA names a clone of kohya-ss/sd-scripts, NEGTRANS_PEERS_PYTHON a Python with diffusers, peft and what those
scripts import.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline

from lib_negtrans.lora.apply import load_model
from lib_negtrans.models.standalone import default_model_path
from lib_negtrans.training.kinds import KINDS
from lib_negtrans.training.request import TrainingRequest
from lib_negtrans.training.run import Training
from tests.unit.test_training_lora import make_photos

ROOT = Path(__file__).resolve().parents[2]
KOHYA, PYTHON = os.environ.get("NEGTRANS_KOHYA"), os.environ.get("NEGTRANS_PEERS_PYTHON", sys.executable)
ASKED = {
    "prompt": "a photo of a dress", "timestep": 281,
    "latent": torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5)),
}  # fmt: skip
TRAINED = {
    "photo-lora": {"rank": 4, "alpha": 8.0},
    "photo-locon": {"rank": 4, "alpha": 2.0, "conv_rank": 2, "text_encoder": True},
    "photo-full": {"text_encoder": True, "lr": "1e-4"},
}

pytestmark = pytest.mark.skipif(KOHYA is None, reason="NEGTRANS_KOHYA names no clone of kohya-ss/sd-scripts")


def predictions(base: Path, loras=()):
    """[context, noise] of our own host; loras: files."""
    host = load_model(base, device="cpu", loras=loras)
    context = host.encode_prompts([ASKED["prompt"]])
    return [context, host.predict_noise(ASKED["latent"], torch.tensor([ASKED["timestep"]]), context)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The demonstration model, its config, what was trained on it, and what the others have predicted."""
    folder = tmp_path_factory.mktemp("owners")
    model = default_model_path()
    for suffix in (".safetensors", ".yaml"):
        shutil.copy(model.with_suffix(suffix), folder / f"base{suffix}")
    shutil.copytree(model.parent / "clip", folder / "clip")
    host = load_model(folder / "base.safetensors", device="cpu")
    photos = make_photos(folder / "photos")
    for name, options in TRAINED.items():
        kind = name.removeprefix("photo-").replace("locon", "lora")
        params = KINDS[kind].options.from_dict({"steps": 4, "lr": "1e-2", "size": 64, "ema": 0.1} | options)
        request = TrainingRequest(name, photos, params, kind=kind)
        for _ in Training(request, host, folder / f"{name}.run", folder / f"{name}.safetensors").run():
            pass
    parts = (host.vae, host.text_encoder, host.tokenizer, host.unet, PNDMScheduler(), None, None)
    StableDiffusionPipeline(*parts, requires_safety_checker=False).save_pretrained(folder / "config")
    for weights in (folder / "config").rglob("*.safetensors"):
        weights.unlink()
    torch.save(ASKED, folder / "asked.pt")
    done = subprocess.run(
        [PYTHON, str(ROOT / "tests" / "owners.py"), str(folder), str(Path(KOHYA).resolve())],
        env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("diffusers", "photo-lora"), ("diffusers", "photo-locon"), ("diffusers", "photo-full"),
        ("kohya", "photo-lora"), ("kohya", "photo-locon"),
    ],
)  # fmt: skip
def test_the_predictions_are_ours(folder, program, name):
    base, file = folder / "base.safetensors", folder / f"{name}.safetensors"
    ours = predictions(file) if name == "photo-full" else predictions(base, [file])
    theirs = torch.load(folder / f"{program}-{name}.pt")
    for mine, other, before in zip(ours, theirs, predictions(base), strict=True):
        error, effect = (mine - other).norm() / mine.norm(), (mine - before).norm() / mine.norm()
        print(f"{program} {name}: {float(error):.1e}, of an effect of {float(effect):.1e}")
        assert error <= 1e-5
    assert effect > 1e-2
