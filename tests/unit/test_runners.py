"""The runner's protocol: any runner may do the translate command's work, in this process or in another."""

from __future__ import annotations

import multiprocessing
import pickle
import time
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from PIL import Image

from lib_negtrans.apps.cli import translate
from lib_negtrans.models import standalone
from lib_negtrans.models.standalone import ModelChoice, load_model
from lib_negtrans.runners.local import Local
from lib_negtrans.runners.runner import ItemDone, ItemFailed, Worker, make_item
from lib_negtrans.translation.folder import Item, plan
from lib_negtrans.translation.item import TranslationJob
from lib_negtrans.translation.params import TranslationParams
from tests.tiny_model import tiny_networks, write_folder
from tests.unit.test_cli import FAST, noise, run  # noqa: F401


class Elsewhere:
    """A runner as of another machine: all it gets goes through bytes, and it keeps no order."""

    is_main, began = True, time.time()

    def __init__(self, folder, overwrite):
        self.folder, self.overwrite = folder, overwrite

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        pass

    def run(self, job, items, on_step=None):
        worker = pickle.loads(pickle.dumps(job)).start("cpu")
        return self.results(worker, pickle.loads(pickle.dumps(items)))

    def results(self, worker, items):
        for index, item in reversed(list(enumerate(items))):
            try:
                yield ItemDone(item, index, len(items), make_item(worker, item))
            except ItemFailed as error:
                yield ItemDone(item, index, len(items), error=str(error))

    def finish(self, counts):
        return {"translated": counts["translated"] + 7, "failed": counts["failed"]}, [3]


def test_the_translate_command_works_with_any_runner(run, tmp_path, monkeypatch):  # noqa: F811
    for number in range(3):
        noise(tmp_path / "in" / f"{number}.png", 64 + 8 * number)
    (tmp_path / "in" / "bad.png").write_bytes(b"x")
    call = ("translate", "--input", tmp_path / "in", *FAST, "--size", "64x64")
    assert run(*call, "--out", tmp_path / "here")[0] == 1
    monkeypatch.setattr(translate, "runner_of", lambda args, out, overwrite: Elsewhere(out, overwrite))
    code, out, err = run(*call, "--out", tmp_path / "there")
    failed, lost = err.strip().splitlines()
    assert code == 1 and failed.startswith(f"failed: {tmp_path / 'in' / 'bad.png'}: cannot be read")
    assert lost.startswith("process 3 ended too early") and "10 translated, 0 done already, 1 failed" in out
    names = [f"{number}.png" for number in range(3)]
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == names
    for name in names:
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


def in_a_process(job, item):
    torch.set_num_threads(1)
    return make_item(job.start("cpu"), item)


def test_a_job_sent_to_another_process_gives_the_same_bytes(tmp_path):
    model = write_folder(tiny_networks(), tmp_path / "model")
    noise(tmp_path / "a.png")
    vectors = {"neg-x": torch.full((2, 64), 0.1)}
    params = TranslationParams(steps=10, negative_prompt="neg-x, a render")
    job = TranslationJob(ModelChoice(model, dtype=torch.float64), params, vectors)
    here, there = (plan(tmp_path / "a.png", tmp_path / name)[0] for name in ("here", "there"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with Local() as runner:
            (done,) = runner.run(job, [here])
    finally:
        torch.set_num_threads(threads)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as others:
        made = others.submit(in_a_process, job, there).result()
    assert done.made.path == here.target and made.path == there.target
    assert made.forwards == done.made.forwards and made.seconds > 0
    assert here.target.read_bytes() == there.target.read_bytes()


class Stubborn(Worker):
    """A worker that raises what it is told."""

    def __init__(self, error):
        self.error = error

    def read(self, item):
        raise self.error

    def make(self, item, content, on_step=None):
        raise AssertionError("nothing was read")

    write = make


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (RuntimeError("CUDA out of memory."), "needs more memory than there is"),
    ],
)
def test_what_an_item_fails_of_is_a_sentence(error, says):
    with pytest.raises(ItemFailed, match=says):
        make_item(Stubborn(error), Item("a", "b"))


def test_other_errors_end_the_run():
    with pytest.raises(KeyError):
        make_item(Stubborn(KeyError("bug")), Item("a", "b"))


def test_a_model_choice_loads_what_a_path_with_values_does(tmp_path):
    model = write_folder(tiny_networks(), tmp_path / "model")
    choice = pickle.loads(pickle.dumps(ModelChoice(model, "cpu", torch.bfloat16, clip_skip=2, feature_memory=3)))
    chosen, named = load_model(choice), load_model(model, "cpu", torch.bfloat16, clip_skip=2)
    assert (chosen.dtype, chosen.clip_skip) == (named.dtype, named.clip_skip) == (torch.bfloat16, 2)
    assert torch.equal(chosen.encode_prompts(["a coat"]), named.encode_prompts(["a coat"]))
    assert chosen.feature_budget.device == 3 * 2**20 and named.feature_budget is None


def test_a_runner_names_the_device_where_the_job_does_not(shared_tiny_host, monkeypatch):
    """As one of several processes on a machine's graphics cards."""
    chosen = []
    monkeypatch.setattr(standalone, "load_model", lambda choice: chosen.append(choice) or shared_tiny_host)
    for named in (None, "cpu"):
        TranslationJob(ModelChoice("m", named), TranslationParams(steps=10), {}).start("cuda:1")
    assert [choice.device for choice in chosen] == ["cuda:1", "cpu"]


def test_the_result_of_a_run_has_its_picture_and_cost(tmp_path, shared_tiny_host, monkeypatch):
    monkeypatch.setattr(standalone, "load_model", lambda choice: shared_tiny_host)
    source = noise(tmp_path / "a.png")
    seen = []
    job = TranslationJob(ModelChoice("any"), TranslationParams(steps=10, negative_prompt="a render"), {})
    made = make_item(job.start(), Item(source, tmp_path / "b.png"), seen.append)
    with Image.open(made.path) as image:
        assert image.size == (64, 72)
    assert made.forwards.total > 0 and made.note == "" and [step.phase for step in seen][-1] == "translation"
