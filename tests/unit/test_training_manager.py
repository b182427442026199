"""The manager of trainings: one at a time, found again, stopped, resumed, its result with a card beside it."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest
from PIL import Image

from lib_negtrans.embeddings.files import read_embedding
from lib_negtrans.jobs.background import FAILED, FINISHED, STOPPED
from lib_negtrans.jobs.training import TrainingBusy, TrainingManager, TrainingRefused, TrainingRequest
from lib_negtrans.jobs.workplace import LocalWorkplace
from lib_negtrans.training.params import TrainingParams

PARAMS = TrainingParams(steps=3, vectors=2, accumulation=1, size=64, save_every=2, preview_every=2)


@pytest.fixture
def renders(tmp_path):
    folder = tmp_path / "renders"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / f"red coat {number}.png")
    return folder


@pytest.fixture
def manager(shared_tiny_host, tmp_path):
    return TrainingManager(LocalWorkplace(shared_tiny_host, tmp_path / "embeddings", tmp_path / "runs"))


def changed(**values):
    return TrainingParams.from_dict(PARAMS.to_dict() | values)


def test_a_training_to_its_end(manager, renders, tmp_path):
    first = manager.start(TrainingRequest("neg-render", renders, PARAMS))
    assert first.busy and first.name == "neg-render"
    state = manager.wait(120)
    assert state.phase == FINISHED, state.error
    assert state.step == 3 and state.published and state.fraction == 1.0
    assert [step for step, _, _ in state.curve] == [1, 2, 3]
    assert [step for step, _ in state.previews] == [2, 3]
    assert state.vector_norm > 0 and state.change > 0
    embedding = tmp_path / "embeddings/neg-render.pt"
    assert read_embedding(embedding).vectors.shape == (2, 64)
    assert Image.open(tmp_path / "embeddings/neg-render.preview.png").size == (64, 64)
    card = json.loads((tmp_path / "embeddings/neg-render.json").read_text())
    assert "3 renders" in card["description"] and card["negtrans"]["step"] == 3
    json.dumps(state.to_dict())


def test_the_first_picture_that_matches_is_previewed(manager, renders, tmp_path):
    Image.new("RGB", (64, 64)).save(renders / "a_mask.png")  # first by name
    first = sorted(renders.glob("*.png"))[1]
    state = manager.start(TrainingRequest("neg-render", renders, changed(pattern=f"{first.name[:2]}*", steps=1)))
    state = manager.wait(60)
    assert (state.phase, state.preview_source) == (FINISHED, str(first))
    with pytest.raises(TrainingRefused, match=r"No pictures matching 'z\*' were found"):
        manager.start(TrainingRequest("neg-other", renders, changed(pattern="z*")))


def test_a_picture_that_cannot_be_read_is_not_the_one_that_is_previewed(manager, renders):
    (renders / "0 first.png").write_bytes(b"no picture")
    manager.start(TrainingRequest("neg-render", renders, changed(steps=1)))
    state = manager.wait(60)
    assert state.phase == FINISHED and state.preview_source == str(sorted(renders.glob("*.png"))[1])
    assert [step for step, _ in state.previews] == [1]


def test_trainings_wait_for_one_another(manager, renders, tmp_path):
    manager.start(TrainingRequest("neg-a", renders, changed(steps=500)))
    with pytest.raises(TrainingBusy, match="neg-a is being trained"):
        manager.start(TrainingRequest("neg-a", renders, PARAMS, overwrite=True))
    for name in ("neg-b", "neg-c", "neg-d", "neg-e"):
        manager.start(TrainingRequest(name, renders, PARAMS))
    with pytest.raises(TrainingBusy, match="neg-c waits for its turn already"):
        manager.start(TrainingRequest("neg-c", renders, PARAMS))
    with pytest.raises(TrainingRefused, match="only a-z"):
        manager.start(TrainingRequest("../up", renders, PARAMS))
    assert manager.snapshot().queue == ["neg-b", "neg-c", "neg-d", "neg-e"]
    assert manager.cancel("neg-d") == ["neg-d"] and manager.cancel("neg-d") == []
    # what was right when it was asked for is not any more
    (tmp_path / "embeddings").mkdir()
    (tmp_path / "embeddings/neg-b.pt").write_bytes(b"mine")
    assert manager.request_stop()
    state = manager.wait(120)
    assert (state.name, state.phase, state.queue) == ("neg-e", FINISHED, []) and state.number == 4
    assert not manager.request_stop()
    assert sorted(p.name for p in (tmp_path / "embeddings").glob("*.pt")) == ["neg-b.pt", "neg-c.pt", "neg-e.pt"]
    assert (tmp_path / "embeddings/neg-b.pt").read_bytes() == b"mine"
    assert state.log[0].startswith("neg-c: finished.")


def test_a_failed_training_does_not_hold_up_the_queue(manager, renders, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"no picture")
    with manager.workplace.lock:
        manager.start(TrainingRequest("neg-a", broken, PARAMS))
        manager.start(TrainingRequest("neg-b", renders, PARAMS))
    state = manager.wait(120)
    assert (state.name, state.phase) == ("neg-b", FINISHED)
    assert state.log[0].startswith("neg-a: failed. None of the 1 pictures")


def test_the_programs_own_templates_go_by_their_name(manager, renders, tmp_path, monkeypatch):
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/style_filewords.txt").write_text("[filewords] as [name]\n")
    (tmp_path / "templates/none.txt").write_text("picture\n")
    monkeypatch.setattr(type(manager.workplace), "templates_folder", tmp_path / "templates")
    state = manager.start(TrainingRequest("neg-a", renders, changed(template="style_filewords", steps=1)))
    assert state.request["params"]["template"] == str(tmp_path / "templates/style_filewords.txt")
    assert any("red coat 0 as neg-a" in line for line in manager.wait(60).log)
    with pytest.raises(TrainingRefused, match=r"none\.txt lacks \[name\]"):
        manager.start(TrainingRequest("neg-b", renders, changed(template="none")))


def test_interrupted_run_is_found_and_gone_on_with(manager, renders, tmp_path):
    manager.start(TrainingRequest("neg-render", renders, changed(steps=400)))
    while manager.snapshot().step < 2:
        time.sleep(0.02)
    manager.request_stop()
    stopped = manager.wait(120)
    assert stopped.phase == STOPPED and 2 <= stopped.step < 400 and stopped.checkpoint
    assert not (tmp_path / "embeddings/neg-render.pt").exists()

    # as after a restart of the program
    again = TrainingManager(manager.workplace)
    assert again.resumable() == [("neg-render", stopped.step, 400, "negative")]
    with pytest.raises(TrainingRefused, match="resume it"):
        again.start(TrainingRequest("neg-render", renders, PARAMS))
    again.resume("neg-render", steps=stopped.step + 2)
    state = again.wait(120)
    assert state.phase == FINISHED, state.error
    assert state.start_step == stopped.step and state.step == stopped.step + 2
    assert again.resumable() == []


def test_stop_while_waiting_for_the_turn(manager, renders):
    with manager.workplace.lock:
        manager.start(TrainingRequest("neg-render", renders, PARAMS))
        manager.request_stop()
    state = manager.wait(120)
    assert state.phase == STOPPED and "nothing was written" in state.log[-1]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("../up", "only a-z"), ("", "needs a name"), ("Neg", "use neg"), ("coat", "ordinary word"), ("con", "Windows")],
)
def test_names(manager, renders, name, sentence):
    with pytest.raises(TrainingRefused, match=sentence):
        manager.start(TrainingRequest(name, renders, PARAMS))
    assert not manager.workplace.runs_folder.exists()


def test_existing_embeddings_are_not_hidden_or_replaced(manager, renders, tmp_path):
    other = tmp_path / "embeddings/old/Neg-render.safetensors"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"")
    with pytest.raises(TrainingRefused, match="same name"):
        manager.check_name("neg-render")
    (tmp_path / "embeddings/neg-b.pt").write_bytes(b"")
    with pytest.raises(TrainingRefused, match="exists already"):
        manager.check_name("neg-b")
    assert manager.check_name("neg-b", overwrite=True) == "neg-b"


def test_requests_that_cannot_start(manager, renders, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for request, sentence in [
        (TrainingRequest("neg-a", tmp_path / "none", PARAMS), "There is no folder"),
        (TrainingRequest("neg-a", empty, PARAMS), "No pictures"),
        (TrainingRequest("neg-a", renders, changed(lr="fast")), "not a number"),
        (TrainingRequest("neg-a", renders, PARAMS, preview_image=tmp_path / "no.png"), "no.png there is no such"),
    ]:
        with pytest.raises(TrainingRefused, match=sentence):
            manager.start(request)
    with pytest.raises(TrainingRefused, match="no interrupted run"):
        manager.resume("neg-a")


def test_a_failure_in_the_thread_is_shown(manager, renders):
    for path in renders.iterdir():
        path.write_bytes(b"no picture")
    manager.start(TrainingRequest("neg-a", renders, PARAMS))
    state = manager.wait(60)
    assert state.phase == FAILED and "None of the 3 pictures" in state.error and state.log[-1] == state.error


def test_the_hosts_own_interrupt_stops_it(manager, renders):
    asked = threading.Event()
    manager.workplace.progress = lambda snapshot: snapshot.step >= 2 or asked.is_set()
    manager.start(TrainingRequest("neg-a", renders, changed(steps=400)))
    assert manager.wait(120).phase == STOPPED
