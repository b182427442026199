"""Folders: reading ahead, writing behind, sharing with other processes; nothing done twice, nothing lost."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from lib_negtrans.memory import is_out_of_memory
from lib_negtrans.models.protocol import HostError
from lib_negtrans.models.standalone import ModelChoice
from lib_negtrans.options import ParamError
from lib_negtrans.runners import passing
from lib_negtrans.runners.claims import Claims, claim_path
from lib_negtrans.runners.local import Local
from lib_negtrans.runners.runner import Job
from lib_negtrans.translation import item as item_module
from lib_negtrans.translation.folder import plan
from lib_negtrans.translation.item import TranslationJob, Translator
from lib_negtrans.translation.params import TranslationParams
from lib_negtrans.translation.pipeline import Forwards, Translation

PARAMS = TranslationParams(steps=10, negative_prompt="a 3d render")


def picture(path, seed=0, size=(64, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


@pytest.fixture
def pictures(tmp_path):
    for number in range(5):
        picture(tmp_path / "in" / f"{number}.png", number)
    return tmp_path / "in"


@pytest.fixture
def model(monkeypatch, shared_tiny_host):
    """Stands for the model: turns pictures upside down, notes what it was given, and does what a test asks."""

    class Model:
        def __init__(self):
            self.seen, self.act = [], lambda number: None

        def translate(self, host, image, params, embeddings, cache=None, mask=None):
            self.seen.append((tuple(image.shape[-2:]), mask))
            yield from ()
            self.act(len(self.seen))
            return Translation(image.flip(2), image, image, None, Forwards(1), 0.01)

    made = Model()
    monkeypatch.setattr(item_module, "translate_image", made.translate)
    return made


class Loaded(Job):
    """A job whose model is there already."""

    def __init__(self, host, params, size):
        self.host, self.job = host, TranslationJob(ModelChoice(""), params, {}, size)

    def start(self, device=None):
        return Translator(self.host, self.job)


def run(host, source, out, *, masks=None, params=PARAMS, size=None, overwrite=False, began=None):
    with Local(overwrite) as runner:
        runner.began = began or runner.began
        yield from runner.run(Loaded(host, params, size), plan(source, out, masks))


def names(out):
    return sorted(p.name for p in out.rglob("*") if p.is_file())


def test_results_come_in_order_and_nothing_else_is_left(model, shared_tiny_host, pictures, tmp_path):
    (pictures / "2.png").write_bytes(b"broken")
    results = list(run(shared_tiny_host, pictures, tmp_path / "out"))
    assert [r.index for r in results] == [0, 1, 2, 3, 4]
    assert [r.error is None for r in results] == [True, True, False, True, True]
    assert names(tmp_path / "out") == ["0.png", "1.png", "3.png", "4.png"]
    turned = np.asarray(Image.open(tmp_path / "out" / "3.png"))
    assert np.array_equal(turned[::-1], np.asarray(Image.open(pictures / "3.png")))


def test_reading_and_writing_overlap_the_model(model, shared_tiny_host, pictures, tmp_path, monkeypatch):
    """Each takes as long as the model here; one after the other it would be three times the model's time."""
    events, began = [], time.perf_counter()

    def slow(original, name):
        def call(*args):
            time.sleep(0.1)
            result = original(*args)
            events.append((name, threading.current_thread().name, time.perf_counter() - began))
            return result

        return call

    for name in ("read", "write"):
        monkeypatch.setattr(Translator, name, slow(getattr(Translator, name), name))
    model.act = lambda _number: time.sleep(0.1)
    assert len(list(run(shared_tiny_host, pictures, tmp_path / "out"))) == 5
    assert time.perf_counter() - began < 1.2  # 1.5 one after the other, 0.7 at best
    assert {name: thread.rpartition("_")[0] for name, thread, _ in events} == {
        "read": "negtrans-read", "write": "negtrans-write",
    }  # fmt: skip


