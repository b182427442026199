"""The job: it learns, it tells the truth, and it loses nothing."""

from __future__ import annotations

import contextlib
import copy
import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib_negtrans.embeddings.files import EmbeddingError, read_embedding
from lib_negtrans.models.protocol import HostError
from lib_negtrans.options import ParamError
from lib_negtrans.training import kinds, step
from lib_negtrans.training import saving as keeping
from lib_negtrans.training.checkpoint import checkpoints, newest_intact
from lib_negtrans.training.data.batch import Row
from lib_negtrans.training.errors import CheckpointError, DatasetError, TrainingError
from lib_negtrans.training.events import Caching, Finished, Notice, Preview, Saved, Started, StepDone, Stopped
from lib_negtrans.training.kinds.negative import initial_vectors
from lib_negtrans.training.objective import Model, Rows, reconstruct
from lib_negtrans.training.params import TrainingParams
from tests.tiny_model import tiny_host
from tests.training_job import training_job

NAME = "neg-x"
STEPS = 7
ROOT = Path(__file__).resolve().parents[2]


def quick(**values):
    """Seven quick steps with everything in play: batches, accumulation, clipping, decay, schedule, three templates."""
    defaults = {
        "steps": STEPS, "lr": "5e-2:4, 1e-2", "vectors": 2, "batch_size": 2, "accumulation": 2, "size": 64,
        "save_every": 2, "clip_grad_norm": 0.01, "weight_decay": 0.01, "seed": 5, "template": "filewords",
        "keep": 2,
    }  # fmt: skip
    return TrainingParams.from_dict(defaults | values)


def make_pictures(folder, count=3, start=0):
    folder.mkdir()
    for i in range(count):
        values = np.random.default_rng(start + i).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{i} coat.png")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("data") / "renders")


class Run:
    """A run folder, and jobs in it."""

    def __init__(self, folder, host, pictures):
        self.folder, self.host, self.pictures = folder, host, pictures
        self.out = folder / "embeddings" / f"{NAME}.pt"

    def job(self, params=None, **options):
        values = {"images": self.pictures, "name": NAME, "run_folder": self.folder / "run", "out": self.out} | options
        return training_job(values.pop("host", self.host), params or quick(), **values)

    def finish(self, params=None, **options):
        return list(self.job(params, **options).run())

    def stopped_each_step(self, times, params=None):
        """Resume so many times, and stop after one step each time."""
        for _ in range(times):
            job = self.job(params, resume=True)
            for event in job.run():
                if isinstance(event, StepDone):
                    job.request_stop()

    @property
    def results(self):
        """The bytes of the result and of the CSV."""
        return self.out.read_bytes(), (self.folder / "run" / "loss.csv").read_bytes()

    @property
    def saved(self):
        return [number for number, _ in checkpoints(self.folder / "run")]


@pytest.fixture
def run(tmp_path, host, pictures):
    return Run(tmp_path, host, pictures)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, host, pictures):
    """An uninterrupted run and its events."""
    run = Run(tmp_path_factory.mktemp("whole"), host, pictures)
    run.events = run.finish()
    return run


def of(events, kind):
    return [event for event in events if isinstance(event, kind)]


def only(events, kind):
    (found,) = of(events, kind)
    return found


def flags(host):
    networks = (host.unet, host.vae, host.text_encoder)
    return [(p.requires_grad, p.grad is None) for n in networks for p in n.parameters()] + [
        m.training for n in networks for m in n.modules()
    ]


def test_events_tell_the_story(whole):
    started = only(whole.events, Started)
    assert (started.steps, started.start_step, started.images, started.timesteps) == (STEPS, 0, 3, (0, 300))
    assert started.caption == "coat, neg-x"
    assert [e.step for e in of(whole.events, StepDone)] == [1, 2, 3, 4, 5, 6, 7]
    assert [e.learning_rate for e in of(whole.events, StepDone)] == [5e-2] * 4 + [1e-2] * 3
    assert [e.step for e in of(whole.events, Saved)] == [2, 4, 6, 7]
    assert len(of(whole.events, Caching)) == 3
    assert any("Timesteps 0 to 300 are trained" in str(e) for e in of(whole.events, Notice))
    assert any("No picture has a .txt" in str(e) for e in of(whole.events, Notice))
    last = whole.events[-1]
    assert isinstance(last, Finished) and last.step == STEPS and last.result == whole.out
    for event in whole.events:
        json.dumps(event.to_dict())
        assert "\n" not in str(event)
    assert of(whole.events, StepDone)[0].to_dict()["event"] == "step_done"


