"""Claims: one owner at a time, whatever happens to the owners."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lib_negtrans.runners import claims as module
from lib_negtrans.runners.claims import Claims, claim_path


@pytest.fixture
def target(tmp_path):
    return tmp_path / "sub" / "a.png"


def write_claim(target, pid, host=None, age=0.0):
    path = claim_path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"host": host or socket.gethostname(), "pid": pid, "token": "theirs"}))
    os.utime(path, (time.time() - age,) * 2)


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_one_gets_it_until_it_is_given_back(target):
    with Claims() as ours, Claims() as theirs:
        assert ours.take(target) and not theirs.take(target)
        assert theirs.taken(target) and not ours.taken(target)
        ours.release(target)
        assert theirs.take(target) and not ours.take(target)
    assert list(target.parent.iterdir()) == []


def test_what_is_held_is_given_back_at_the_end_also_after_an_error(target):
    with pytest.raises(KeyboardInterrupt), Claims() as ours:
        ours.take(target)
        raise KeyboardInterrupt
    assert not claim_path(target).exists()


def test_a_dead_process_is_followed_at_once(target):
    write_claim(target, dead_pid())
    with Claims() as ours:
        assert not ours.taken(target) and ours.take(target)


@pytest.mark.parametrize(("age", "free"), [(10, False), (module.STALE_AFTER + 10, True)])
def test_one_on_another_machine_when_it_is_silent(target, age, free):
    write_claim(target, 1, host="another", age=age)
    with Claims() as ours:
        assert ours.taken(target) is not free and ours.take(target) is free


def test_a_claim_that_is_just_being_written_is_respected(target):
    write_claim(target, 1)
    claim_path(target).write_text("")
    with Claims() as ours:
        assert not ours.take(target)


def test_a_successors_claim_stays(target):
    with Claims() as ours:
        ours.take(target)
        write_claim(target, os.getpid(), host="another")
    assert claim_path(target).exists()


def test_claims_in_use_are_touched(target, monkeypatch):
    monkeypatch.setattr(module, "TOUCH_EVERY", 0.02)
    with Claims() as ours:
        ours.take(target)
        os.utime(claim_path(target), (0, 0))
        for _ in range(200):
            if claim_path(target).stat().st_mtime > 1:
                break
            time.sleep(0.01)
        assert claim_path(target).stat().st_mtime > 1


def test_of_many_that_want_a_dead_ones_place_one_gets_it(tmp_path):
    pid = dead_pid()
    for number in range(20):
        target = tmp_path / f"{number}.png"
        write_claim(target, pid)
        everybody = [Claims() for _ in range(6)]
        barrier, got = threading.Barrier(len(everybody)), []

        def want(claims, target=target, barrier=barrier, got=got):
            barrier.wait()
            if claims.take(target):
                got.append(claims)

        with ThreadPoolExecutor(len(everybody)) as pool:
            list(pool.map(want, everybody))
        assert len(got) == 1


def test_a_failure_is_known_to_others_while_its_process_runs(target):
    with Claims() as theirs:
        with Claims() as ours:
            ours.take(target)
            assert not theirs.failed_elsewhere(target)
            ours.fail(target)
            assert theirs.failed_elsewhere(target) and not ours.failed_elsewhere(target)
            assert not theirs.take(target)
        assert not theirs.failed_elsewhere(target) and theirs.take(target)
    write_claim(target, dead_pid())
    with Claims() as ours:
        assert not ours.failed_elsewhere(target)
