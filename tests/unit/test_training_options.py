"""Objectives with photos, optimizers, precision, averages: what they do, and that a resumed run equals a whole one."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

from lib_negtrans.embeddings.files import read_embedding
from lib_negtrans.options import ParamError
from lib_negtrans.training.checkpoint import newest_intact
from lib_negtrans.training.data.sets import Folders
from lib_negtrans.training.errors import CheckpointError, TrainingError
from lib_negtrans.training.events import Notice, StepDone
from lib_negtrans.training.kinds.negative import shorten
from lib_negtrans.training.optimizers import MovingAverage, make_optimizer
from lib_negtrans.training.precision import autocast_dtype
from tests.tiny_model import tiny_host
from tests.unit.test_training_negative import Run, make_pictures, of, quick

# one option of each kind at a time, all with what they need to be in play
SETTINGS = {
    "contrastive": {"objective": "contrastive", "photo_weight": 0.5},
    "average": {"ema": 0.9},
    "losses": {"huber": 0.5, "min_snr_gamma": 5.0, "norm_decay": 0.5, "max_timestep": 999},
    "bf16": {"precision": "bf16"},
    "validated": {"validate_every": 2, "result": "best"},
    "prodigy": {"optimizer": "prodigy", "lr": "1"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("data")
    folders = Folders(make_pictures(base / "renders"), base / "photos", base / "held", base / "held photos")
    for folder, start in ((folders.photos, 10), (folders.validation, 20), (folders.validation_photos, 30)):
        make_pictures(folder, 2, start)
    return folders


def small(**values):
    return quick(**({"steps": 4, "batch_size": 1, "accumulation": 1} | values))


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_resumed_run_equals_a_whole_one(tmp_path, host, folders, setting):
    if setting == "prodigy":
        pytest.importorskip("prodigyopt")
    params = small(**SETTINGS[setting])
    whole, halved = (Run(tmp_path / name, host, folders) for name in ("whole", "halved"))
    whole.finish(params)
    halved.stopped_each_step(4, params)
    assert halved.results == whole.results
    payloads = [newest_intact(run.folder / "run")[0] for run in (whole, halved)]
    assert torch.equal(payloads[0]["generator"], payloads[1]["generator"])
    assert repr(payloads[0]["parts"]) == repr(payloads[1]["parts"])


def test_photos_change_what_is_learnt_and_belong_to_the_run(tmp_path, host, folders):
    plain, contrastive = (Run(tmp_path / name, host, folders) for name in ("plain", "contrastive"))
    plain.finish(small())
    contrastive.finish(small(objective="contrastive"))
    assert not torch.equal(read_embedding(plain.out).vectors, read_embedding(contrastive.out).vectors)
    assert read_embedding(contrastive.out).metadata["photos"] == 2
    # without weight they draw random numbers, and no more
    resumed = Run(tmp_path / "contrastive", host, Folders(folders.renders, folders.validation))
    with pytest.raises(CheckpointError, match="other pictures"):
        resumed.finish(small(objective="contrastive", steps=5), resume=True, overwrite=True)


def test_contrastive_needs_photos_and_says_so_at_once(tmp_path, host, folders):
    with pytest.raises(TrainingError, match="give a folder of them"):
        Run(tmp_path, host, folders.renders).job(small(objective="contrastive"))
    run = Run(tmp_path, host, Folders(folders.renders, folders.photos))
    assert any("photos are not used" in str(e) for e in of(run.finish(small(steps=1)), Notice))


def test_the_average_is_the_result_and_lags_behind(tmp_path, host, folders):
    run = Run(tmp_path, host, folders)
    run.finish(small(ema=0.9))
    payload = newest_intact(run.folder / "run")[0]
    average = payload["parts"]["average"]["vectors"]
    written = read_embedding(run.out).vectors
    assert torch.equal(written, average) and not torch.equal(written, payload["vectors"])
    assert run.job(small(ema=0.9), resume=True, overwrite=True) is not None
    plain = Run(tmp_path / "plain", host, folders)
    plain.finish(small())
    assert torch.equal(read_embedding(plain.out).vectors, payload["vectors"]), "the training itself is untouched"


def test_the_average_forgets_its_start():
    average = MovingAverage(torch.zeros(1, 2), 0.99)
    for _ in range(3):
        average.update(torch.ones(1, 2))
    # decays .1, 2/11, 3/12
    assert float(average.weights[0, 0]) == pytest.approx(1 - 0.1 * (2 / 11) * (3 / 12))


def test_norm_decay_shortens_long_vectors_only():
    vectors = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    shorten(vectors, 1.0, 0.25)
    assert torch.allclose(vectors, torch.tensor([[2.4, 3.2], [0.3, 0.4], [0.0, 0.0]]))


def test_a_full_norm_decay_holds_the_vectors_at_a_tokens_length(tmp_path, host, folders):
    run = Run(tmp_path, host, folders)
    run.finish(small(lr="1", norm_decay=1.0, weight_decay=0))
    usual = float(host.token_table()[0].norm(dim=1).median())
    assert torch.allclose(read_embedding(run.out).vectors.norm(dim=1), torch.tensor(usual), rtol=1e-4)


@pytest.mark.parametrize(("name", "package"), [("adamw8bit", "bitsandbytes"), ("prodigy", "prodigyopt")])
def test_a_missing_package_is_one_sentence(tmp_path, host, folders, name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(TrainingError, match=f"needs the package {package}.*use the optimizer adamw") as caught:
        Run(tmp_path, host, folders).finish(small(optimizer=name))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_8_bit_adamw_steps():
    vectors = torch.ones(2, 64, requires_grad=True)
    optimizer = make_optimizer(small(optimizer="adamw8bit"), [([vectors], 1.0)])
    vectors.grad = torch.ones(2, 64)
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    assert float(vectors.detach().mean()) == pytest.approx(0.9, abs=0.01)


def test_prodigy_wants_the_rate_1(tmp_path, host, folders):
    pytest.importorskip("prodigyopt")
    events = Run(tmp_path, host, folders).finish(small(optimizer="prodigy", steps=1, lr="5e-3"))
    assert any("finds the step size by itself" in str(e) for e in of(events, Notice))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_autocast_computes_in_half_and_is_over_afterwards(tmp_path, folders, precision, monkeypatch):
    gradients, step = [], torch.optim.AdamW.step

    def recorded(self, *args, **options):
        gradients.append(self.param_groups[0]["params"][0].grad.flatten().clone())
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    host = tiny_host()
    with torch.no_grad():  # random weights of full size amplify what is rounded, layer by layer
        for weight in host.unet.parameters():
            weight.mul_(0.5)
    seen = []
    host.unet.conv_out.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    run = Run(tmp_path, host, folders)
    run.finish(small(precision=precision))
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    assert set(seen) == {half}
    scale = newest_intact(run.folder / "run")[0]["parts"]["scale"]["value"]
    assert (scale > 1.0) == (precision == "fp16"), "only fp16 needs a loss scale"
    host.predict_noise(torch.zeros(1, 4, 8, 8), 5, host.encode_prompts([""]))
    assert seen[-1] == torch.float32
    full = Run(tmp_path / "full", host, folders)
    first = len(gradients)
    full.finish(small())
    # AdamW steps equally far for a gradient that is all rounding: so not what was learnt, but what it was learnt from
    assert torch.nn.functional.cosine_similarity(gradients[0], gradients[first], dim=0) > 0.95


def test_full_precision_of_half_weights_is_refused(tmp_path, folders):
    host = tiny_host(dtype=torch.float16)
    assert autocast_dtype("model", host) is None
    with pytest.raises(TrainingError, match=r"weights are float16.*--no-half.*--dtype float32"):
        Run(tmp_path, host, folders).job(small(precision="fp32"))


def test_the_gradient_is_clipped_after_it_is_unscaled(tmp_path, host, folders, clipped_norms):
    """With a scale of 2^16 in play, the limit is of the true gradient."""
    events = Run(tmp_path, host, folders).finish(small(precision="fp16", clip_grad_norm=1e-3, steps=2))
    assert clipped_norms == pytest.approx([1e-3] * 2, rel=1e-3)
    assert all(1e-3 < e.grad_norm < 10.0 for e in of(events, StepDone))


@pytest.mark.parametrize("change", [{"patience": 3}, {"result": "best"}])
def test_options_of_validation_need_it(change):
    with pytest.raises(ParamError, match="needs validation: set Validate every"):
        quick(**change)
