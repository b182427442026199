"""Processes started together: real ones on one folder, and what the main one learns of the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lib_negtrans.runners.launched import Launched, LaunchedRunner, runner_here
from tests.tiny_model import tiny_networks, write_folder
from tests.unit.test_claims import dead_pid
from tests.unit.test_training_lora import make_photos

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_alone_and_launched(environment):
    assert Launched.from_environment() == Launched(0, 1, 0, 1)
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")):
        environment.setenv(name, value)
    launched = Launched.from_environment()
    assert launched == Launched(3, 4, 1, 2) and not launched.is_main


def test_the_main_process_gets_the_sums_and_cleans_up(environment, tmp_path):
    shares = [LaunchedRunner(tmp_path, Launched(rank, 2, rank, 2)) for rank in range(2)]
    threading.Timer(0.5, shares[1].finish, [{"translated": 3, "failed": 1}]).start()
    assert shares[0].finish({"translated": 2, "failed": 0}) == ({"translated": 5, "failed": 1}, [])
    assert list(tmp_path.iterdir()) == []
    assert runner_here(tmp_path).finish({"translated": 1}) == ({"translated": 1}, [])
    assert list(tmp_path.iterdir()) == []


def test_all_go_by_the_first_ones_beginning(environment, tmp_path):
    first = LaunchedRunner(tmp_path, Launched(1, 2, 1, 2))
    time.sleep(0.02)
    second = LaunchedRunner(tmp_path, Launched(0, 2, 0, 2))
    assert second.first_start() == first.first_start() == first.began < second.began


def test_one_that_was_killed_is_not_waited_for(environment, tmp_path):
    main, other = (LaunchedRunner(tmp_path, Launched(rank, 2, rank, 2)) for rank in range(2))
    file = other._file(1)
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"pid": dead_pid()}))
    began = time.monotonic()
    assert main.finish({"translated": 2, "failed": 0}) == ({"translated": 2, "failed": 0}, [1])
    assert time.monotonic() - began < 5


def test_what_an_earlier_run_left_says_nothing(environment, tmp_path):
    runner = LaunchedRunner(tmp_path, Launched(0, 2, 0, 2))
    old = {"host": "h", "pid": 1, "began": time.time() - 3600, "counts": {"translated": 9}}
    runner._file(1).write_text(json.dumps(old))
    assert runner._read(1) is None


def test_two_processes_share_a_folder(tmp_path):
    model = write_folder(tiny_networks(), tmp_path / "model")
    source, out = tmp_path / "in", tmp_path / "out"
    make_photos(source, 8)
    (source / "broken.png").write_bytes(b"x")
    command = [sys.executable, "-m", "lib_negtrans", "translate", "--model", model, "--input", source, "--out", out,
               "--steps", "10", "--negative-prompt", "a render", "--json"]  # fmt: skip
    processes = []
    for rank in range(2):
        launch = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        env = {**os.environ, **launch, "MASTER_PORT": "29511", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(list(map(str, command)), env=env, cwd=tmp_path, **pipes))
    outputs = [process.communicate(timeout=300) for process in processes]
    # the main one's code says that one failed, whoever met it; another's would make the launcher kill the rest
    assert [process.returncode for process in processes] == [1, 0], outputs
    events = [[json.loads(line) for line in stdout.splitlines()] for stdout, _ in outputs]
    made = [[e["source"] for e in own if e["event"] == "translated"] for own in events]
    failed = [e for own in events for e in own if e["event"] == "error"]
    assert len(made[0] + made[1]) == len({*made[0], *made[1]}) == 8 and len(failed) == 1
    done = [e for own in events for e in own if e["event"] == "done"]
    assert len(done) == 1 and done[0]["translated"] == 8 and done[0]["failed"] == 1
    assert sorted(p.name for p in out.iterdir()) == [f"{number}.png" for number in range(8)]