def test_no_more_than_a_few_results_wait_for_their_file(model, shared_tiny_host, pictures, tmp_path, monkeypatch):
    original = item_module.save_png
    monkeypatch.setattr(item_module, "save_png", lambda *args: time.sleep(0.05) or original(*args))
    waiting = []
    model.act = lambda number: waiting.append(number - 1 - len(names(tmp_path / "out")) // 2)
    for _ in run(shared_tiny_host, pictures, tmp_path / "out"):
        pass
    assert max(waiting) <= passing.WRITTEN_BEHIND + 1


def test_a_file_that_cannot_be_written_is_that_pictures_failure(
    model, shared_tiny_host, pictures, tmp_path, monkeypatch
):
    original = item_module.save_png

    def full(path, *rest):
        if path.name == "1.png":
            raise OSError(28, "No space left on device")
        original(path, *rest)

    monkeypatch.setattr(item_module, "save_png", full)
    results = list(run(shared_tiny_host, pictures, tmp_path / "out"))
    assert [r.error for r in results].count(None) == 4 and "No space left" in results[1].error
    assert names(tmp_path / "out") == ["0.png", "2.png", "3.png", "4.png"]


def test_an_interrupt_writes_what_was_translated_and_gives_claims_back(
    model, shared_tiny_host, pictures, tmp_path, monkeypatch
):
    original = item_module.save_png
    monkeypatch.setattr(item_module, "save_png", lambda *args: time.sleep(0.1) or original(*args))

    def interrupt(number):
        if number == 3:
            raise KeyboardInterrupt

    model.act = interrupt
    with pytest.raises(KeyboardInterrupt):
        list(run(shared_tiny_host, pictures, tmp_path / "out"))
    assert names(tmp_path / "out") == ["0.png", "1.png"]
    model.act = lambda number: None
    results = list(run(shared_tiny_host, pictures, tmp_path / "out"))
    assert [r.skipped for r in results] == [True, True, False, False, False]
    assert len(model.seen) == 3 + 3


def test_a_caller_that_stops_early_loses_nothing(model, shared_tiny_host, pictures, tmp_path):
    results = run(shared_tiny_host, pictures, tmp_path / "out")
    next(results)
    results.close()
    assert len(names(tmp_path / "out")) == len(model.seen)
    assert threading.active_count() < 20


def out_of_memory(kind):
    return {
        "gpu": torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: 9 bytes"),
        "python": MemoryError(),
        "numpy": np.core._exceptions._ArrayMemoryError((9,), np.dtype("f4")) if hasattr(np, "core") else MemoryError(),
        "mps": RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    }[kind]


@pytest.mark.parametrize("kind", ["gpu", "cpu", "python", "numpy", "mps"])
def test_without_memory_the_picture_fails_in_a_sentence_and_the_rest_goes_on(
    model, shared_tiny_host, pictures, tmp_path, kind
):
    def act(number):
        if number in (2, 3):  # the second picture, and once more when nothing is beside it
            raise out_of_memory(kind)

    model.act = act
    results = list(run(shared_tiny_host, pictures, tmp_path / "out"))
    assert [r.error is None for r in results] == [True, False, True, True, True]
    assert results[1].error.startswith("needs more memory than there is") and results[1].error.count(".") == 1
    assert names(tmp_path / "out") == ["0.png", "2.png", "3.png", "4.png"]


def test_without_memory_a_picture_is_tried_once_more_with_nothing_beside_it(
    model, shared_tiny_host, pictures, tmp_path, monkeypatch
):
    original, written = Translator.write, []
    monkeypatch.setattr(Translator, "write", lambda *args: time.sleep(0.2) or written.append(1) or original(*args))

    def act(number):
        if number == 2:
            assert not written  # the first one still waits for its file
            raise out_of_memory("gpu")
        assert number != 3 or written == [1]

    model.act = act
    results = list(run(shared_tiny_host, pictures, tmp_path / "out"))
    assert [r.error for r in results] == [None] * 5 and len(model.seen) == 6


def test_other_errors_are_not_taken_for_want_of_memory(model, shared_tiny_host, pictures, tmp_path):
    assert not is_out_of_memory(RuntimeError("shape mismatch")) and not is_out_of_memory(OSError("out of memory"))

    def broken(_number):
        raise RuntimeError("shape mismatch")

    model.act = broken
    with pytest.raises(RuntimeError, match="shape mismatch"):
        list(run(shared_tiny_host, pictures, tmp_path / "out"))


def test_the_real_model_without_memory_leaves_no_hook(shared_tiny_host, pictures, tmp_path, monkeypatch):
    original, calls = shared_tiny_host.predict_noise, []

    def scarce(*args):
        calls.append(1)
        if "out" in calls or len(calls) == 5:  # in the sampling, with hooks on
            calls.append("out")
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return original(*args)

    monkeypatch.setattr(shared_tiny_host, "predict_noise", scarce)
    results = list(run(shared_tiny_host, pictures / "0.png", tmp_path / "out"))
    assert "needs more memory" in results[0].error
    unet = shared_tiny_host.unet
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())
    calls.clear()
    monkeypatch.setattr(shared_tiny_host, "predict_noise", original)
    assert next(iter(run(shared_tiny_host, pictures / "0.png", tmp_path / "out"))).error is None


def test_a_nan_is_that_pictures_failure(model, shared_tiny_host, pictures, tmp_path):
    def act(number):
        if number == 2:
            raise HostError("the model gave NaN at timestep 1: use --dtype float32.")

    model.act = act
    results = list(run(shared_tiny_host, pictures, tmp_path / "out"))
    assert [r.error is None for r in results] == [True, False, True, True, True]


# --- together with others ---


def test_what_others_work_on_is_left_to_them_and_looked_at_again(model, shared_tiny_host, pictures, tmp_path):
    out = tmp_path / "out"
    theirs = Claims()
    theirs.take(out / "0.png")
    theirs.take(out / "1.png")

    def act(number):
        if number == 3:  # the others: one done, one given up
            picture(out / "0.png")
            theirs.release(out / "0.png")
            theirs.release(out / "1.png")

    model.act = act
    results = list(run(shared_tiny_host, pictures, out))
    assert [(r.index, r.skipped) for r in results] == [(2, False), (3, False), (4, False), (0, True), (1, False)]
    assert results[3].elsewhere