def test_files_hold_what_was_done(whole, host):
    embedding = read_embedding(whole.out)
    assert embedding.vectors.shape == (2, host.embedding_width) and embedding.step == STEPS
    assert embedding.checkpoint_hash == host.checkpoint_hash
    for key, value in {
        "objective": "reconstruct",
        "images": 3,
        "strength": 0.3,
        "seed": 5,
        "lr": "5e-2:4, 1e-2",
    }.items():
        assert embedding.metadata[key] == value
    rows = list(csv.DictReader((whole.folder / "run" / "loss.csv").open()))
    done = of(whole.events, StepDone)
    assert [(int(r["step"]), float(r["loss"]), float(r["change"])) for r in rows] == [
        (e.step, e.loss, e.change) for e in done
    ]
    assert done[0].grad_norm > 0 and done[-1].change > 0
    assert json.loads((whole.folder / "run" / "run.json").read_text())["dataset"]["images"] == 3
    assert whole.saved == [7, 6], "two are kept"
    assert not list(whole.folder.rglob("*.tmp"))


def test_loss_falls(tmp_path, host, pictures):
    """On rows of noise that training never sees, of the pictures it does see."""
    host = copy_of(host)
    with torch.no_grad():
        for name, weight in host.unet.named_parameters():
            if "attn2.to_out.0.weight" in name:
                weight.mul_(8.0)  # so that the prompt matters in a random network
    run = Run(tmp_path, host, pictures)
    run.finish(quick(steps=80, lr="2e-2", batch_size=4, accumulation=1, clip_grad_norm=0, save_every=100))
    generator = torch.Generator().manual_seed(99)
    noise, clean = torch.randn(16, 4, 8, 8, generator=generator), torch.randn(16, 4, 8, 8, generator=generator)
    rows = Rows(clean, noise, torch.arange(16) * 18, ("coat, neg-x",) * 16)

    def loss(vectors):
        def encode(captions):
            return host.encode_prompts(captions, {NAME: vectors})

        with torch.no_grad():
            return float(reconstruct(Model(host.predict_noise, encode, host.alphas_cumprod), rows).mean())

    start, learnt = initial_vectors(host, "style", 2), read_embedding(run.out).vectors
    moved = (learnt - start).norm()
    before, after = loss(start), loss(learnt)
    assert after < before - 0.005, (before, after)
    for _ in range(3):
        elsewhere = torch.randn(start.shape, generator=generator)
        assert after < loss(start + elsewhere * moved / elsewhere.norm()) - 0.005, "any way so far would have done"


def test_rate_and_limit_reach_the_optimizer(run, clipped_norms):
    events = run.finish(quick(steps=2, lr="5e-2:1, 1e-7", clip_grad_norm=1e-3, weight_decay=0))
    first, second = of(events, StepDone)
    assert first.grad_norm > 1e-3 and clipped_norms == pytest.approx([1e-3] * 2, rel=1e-4)
    # AdamW's first step is as long as the rate in every component
    assert first.change == pytest.approx(5e-2 * run.host.embedding_width**0.5, rel=1e-2)
    assert abs(second.change - first.change) < 1e-5


