"""LoRAs: trained through the loop, written, read back, and nothing of the model changed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from lib_negtrans.training.checkpoint import newest_intact
from lib_negtrans.training.events import Finished, StepDone
from lib_negtrans.training.positive_params import LoraParams
from lib_negtrans.training.request import TrainingRequest
from lib_negtrans.training.run import Training
from tests.unit.test_training_negative import Run as NegativeRun
from tests.unit.test_training_negative import of

NAME = "photo-look"


def small(**values):
    defaults = {
        "steps": 4, "lr": "1e-2", "size": 64, "rank": 2, "alpha": 2.0, "save_every": 2, "conv_rank": 2,
        "text_encoder": True, "batch_size": 2, "seed": 3,
    }  # fmt: skip
    return LoraParams.from_dict(defaults | values)


def make_photos(folder, count=3, start=0):
    folder.mkdir(parents=True)
    for i in range(count):
        values = np.random.default_rng(start + i).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"coat {i}, red", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("data") / "photos")


class Run(NegativeRun):
    """A run folder, and jobs of one kind in it."""

    suffix = ".safetensors"

    def __init__(self, folder, host, photos, kind="lora"):
        self.folder, self.host, self.photos, self.kind = folder, host, photos, kind
        self.out = folder / f"{NAME}.safetensors"

    def job(self, params=None, preview=None, **options):
        request = TrainingRequest(NAME, self.photos, params or small(), kind=self.kind, **options)
        return Training(request, self.host, self.folder / "run", self.out, preview=preview)


def model_state(host):
    networks = (host.unet, host.vae, host.text_encoder)
    return [value.clone() for network in networks for value in network.state_dict().values()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, host, photos):
    run = Run(tmp_path_factory.mktemp("whole"), host, photos)
    run.before = model_state(host)
    run.events = run.finish()
    return run


def test_it_trains_and_leaves_the_model_as_it_was(whole, host):
    assert isinstance(whole.events[-1], Finished)
    assert all(torch.equal(a, b) for a, b in zip(whole.before, model_state(host), strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in host.unet.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in host.unet.parameters())
    steps = of(whole.events, StepDone)
    assert len(steps) == 4 and steps[-1].change > 0 and steps[0].prior_loss is None


def test_the_file_is_kohyas(whole, host):
    content = load_file(whole.out)
    names = {name.partition(".")[0] for name in content}
    assert (
        len(names) == 277 + 12
    )  # widths of 32 and 32 need one shortcut less; the tiny text encoder has two layers of six
    for name in names:
        down, up = content[f"{name}.lora_down.weight"], content[f"{name}.lora_up.weight"]
        assert down.shape[0] == up.shape[1] == 2 and down.ndim == up.ndim and down.dtype == torch.float16
        assert float(content[f"{name}.alpha"]) == 2.0
    assert sum(bool(content[f"{name}.lora_up.weight"].any()) for name in names) > 250
    with safe_open(whole.out, "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_module"] == "networks.lora" and metadata["ss_network_dim"] == "2"
    assert json.loads(metadata["ss_tag_frequency"]) == {"photos": {"coat 0": 1, "coat 1": 1, "coat 2": 1, "red": 3}}
    assert json.loads(whole.out.with_suffix(".json").read_text())["sd version"] == "SD1"


def test_a_stopped_and_resumed_run_is_the_same_to_the_byte(tmp_path, whole, host, photos):
    run = Run(tmp_path, host, photos)
    run.stopped_each_step(4)
    assert run.results == whole.results


def test_the_file_holds_the_average_and_the_last_weights_lie_beside_it(whole):
    payload = newest_intact(whole.folder / "run")[0]
    average, last = payload["parts"]["average"]["vectors"], payload["vectors"]
    key = next(name for name in last if name.endswith("lora_up.weight"))
    assert torch.equal(load_file(whole.out)[key], average[key].half()) and not torch.equal(average[key], last[key])
    assert torch.equal(load_file(whole.folder / "run" / "unaveraged" / f"{NAME}.safetensors")[key], last[key].half())
