"""The accordion "Compare checkpoints": from a run's steps to an embedding, without a browser and without a host."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

gr = pytest.importorskip("gradio", reason="gradio comes with the webui and the page's environment")

from lib_negtrans.apps.panels.compare_panel import comparison_html  # noqa: E402
from lib_negtrans.apps.panels.training_panel import TabOptions, TrainingPanel  # noqa: E402
from lib_negtrans.embeddings.files import read_embedding  # noqa: E402
from lib_negtrans.jobs.background import FAILED, FINISHED, STOPPED  # noqa: E402
from lib_negtrans.jobs.comparison import ComparisonRefused, ComparisonSnapshot  # noqa: E402
from lib_negtrans.jobs.training import TrainingManager, TrainingRequest  # noqa: E402
from lib_negtrans.jobs.workplace import LocalWorkplace  # noqa: E402
from lib_negtrans.training.params import TrainingParams  # noqa: E402
from tests.unit.test_training_lora import make_photos  # noqa: E402

NAME = "neg-run"


@pytest.fixture(scope="module")
def manager(calm_tiny_host, tmp_path_factory):
    """One with a finished run of four steps."""
    base = tmp_path_factory.mktemp("comparing")
    folder = make_photos(base / "renders", 2)
    manager = TrainingManager(LocalWorkplace(calm_tiny_host, base / "embeddings", base / "runs"))
    params = TrainingParams(steps=4, size=64, vectors=2, accumulation=1, save_every=2, lr="5e-2")
    manager.start(TrainingRequest(NAME, folder, params))
    manager.wait()
    return manager


@pytest.fixture
def panel(manager):
    with gr.Blocks():
        panel = TrainingPanel(manager, TabOptions())
        panel.build()
    return panel.comparison


def test_from_the_steps_to_an_embedding(panel, manager):
    runs, steps, choice, message = panel.list_runs(None)
    assert runs["choices"] == [NAME] and runs["value"] == NAME and message == ""
    assert steps["choices"] == ["step 2", "step 4"] and choice["value"] == "step 4"
    message, status, grid, _ = panel.begin(None, NAME, ["step 2", "step 4"], None)
    assert message == "" and "data-compare='working'" in status and not grid["visible"]
    state = manager.comparison.wait()
    assert state.phase == FINISHED, state.error
    status, grid, seen = panel.show(None)
    assert grid["visible"] and Path(grid["value"]).is_file() and "data-compare='finished'" in status
    assert panel.show(seen)[2] == seen and panel.show(seen)[0] == gr.update()
    line = panel.pick(NAME, "step 2", " neg-picked ", False)
    out = manager.workplace.embeddings_folder / "neg-picked.pt"
    assert "holds the vectors of step 2" in line and read_embedding(out).step == 2
    assert "exists already" in panel.pick(NAME, "step 4", "neg-picked", False)
    panel.pick(NAME, "step 4", "neg-picked", True)
    assert torch.equal(read_embedding(out).vectors, read_embedding(manager.out(NAME)).vectors)


def test_what_cannot_be_is_one_sentence(panel, manager, tmp_path):
    assert "Choose a run" in panel.begin(None, None, [], None)[0]
    assert "Choose which one" in panel.pick(NAME, None, "neg-b", False)
    assert "use only" in panel.pick(NAME, "step 2", "neg b", False)
    assert "no step 7 in this run" in panel.begin(None, NAME, ["step 7"], None)[0]
    assert "Choose a run" in panel.list_steps("../..")[2]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    panel.begin(None, NAME, [], str(broken))
    state = manager.comparison.wait()
    assert state.phase == FAILED and state.error.startswith("The render ")
    assert "negtrans-error" in comparison_html(state)


def test_one_at_a_time_and_it_can_be_stopped(panel, manager):
    with manager.workplace.lock:  # another job has the model
        manager.comparison.start(NAME, [])
        with pytest.raises(ComparisonRefused, match="under way"):
            manager.comparison.start(NAME, [])
        assert panel.interrupt(None)
    assert manager.comparison.wait().phase == STOPPED


def test_names_are_escaped():
    state = dataclasses.replace(ComparisonSnapshot(), phase="failed", error="<script>")
    assert "<script>" not in comparison_html(state)
