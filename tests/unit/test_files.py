"""Files are whole or not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lib_negtrans.files import atomic_write, write_bytes_atomic, write_text_atomic

ROOT = Path(__file__).resolve().parents[2]


def test_an_error_in_mid_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.bin"
    write_bytes_atomic(path, b"old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_bytes(b"half of the n")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_takes_the_name_and_the_old_one_is_not_written_into(tmp_path):
    write_bytes_atomic(tmp_path / "a.bin", b"old")
    (tmp_path / "old.bin").hardlink_to(tmp_path / "a.bin")
    write_bytes_atomic(tmp_path / "a.bin", b"new")
    assert (tmp_path / "old.bin").read_bytes() == b"old"
    assert (tmp_path / "a.bin").read_bytes() == b"new"


def test_folders_are_made_and_text_is_utf8(tmp_path):
    write_text_atomic(tmp_path / "a/b/c.txt", "ü\n")
    assert (tmp_path / "a/b/c.txt").read_bytes() == b"\xc3\xbc\n"


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
def test_modes_are_those_of_ordinary_files(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_bytes_atomic(tmp_path / "new", b"")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "new").chmod(0o640)
    write_bytes_atomic(tmp_path / "new", b"1")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640


def test_a_file_that_appears_while_writing_is_kept(tmp_path):
    path = tmp_path / "a.bin"
    with pytest.raises(FileExistsError), atomic_write(path, overwrite=False) as temporary:
        temporary.write_bytes(b"ours")
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_a_killed_process_leaves_a_whole_file(tmp_path):
    path = tmp_path / "a.bin"
    program = (
        "import sys; from lib_negtrans.files import write_bytes_atomic\n"
        "while True:\n"
        "    for letter in b'ab': write_bytes_atomic(sys.argv[1], bytes([letter]) * 3_000_000)\n"
    )
    for wait in (0.0, 0.013, 0.031):
        process = subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=ROOT)
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        content = path.read_bytes()
        assert content in (b"a" * 3_000_000, b"b" * 3_000_000)
        path.unlink()