def test_accumulation_is_a_mean(run, monkeypatch, tmp_path):
    generator = torch.Generator().manual_seed(3)
    row = [Row(*torch.randn(2, 4, 8, 8, generator=generator), timestep, NAME) for timestep in (50, 250)]
    monkeypatch.setattr(step.RowSource, "draw", lambda self, count, step=0: row * (count // 2))
    done = []
    for passes in (1, 3):
        other = Run(tmp_path / str(passes), run.host, run.pictures)
        done.append(only(other.finish(quick(steps=1, accumulation=passes)), StepDone))
    assert done[0].grad_norm == pytest.approx(done[1].grad_norm, rel=1e-4)
    assert done[0].loss == pytest.approx(done[1].loss, rel=1e-6)


def test_same_seed_same_bytes_other_seed_other_bytes(run, whole, tmp_path):
    run.finish()
    assert run.results == whole.results
    other = Run(tmp_path / "other", run.host, run.pictures)
    other.finish(quick(seed=6))
    assert other.results[0] != whole.results[0]


def test_the_global_generator_is_left_alone(run):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    run.finish(quick(steps=2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("stop_at", [1, 3, 4, 6])
def test_stop_and_resume_equal_an_uninterrupted_run(run, whole, stop_at):
    job = run.job()
    events = []
    for event in job.run():
        events.append(event)
        if isinstance(event, StepDone) and event.step == stop_at:
            job.request_stop()
    stopped = events[-1]
    assert isinstance(stopped, Stopped) and stopped.step == stop_at and "resume" in str(stopped)
    assert not run.out.exists() and not of(events, Finished)
    assert torch.equal(read_embedding(stopped.result).vectors, job.weights)
    assert stopped.result.name == run.out.name
    events = run.finish(resume=True)
    assert only(events, Started).start_step == stop_at
    assert [e.step for e in of(events, StepDone)] == list(range(stop_at + 1, STEPS + 1))
    assert run.results == whole.results


def test_stop_in_another_generator_step_each_time(run, whole):
    """Stopped after every single step, seven times."""
    run.stopped_each_step(STEPS)
    assert run.results == whole.results


def test_stop_while_reading_pictures(run):
    job = run.job()
    events = []
    for event in job.run():
        events.append(event)
        job.request_stop()
    assert events[-1] == Stopped(0, STEPS, None, None)
    assert not run.out.exists() and run.saved == []


KILLED = """
import os, signal, sys
from tests.unit.test_training_negative import *
run = Run(Path(sys.argv[1]), tiny_host(), Path(sys.argv[2]))
if sys.argv[3] == "write":  # in the middle of a checkpoint: the temporary file is there, its name is not yet
    replace, calls = os.replace, []
    def kill(*args):
        if "checkpoint" in str(args[1]):
            calls.append(args)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*args)
    os.replace = kill
for event in run.job().run():
    if isinstance(event, StepDone) and str(event.step) == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("moment", "resumes_at"), [("5", 4), ("write", 4)])
def test_sigkill_and_resume_equal_an_uninterrupted_run(run, whole, moment, resumes_at):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(run.folder), str(run.pictures), moment],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not run.out.exists()
    assert bool(list(run.folder.rglob("*.tmp"))) == (moment == "write")
    events = run.finish(resume=True)
    assert not list(run.folder.rglob("*.tmp"))
    assert only(events, Started).start_step == resumes_at
    assert run.results == whole.results


def test_killed_after_the_last_write_resumes_to_success(run, whole):
    run.finish()
    before = run.results
    events = run.finish(resume=True)
    assert isinstance(events[-1], Finished) and not of(events, StepDone)
    assert run.results == before == whole.results


def test_killed_between_last_checkpoint_and_embedding(run, whole):
    run.finish()
    run.out.unlink()
    assert isinstance(run.finish(resume=True)[-1], Finished)
    assert run.results == whole.results


def test_a_truncated_checkpoint_falls_back_and_says_so(run, whole):
    job = run.job()
    for event in job.run():
        if isinstance(event, StepDone) and event.step == 6:
            job.request_stop()
    newest = checkpoints(run.folder / "run")[0][1]
    newest.write_bytes(newest.read_bytes()[:1000])
    events = run.finish(resume=True)
    assert "checkpoint-00000006.safetensors is cut off" in of(events, Notice)[0].text
    assert only(events, Started).start_step == 4
    assert run.results == whole.results


def test_more_steps_go_on_from_a_finished_run(run, whole):
    run.finish(quick(steps=4))
    with pytest.raises(TrainingError, match="exists already and is not this run's"):
        run.finish(resume=True)
    run.finish(resume=True, overwrite=True)
    assert run.results == whole.results


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lr": "1e-3"}, "Learning rate '5e-2:4, 1e-2' before, '1e-3' now"),
        ({"seed": 6}, "Seed 5 before, 6 now"),
        ({"vectors": 3}, "Vectors 2 before, 3 now"),
        ({"strength": 0.5}, "Strength 0.3 before, 0.5 now"),
        ({"steps": 2}, "has 3 steps already, not 2"),
    ],
)
def test_resume_with_other_parameters_is_refused(stopped_at_three, change, says):
    before = sorted(p.name for p in (stopped_at_three.folder / "run").iterdir())
    with pytest.raises(CheckpointError, match=says):
        stopped_at_three.finish(quick(**change), resume=True)
    assert sorted(p.name for p in (stopped_at_three.folder / "run").iterdir()) == before


@pytest.fixture(scope="module")
def stopped_at_three(tmp_path_factory, host, pictures):
    run = Run(tmp_path_factory.mktemp("stopped"), host, pictures)
    job = run.job()
    for event in job.run():
        if isinstance(event, StepDone) and event.step == 3:
            job.request_stop()
    return run


def test_resume_with_other_pictures_or_model_is_refused(stopped_at_three, tmp_path):
    others = make_pictures(tmp_path / "others")
    (others / "0 coat.txt").write_text("a red coat")
    with pytest.raises(CheckpointError, match="other pictures or captions"):
        stopped_at_three.finish(resume=True, images=others)
    with pytest.raises(CheckpointError, match="the model's weights"):
        stopped_at_three.finish(resume=True, host=tiny_host(seed=1))


def test_a_run_is_not_started_over_another_unasked(stopped_at_three, run):
    with pytest.raises(TrainingError, match="holds a run of 3 steps: resume it"):
        stopped_at_three.job()
    run.finish(quick(steps=2))
    run.finish(quick(steps=1), overwrite=True)
    assert run.saved == [1]


def test_resume_without_a_checkpoint_starts_and_says_so(run):
    events = run.finish(quick(steps=1), resume=True)
    assert "There is no checkpoint" in of(events, Notice)[0].text
    assert isinstance(events[-1], Finished)


def test_an_existing_embedding_is_kept(run):
    run.out.parent.mkdir(parents=True)
    run.out.write_bytes(b"mine")
    for resume in (False, True):
        with pytest.raises(TrainingError, match="exists already"):
            run.job(resume=resume)
    assert run.out.read_bytes() == b"mine"
    run.finish(quick(steps=1), overwrite=True)
    assert read_embedding(run.out).step == 1


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"params": TrainingParams(lr="often", size=64)}, ParamError, "not a number"),
        ({"params": TrainingParams(size=65)}, ParamError, "multiple of 8"),
        ({"params": TrainingParams(template="none-such", size=64)}, TrainingError, "no caption template"),
        ({"name": "Bad Name"}, EmbeddingError, "use only"),
        ({"name": "other"}, (TrainingError, EmbeddingError), "must be called|ordinary word"),
    ],
)
def test_wrong_calls_are_refused_at_once(run, change, error, says):
    with pytest.raises(error, match=says):
        run.job(**change)
    assert not (run.folder / "run").exists()


def test_an_empty_folder_is_one_sentence(run, tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DatasetError, match="No pictures were found"):
        run.finish(images=tmp_path / "nothing")


def test_a_schedule_that_ends_says_so(run):
    events = run.finish(quick(lr="1e-3:2"))
    assert any("ends at step 2: training stops there, not at 7" in str(e) for e in of(events, Notice))
    assert events[-1].step == 2 and read_embedding(run.out).step == 2


def fail_at(number, error):
    """A predict_noise that raises or gives `error` in its call `number`."""
    calls = [0]

    def make(predict):
        def broken(*args):
            calls[0] += 1
            if calls[0] == number:
                if isinstance(error, BaseException):
                    raise error
                return predict(*args) * error
            return predict(*args)

        return broken

    return make


def copy_of(host):
    """Other networks with the same weights."""
    copied = copy.copy(host)
    for name in ("unet", "vae", "text_encoder"):
        setattr(copied, name, copy.deepcopy(getattr(host, name)))
    return copied


@pytest.fixture
def own_host(host):
    copied = copy_of(host)
    copied.unet.requires_grad_(True)  # as in the webui
    return copied


@pytest.mark.parametrize("how", ["success", "stop", "closed", "error", "nan", "ctrl-c"])
def test_the_model_is_put_back(run, own_host, how):
    broken = {"error": RuntimeError("boom"), "nan": float("nan"), "ctrl-c": KeyboardInterrupt()}
    if how in broken:
        own_host.predict_noise = fail_at(6, broken[how])(own_host.predict_noise)
    before = flags(own_host)
    job = run.job(quick(steps=3, gradient_checkpointing=True), host=own_host)
    try:
        for event in job.run():
            if isinstance(event, StepDone):
                assert all(p.grad is None and not p.requires_grad for p in own_host.unet.parameters())
                if how == "stop":
                    job.request_stop()
                if how == "closed":
                    break
    except TrainingError:
        assert how in ("error", "nan")
    del event
    assert flags(own_host) == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (float("nan"), "loss became NaN.*--no-half"),
        (RuntimeError("boom"), "RuntimeError: boom"),
        (RuntimeError("CUDA out of memory. Tried"), "Memory ran out: lower the batch size"),
        (HostError("the model was unloaded."), "failed. the model was unloaded."),
    ],
)
def test_a_failure_keeps_the_good_steps_and_says_where(run, whole, own_host, error, says):
    own_host.predict_noise = fail_at(10, error)(own_host.predict_noise)  # two a step: in step 5
    events = []
    with pytest.raises(TrainingError, match=says) as caught:
        for event in run.job(host=own_host).run():
            events.append(event)
    assert "The 4 good steps are kept in" in str(caught.value) and "\n" not in str(caught.value)
    assert not of(events, Finished) and not run.out.exists()
    content, _, _ = newest_intact(run.folder / "run")
    assert content["step"] == 4 and torch.isfinite(content["vectors"]).all()
    run.finish(resume=True)
    assert run.results == whole.results


def test_a_gradient_that_is_nan_stops_too(run, own_host):
    own_host.predict_noise = fail_at(10, 1.0)(own_host.predict_noise)
    real = step.Stepper._gradient

    def bad(self):
        loss, grads = real(self)
        return loss, [grad * float("inf") for grad in grads] if self.state.step == 2 else grads

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step.Stepper, "_gradient", bad)
        with pytest.raises(TrainingError, match=r"gradient became NaN.*2 good steps are kept"):
            run.finish(host=own_host)


def test_an_overflow_in_half_precision_repeats_the_step(run, whole, monkeypatch):
    """With the loss scale on, steps whose gradient overflows are done again at half the scale, on the same data."""
    monkeypatch.setattr(
        step.LossScale, "__init__", lambda self, enabled: vars(self).update(enabled=True, value=8.0, good=0)
    )
    real, scales = step.Stepper._gradient, []

    def overflowing(self):
        loss, grads = real(self)
        scales.append(self.scale.value)
        return loss, [grad * float("inf") for grad in grads] if self.scale.value > 2.0 else grads

    monkeypatch.setattr(step.Stepper, "_gradient", overflowing)
    events = run.finish()
    assert scales == [8.0, 4.0] + [2.0] * STEPS
    # scaling by a power of two changes nothing else
    assert run.results == whole.results
    assert [e.step for e in of(events, StepDone)] == list(range(1, STEPS + 1))


def test_ctrl_c_anywhere_leaves_a_checkpoint(run, whole, own_host):
    own_host.predict_noise = fail_at(8, KeyboardInterrupt())(own_host.predict_noise)  # within step 4
    events = run.finish(host=own_host)
    assert isinstance(events[-1], Stopped) and events[-1].step == 3
    assert run.saved[0] == 3
    run.finish(resume=True)
    assert run.results == whole.results


def test_ctrl_c_in_the_optimizer_is_undone(run, whole, monkeypatch):
    """Half a step must not get into the checkpoint."""
    real, calls = torch.optim.AdamW.step, []

    def interrupted(self, *args, **kwargs):
        result = real(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", interrupted)
        assert run.finish()[-1].step == 3
    run.finish(resume=True)
    assert run.results == whole.results


def test_leaving_the_loop_leaves_a_checkpoint(run, whole):
    running = run.job().run()
    for event in running:
        if isinstance(event, StepDone) and event.step == 3:
            break
    running.close()
    assert run.saved[0] == 3
    run.finish(resume=True)
    assert run.results == whole.results


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda out: out.detach(), "No gradient reaches the vectors"),
        (lambda out: out * 0 + out.detach(), "No gradient reaches the vectors"),
    ],
)
def test_gradient_self_test(run, own_host, bad, says):
    real = own_host.predict_noise
    own_host.predict_noise = lambda *args: bad(real(*args))
    with pytest.raises(TrainingError, match=f"{says}.*No step was done") as caught:
        run.finish(host=own_host)
    assert "--no-half" in str(caught.value)
    assert run.saved == [] and not run.out.exists()


def test_a_host_that_does_not_freeze_is_found_out(run, own_host):
    own_host.training = lambda *options: contextlib.nullcontext()
    with pytest.raises(TrainingError, match="UNet collects gradients"):
        run.finish(host=own_host)


def test_gradients_the_host_left_earlier_are_not_blamed_on_us(run, own_host):
    for p in own_host.unet.parameters():
        p.grad = torch.ones_like(p)
    assert isinstance(run.finish(quick(steps=1), host=own_host)[-1], Finished)


def test_a_change_of_model_in_between_stops(run, own_host):
    events = []
    with pytest.raises(TrainingError, match="The model was changed"):
        for event in run.job(host=own_host).run():
            events.append(event)
            if isinstance(event, StepDone) and event.step == 3:
                own_host.__dict__["checkpoint_hash"] = "other"
    assert of(events, StepDone)[-1].step == 3


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_under_no_grad_and_inference_mode(run, whole, mode):
    """The mode may be set anew for every event: a page asks for each in whatever thread is free."""
    running = run.job().run()
    while True:
        with mode():
            if isinstance(next(running), Finished):
                break
    running.close()
    assert run.results == whole.results


def test_previews_come_when_asked_and_cannot_end_a_run(run, whole):
    seen = []

    def preview(number, vectors):
        seen.append((number, torch.is_grad_enabled(), vectors[NAME].shape))
        torch.manual_seed(0)
        if number == 4:
            raise ValueError("no space")
        vectors[NAME].zero_()
        return f"picture {number}"

    events = run.finish(quick(preview_every=2), preview=preview)
    assert [number for number, _, _ in seen] == [2, 4, 6, 7]
    assert not any(grad for _, grad, _ in seen)
    assert [e.result for e in of(events, Preview)] == ["picture 2", "picture 6", "picture 7"]
    assert any("preview failed (no space)" in str(e) for e in of(events, Notice))
    assert run.results == whole.results


def test_a_full_disk_at_a_checkpoint_is_a_warning(run, whole, monkeypatch):
    real = keeping.save_checkpoint

    def full(folder, number, *args):
        if number < 6:
            raise OSError(28, "No space left on device")
        return real(folder, number, *args)

    monkeypatch.setattr(keeping, "save_checkpoint", full)
    events = run.finish()
    assert sum("could not be written (No space left" in str(e) for e in of(events, Notice)) == 2
    assert run.results == whole.results


def test_a_full_disk_at_the_end_is_no_success(run, whole, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(kinds.negative, "write_embedding", full)
        events = []
        with pytest.raises(TrainingError, match=r"No space left.* 7 steps are kept in .*resume to write them"):
            for event in run.job().run():
                events.append(event)
    assert not of(events, Finished)
    run.finish(resume=True)
    assert run.results == whole.results
