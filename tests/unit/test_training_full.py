"""Full finetunes: the file is the base file with the trained tensors in it, and nothing of the model is changed."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_negtrans.models.single_file import TEXT_PREFIX, UNET_PREFIX
from lib_negtrans.models.standalone import load_model
from lib_negtrans.training.checkpoint import newest_intact
from lib_negtrans.training.errors import TrainingError
from lib_negtrans.training.events import Finished, StepDone
from lib_negtrans.training.kinds import KINDS
from lib_negtrans.training.positive_params import FullParams
from lib_negtrans.training.request import TrainingRequest
from lib_negtrans.training.run import Training
from tests.tiny_model import ldm_state, tiny_host, tiny_networks
from tests.unit.test_training_lora import NAME, Run, make_photos, model_state, of, small


def full(**values):
    return FullParams.from_dict({"steps": 3, "lr": "1e-4", "size": 64, "save_every": 1, "ema": 0.9, "seed": 3} | values)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A checkpoint with a tensor that nothing reads, which has to be in the result too."""
    path = tmp_path_factory.mktemp("model") / "base.safetensors"
    save_file(ldm_state(tiny_networks()) | {"model_ema.decay": torch.tensor(0.9)}, path)
    return path


@pytest.fixture(scope="module")
def host(base):
    return load_model(base, device="cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, host, photos):
    run = Run(tmp_path_factory.mktemp("whole"), host, photos, "full")
    run.before = model_state(host)
    run.events = run.finish(full(text_encoder=True, precision="bf16"))
    return run


def test_it_trains_and_leaves_the_model_as_it_was(whole, host):
    assert isinstance(whole.events[-1], Finished) and of(whole.events, StepDone)[-1].change > 0
    assert all(torch.equal(a, b) for a, b in zip(whole.before, model_state(host), strict=True))
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in host.unet.parameters())


def test_only_trained_tensors_of_the_base_file_are_others(whole, base):
    before, after = load_file(base), load_file(whole.out)
    assert before.keys() == after.keys()
    for key, value in after.items():
        if key.startswith((UNET_PREFIX, TEXT_PREFIX)) and "position_ids" not in key:
            assert value.dtype == torch.float32
        else:
            assert torch.equal(value, before[key]) and value.dtype == before[key].dtype
    changed = [key for key, value in after.items() if not torch.equal(value, before[key].to(value.dtype))]
    assert len(changed) > 500 and {key.split(".")[0] for key in changed} == {"model", "cond_stage_model"}


def test_the_file_predicts_what_the_trained_model_does(whole, host):
    payload = newest_intact(whole.folder / "run")[0]
    trainable = KINDS["full"](host, full(text_encoder=True), NAME)
    with torch.no_grad(), trainable.applied(payload["parts"]["average"]["vectors"]):
        live = trainable.probe()
    loaded = KINDS["full"](load_model(whole.out, device="cpu"), full(), NAME).probe()
    before = trainable.probe()
    assert (loaded - live).norm() <= 1e-3 * live.norm() and (live - before).norm() > 5e-3 * live.norm()


def test_a_stopped_and_resumed_run_is_the_same_to_the_byte(tmp_path, whole, host, photos):
    run = Run(tmp_path, host, photos, "full")
    run.stopped_each_step(3, full(text_encoder=True, precision="bf16"))
    assert run.results == whole.results


def test_a_model_without_a_file_and_one_with_loras_are_refused(tmp_path, photos, host):
    with pytest.raises(TrainingError, match=r"checkpoint's file"):
        Run(tmp_path, tiny_host(), photos, "full").job(full())
    host.loras = ("some",)
    try:
        with pytest.raises(TrainingError, match="leave --lora out"):
            Run(tmp_path, host, photos, "full").job(full())
    finally:
        host.loras = ()


def test_the_result_never_takes_the_place_of_its_base(base, host, photos, tmp_path):
    request = TrainingRequest(base.stem, photos, full(), kind="full", overwrite=True)
    with pytest.raises(TrainingError, match="choose another name for the result"):
        Training(request, host, tmp_path / "run", base)


def test_the_yaml_of_the_base_goes_with_the_result(tmp_path, host, photos):
    run, config = Run(tmp_path, host, photos, "full"), host.path.with_suffix(".yaml")
    config.write_text("model: a", encoding="utf-8")
    try:
        run.finish(full(steps=1))
    finally:
        config.unlink()
    assert run.out.with_suffix(".yaml").read_text(encoding="utf-8") == "model: a"


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_file_that_is_not_the_live_model_is_not_written(tmp_path, host, photos, kind, monkeypatch):
    """As if the keys had other names: the file would hold the model before the training."""
    trained = KINDS[kind]
    real = trained.read_file

    def blank(self, file):
        return {
            name: torch.zeros_like(v) if kind == "lora" else self.original[name] for name, v in real(self, file).items()
        }

    monkeypatch.setattr(trained, "read_file", blank)
    run = Run(tmp_path, host, photos, kind)
    params = full(steps=1) if kind == "full" else small(steps=1)
    with pytest.raises(TrainingError, match="was not written: read back") as error:
        run.finish(params)
    assert "resume to write them" in str(error.value)
    assert not run.out.exists()