def test_their_failures_are_theirs(model, shared_tiny_host, pictures, tmp_path):
    out = tmp_path / "out"
    with Claims() as theirs:
        theirs.take(out / "1.png")
        theirs.fail(out / "1.png")
        results = list(run(shared_tiny_host, pictures, out))
    assert len(model.seen) == 4 and sum(r.elsewhere for r in results) == 1


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_at_once_do_everything_once(model, shared_tiny_host, tmp_path, overwrite):
    source, out = tmp_path / "in", tmp_path / "out"
    for number in range(12):
        picture(source / f"{number:02}.png", number)
        if overwrite:
            picture(out / f"{number:02}.png")
    model.act = lambda _number: time.sleep(0.01)
    began, found = time.time(), [[], []]

    def work(which):
        found[which] += run(shared_tiny_host, source, out, overwrite=overwrite, began=began)

    time.sleep(0.02)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    made = [[r.index for r in results if not r.skipped] for results in found]
    assert sorted(made[0] + made[1]) == list(range(12)) and min(map(len, made)) > 2
    assert [len(results) for results in found] == [12, 12] and len(model.seen) == 12
    assert not any(path.name.endswith(".claim") for path in out.iterdir())


def test_a_killed_ones_claim_does_not_keep_others_waiting(model, shared_tiny_host, pictures, tmp_path):
    from tests.unit.test_claims import dead_pid, write_claim

    write_claim(tmp_path / "out" / "0.png", dead_pid())
    results = list(run(shared_tiny_host, pictures, tmp_path / "out"))
    assert [r.skipped for r in results] == [False] * 5 and not claim_path(tmp_path / "out" / "0.png").exists()


# --- masks ---


def test_masks_come_from_a_folder_of_the_same_names(model, shared_tiny_host, pictures, tmp_path):
    masks = tmp_path / "masks"
    half = np.zeros((64, 64), np.uint8)
    half[:, :32] = 255
    for name in ("0.png", "1.png"):
        masks.mkdir(exist_ok=True)
        Image.fromarray(half).save(masks / name)
    Image.fromarray(np.repeat(half, 2, axis=0)).save(masks / "2.png")
    params = TranslationParams(mask="file", steps=10)
    results = list(run(shared_tiny_host, pictures, tmp_path / "out", masks=masks, params=params))
    assert [r.error is None for r in results] == [True, True, False, False, False]
    assert results[2].error == "is 64x64 but its mask 2.png is 64x128: make both of one shape."
    assert "has no mask: " in results[3].error and "3.png is missing" in results[3].error
    assert model.seen[0][1].shape == (1, 1, 64, 64) and model.seen[0][1][0, 0, 0].sum() == 32


def test_masks_inside_the_input_are_no_pictures(pictures):
    picture(pictures / "masks" / "0.png")
    assert len(plan(pictures, pictures / "out", pictures / "masks")) == 5
    with pytest.raises(ParamError, match="no mask file or folder"):
        plan(pictures, pictures / "out", pictures / "nowhere")


def test_size_applies_to_the_mask_too(model, shared_tiny_host, tmp_path):
    source = picture(tmp_path / "a.png", size=(130, 100))
    Image.fromarray(np.full((100, 130), 255, np.uint8)).save(tmp_path / "m.png")
    options = {"masks": tmp_path / "m.png", "params": TranslationParams(mask="file", steps=10)}
    results = list(run(shared_tiny_host, source, tmp_path / "out", size=(100, 100), **options))
    assert results[0].error is None
    (height, width), mask = model.seen[0]
    assert (height, width) == (77, 100) and mask.shape == (1, 1, 77, 100)
    assert Image.open(tmp_path / "out" / "a.png").size == (100, 77)


def test_an_automatic_mask_says_what_it_found(model, shared_tiny_host, tmp_path):
    plain = np.full((64, 64, 3), 200, np.uint8)
    plain[20:44, 20:44] = (120, 20, 20)
    Image.fromarray(plain).save(tmp_path / "a.png")
    params = TranslationParams(mask="auto", steps=10)
    assert next(iter(run(shared_tiny_host, tmp_path / "a.png", tmp_path / "o", params=params))).made.note == (
        "mask from the uniform border colour"
    )
    picture(tmp_path / "b.png")
    result = next(iter(run(shared_tiny_host, tmp_path / "b.png", tmp_path / "o", params=params)))
    assert "no mask" in result.made.note and model.seen[-1][1] is None
    named = TranslationParams(mask="border", steps=10)
    result = next(iter(run(shared_tiny_host, tmp_path / "b.png", tmp_path / "p", params=named)))
    assert "no uniform border colour" in result.error
