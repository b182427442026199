"""Checkpoints side by side, and one of them chosen."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from lib_negtrans.apps.cli import main as cli
from lib_negtrans.embeddings.files import Embedding, EmbeddingError, read_embedding, write_embedding
from lib_negtrans.models import standalone
from lib_negtrans.training.checkpoint import checkpoints, decode
from lib_negtrans.training.errors import TrainingError
from lib_negtrans.training.judging.comparison import MAXIMUM, Candidate, candidates, chosen, compare, grid, pick
from lib_negtrans.training.positive_params import LoraParams
from lib_negtrans.translation.params import TranslationParams
from tests.unit.test_training_lora import Run as LoraRun
from tests.unit.test_training_negative import NAME, Run, make_pictures, quick

FAST = TranslationParams(steps=10, strength=0.3)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, calm_tiny_host):
    base = tmp_path_factory.mktemp("compared")
    run = Run(base, calm_tiny_host, make_pictures(base / "renders"))
    run.finish(quick(steps=4, save_every=2, validate_every=2, batch_size=1, accumulation=1, licence="CC0"))
    run.render = base / "renders" / "0 coat.png"
    return run


def test_a_run_offers_its_checkpoints_and_the_best(finished):
    found = candidates(finished.folder / "run")
    assert [candidate.key for candidate in found][:2] == ["step 2", "step 4"]
    for candidate, (_, path) in zip(found, reversed(checkpoints(finished.folder / "run")), strict=False):
        assert torch.equal(candidate.embedding.vectors, decode(path.read_bytes())["vectors"])
    assert torch.equal(found[1].embedding.vectors, read_embedding(finished.out).vectors)
    with pytest.raises(TrainingError, match="holds no checkpoints"):
        candidates(finished.folder / "renders")


def test_a_run_of_a_lora_is_refused(finished, tmp_path, calm_tiny_host):
    run = LoraRun(tmp_path, calm_tiny_host, finished.render.parent)
    run.finish(LoraParams(steps=1, size=64))
    with pytest.raises(TrainingError, match="of the kind lora, and only embeddings are compared"):
        candidates(run.folder / "run")


def test_steps_are_chosen_by_number_and_many_are_spread():
    def of(step):
        return Candidate(f"step {step}", "", Embedding("neg-a", torch.ones(1, 4)))

    many = [of(step) for step in range(0, 1000, 10)]
    assert [c.key for c in chosen(many, ["990", "step 20"])] == ["step 20", "step 990"]
    spread = chosen(many, [])
    assert len(spread) == MAXIMUM and spread[0] is many[0] and spread[-1] is many[-1]
    with pytest.raises(TrainingError, match="no step 5 in this run: there are step 0, step 10"):
        chosen(many, ["5"])


def test_pictures_differ_by_the_vectors_and_come_on_one_sheet(finished, calm_tiny_host):
    found = candidates(finished.folder / "run")[:2]
    loud = [Candidate("a", "a", Embedding("neg-a", found[0].embedding.vectors * 30)), *found]
    pictures = list(compare(calm_tiny_host, loud, finished.render, 64, FAST))
    assert [label for label, _ in pictures] == ["render", "a", "step 2", "step 4"]
    assert all(picture.size == (64, 64) for _, picture in pictures)
    assert pictures[1][1].tobytes() != pictures[2][1].tobytes()
    sheet = grid(pictures, "neg-x")
    assert sheet.width > 4 * 64 and sheet.height > 64
    assert grid(pictures * 2, "").height > 2 * 64
    with pytest.raises(EmbeddingError, match="width 32, the model needs 64"):
        next(
            compare(
                calm_tiny_host, [Candidate("a", "a", Embedding("a-1", torch.ones(1, 32)))], finished.render, 64, FAST
            )
        )


def test_the_chosen_one_becomes_an_embedding_with_its_card(finished, tmp_path):
    found = candidates(finished.folder / "run")
    assert pick(found[0], tmp_path / "neg-chosen.pt") == []
    written = read_embedding(tmp_path / "neg-chosen.pt")
    assert torch.equal(written.vectors, found[0].embedding.vectors) and written.step == 2
    whole = read_embedding(finished.out)
    assert written.checkpoint_hash == whole.checkpoint_hash and written.metadata["images"] == whole.metadata["images"]
    assert written.metadata["lr"] == whole.metadata["lr"]
    assert json.loads((tmp_path / "neg-chosen.json").read_text())["negtrans"]["step"] == 2
    with pytest.raises(FileExistsError):
        pick(found[1], tmp_path / "neg-chosen.pt")
    with pytest.raises(EmbeddingError, match="use only"):
        pick(found[1], tmp_path / "neg chosen.pt")


def test_on_the_command_line(finished, tmp_path, capsys, monkeypatch, calm_tiny_host):
    monkeypatch.setattr(standalone, "load_model", lambda *_args, **_options: calm_tiny_host)
    sheet = tmp_path / "sheet.png"
    run = str(finished.folder / "run")
    call = ["compare", run, "--image", str(finished.render), "--size", "64", "--steps", "10"]
    assert cli.main([*call, "--grid", str(sheet), "--only", "2", "4"]) == 0
    assert "2 side by side" in capsys.readouterr().out
    with Image.open(sheet) as image:
        assert image.width > 3 * 64
    assert cli.main(["compare", run, "--pick", "2", "--out", str(tmp_path / "neg-two.pt")]) == 0
    assert read_embedding(tmp_path / "neg-two.pt").step == 2
    write_embedding(tmp_path / f"{NAME}-b.pt", Embedding(f"{NAME}-b", torch.ones(1, 64)))
    files = [str(tmp_path / "neg-two.pt"), str(tmp_path / f"{NAME}-b.pt")]
    assert cli.main(["compare", *files, *call[2:], "--grid", str(sheet)]) == 0
    capsys.readouterr()
    for wrong, says in (
        (["compare", run], "--image FILE is needed"),
        ([*call, "--only", "3"], "There is no step 3 in this run"),
        (["compare", run, "--pick", "2"], "--pick needs --out"),
        (["compare", run, files[0], *call[2:]], "compare one run, or embedding files"),
        ([*call[:3], str(tmp_path / "none.png")], "none.png"),
    ):
        assert cli.main(wrong) == cli.EXIT_WRONG_CALL
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1
