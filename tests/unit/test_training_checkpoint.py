"""Checkpoints: exact, checked, and never the only one lost."""

from __future__ import annotations

import pytest
import torch

from lib_negtrans.training.checkpoint import (
    checkpoints,
    decode,
    encode,
    newest_intact,
    remove_checkpoints,
    save_checkpoint,
)
from lib_negtrans.training.errors import CheckpointError
from lib_negtrans.training.optimizers import OptimizerPart
from lib_negtrans.training.params import TrainingParams
from lib_negtrans.training.resume import check_resumable, differences
from lib_negtrans.training.state import HistoryRow, TrainingState


def payload(step=7):
    return {
        "step": step,
        "text": "服 \u0000 ü",
        "number": 0.1 + 0.2,
        "none": None,
        "true": True,
        "list": [1, 2.5, ["x"]],
        "parts": {"optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2, 4)}}}, "empty": {}},
        "generator": torch.Generator().manual_seed(1).get_state(),
        "table": torch.tensor([[1.0, 1e-300]], dtype=torch.float64),
        "no_rows": torch.zeros(0, 6, dtype=torch.float64),
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return a == b


def test_round_trip_is_exact():
    before = payload()
    assert same(decode(encode(before)), before)


def test_what_cannot_be_kept_is_refused():
    with pytest.raises(TypeError, match="cannot hold set"):
        encode({"a": {1, 2}})


def test_every_cut_and_every_flipped_bit_is_noticed():
    content = encode(payload())
    for length in [0, 4, 8, 100, len(content) // 2, len(content) - 1]:
        with pytest.raises(CheckpointError):
            decode(content[:length])
    for at in range(8, len(content), 97):
        broken = bytearray(content)
        broken[at] ^= 1
        try:
            back = decode(bytes(broken))
        except CheckpointError:
            continue
        assert same(back, payload_of(content)), f"byte {at} changed the content unnoticed"
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        decode(b"PK\x03\x04" + b"x" * 200)


def payload_of(content):
    return decode(content)


def test_only_the_newest_are_kept(tmp_path):
    for step in (5, 10, 15, 20):
        save_checkpoint(tmp_path, step, payload(step), keep=2)
    assert [step for step, _ in checkpoints(tmp_path)] == [20, 15]
    content, path, complaints = newest_intact(tmp_path)
    assert (content["step"], path.name, complaints) == (20, "checkpoint-00000020.safetensors", [])


def test_a_truncated_file_falls_back_to_the_one_before(tmp_path):
    for step in (5, 10):
        path = save_checkpoint(tmp_path, step, payload(step), keep=3)
    path.write_bytes(path.read_bytes()[:-20])
    content, used, complaints = newest_intact(tmp_path)
    assert content["step"] == 5 and used.name.endswith("05.safetensors")
    assert len(complaints) == 1 and "checkpoint-00000010.safetensors is cut off" in complaints[0]


def test_a_damaged_newer_file_does_not_push_out_good_ones(tmp_path):
    path = save_checkpoint(tmp_path, 100, payload(100), keep=1)
    path.write_bytes(b"")
    save_checkpoint(tmp_path, 50, payload(50), keep=1)
    assert newest_intact(tmp_path)[0]["step"] == 50


def test_no_checkpoint_and_no_good_checkpoint_are_told_apart(tmp_path):
    assert newest_intact(tmp_path / "missing") == (None, None, [])
    assert newest_intact(tmp_path) == (None, None, [])
    (tmp_path / "checkpoint-00000005.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="None of the 1 checkpoints"):
        newest_intact(tmp_path)
    (tmp_path / "mine.txt").write_text("x")
    remove_checkpoints(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_what_differs_is_named():
    saved = {"name": "neg-a", "model": "1", "params": {"lr": "1e-3", "size": 512, "gone": 1}}
    assert differences(saved, saved, TrainingParams) == ""
    here = {"name": "neg-b", "model": "2", "params": {"lr": "5e-3", "size": 512, "seed": 7}}
    found = differences(saved, here, TrainingParams)
    for part in (
        "name 'neg-a' before",
        "Learning rate '1e-3' before, '5e-3' now",
        "gone 1 before, None",
        "Seed",
        "weights",
    ):
        assert part in found
    assert "Size" not in found


def test_an_option_that_an_old_checkpoint_lacks_is_its_default():
    saved = {"name": "neg-a", "model": "1", "params": {"lr": "1e-3"}}
    assert differences(saved, saved | {"params": {"lr": "1e-3", "huber": 0.0}}, TrainingParams) == ""
    found = differences(saved, saved | {"params": {"lr": "1e-3", "huber": 0.5}}, TrainingParams)
    assert "Huber loss 0.0 before, 0.5 now" in found


def test_fewer_steps_than_done_are_refused(tmp_path):
    identity = {"name": "neg-a", "model": "1", "params": {}}
    with pytest.raises(CheckpointError, match="has 7 steps already, not 5"):
        check_resumable({"identity": identity, "step": 7}, tmp_path / "c", identity, TrainingParams, 5)


def test_a_snapshot_takes_back_a_step_entirely():
    vectors = torch.ones(2, 3, requires_grad=True)
    optimizer = torch.optim.AdamW([vectors], lr=0.1)
    state = TrainingState(vectors, torch.Generator().manual_seed(0), {"optimizer": OptimizerPart(optimizer)})

    def one_step():
        vectors.grad = torch.randn(2, 3, generator=state.generator)
        optimizer.step()
        state.record(HistoryRow(state.step + 1, float(vectors.detach().sum()), 0.1, 1.0, 1.0, 1.0))

    one_step()
    before = state.snapshot()
    kept = decode(encode(state.to_payload(before)))
    state.begin(before)
    for _ in range(3):  # going back twice must not have changed the snapshot
        one_step()
        one_step()
        done = vectors.detach().clone(), list(state.history), state.loss_average
        state.restore(before)
        assert (state.step, len(state.history)) == (1, 1)
    one_step()
    one_step()
    assert torch.equal(vectors, done[0]) and state.history == done[1] and state.loss_average == done[2]
    state.load_payload(kept)
    one_step()
    one_step()
    assert torch.equal(vectors, done[0]) and state.history == done[1] and state.loss_average == done[2]
