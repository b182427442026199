"""Places in a store, by URL: named, listed, read and written as folders are. The store here is fsspec's in memory."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

pytest.importorskip("upath")

import fsspec
import torch

from lib_negtrans.apps.cli import telling
from lib_negtrans.embeddings.files import Embedding, read_embedding, write_embedding
from lib_negtrans.errors import UserError
from lib_negtrans.files import atomic_write, fetched, file_and_weight, is_remote, place, store_errors, walk
from lib_negtrans.models.standalone import HostError, ModelChoice, file_hash, load_model
from lib_negtrans.pictures.images import load_picture, save_png, to_pil
from lib_negtrans.pictures.tree import look_through
from lib_negtrans.translation.folder import plan
from tests.tiny_model import tiny_networks, write_folder
from tests.unit.test_cli import FAST, noise, run  # noqa: F401

SERVER = fsspec.filesystem("memory")


@pytest.fixture(autouse=True)
def store(monkeypatch, tmp_path):
    """Empty, and the cache of what is fetched too."""
    SERVER.store.clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def put(path, content):
    SERVER.pipe(f"/{path}", content)


def png(size=(64, 72)):
    stream = io.BytesIO()
    to_pil(torch.rand(3, size[1], size[0], generator=torch.Generator().manual_seed(0))).save(stream, "PNG")
    return stream.getvalue()


def test_what_a_text_names(tmp_path):
    assert place("a/b") == Path("a/b") and place(tmp_path) is not None and place("C:/x") == Path("C:/x")
    assert place(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    there = place("memory://bucket/a b")
    assert is_remote(there) and place(there) is there and not is_remote(tmp_path) and not is_remote(io.BytesIO())
    assert file_and_weight("memory://b/x.pt:0.5") == (place("memory://b/x.pt"), 0.5)
    assert file_and_weight("memory://b/x.pt") == (place("memory://b/x.pt"), 1.0)
    with pytest.raises(UserError, match="no-such://x/y cannot be opened: install what reads no-such://"):
        place("no-such://x/y")


def test_a_store_is_listed_as_a_folder_is(tmp_path):
    names = (
        "a.png",
        "mask_a.png",
        "sub/b c.jpg",
        "sub/notes.txt",
        ".hidden/d.png",
        "sub/.e.png",
        "out/done.png",
        "z.gif",
    )
    for name in names:
        put(f"bucket/in/{name}", b"x")
        noise(tmp_path / "in" / name) if not name.endswith("txt") else (tmp_path / "in" / name).write_text("x")
    put("bucket/in-other/f.png", b"x")
    there, here = place("memory://bucket/in"), tmp_path / "in"
    left = [sorted((below, sorted(names)) for below, names in walk(folder)) for folder in (there, here)]
    assert [entry for entry in left[1] if entry[1]] == left[0]
    pictures = look_through(there, there / "out").pictures
    assert pictures == look_through(here, here / "out").pictures == ["a.png", "sub/b c.jpg", "z.gif"]
    assert [str(item.target) for item in plan(there, place("memory://bucket/in/out"))] == [
        f"memory://bucket/in/out/{name}" for name in ("a.png", "sub/b c.png", "z.png")
    ]


def test_a_file_is_there_whole_or_not_at_all(monkeypatch):
    target = place("memory://bucket/new/a.png")
    with pytest.raises(ValueError), atomic_write(target) as temporary:
        temporary.write_bytes(b"half")
        raise ValueError
    assert not target.exists()
    save_png(target, to_pil(torch.zeros(3, 64, 64)), {"k": "v"})
    assert load_picture(target).size == (64, 64)
    with pytest.raises(FileExistsError), atomic_write(target, overwrite=False):
        pass

    def broken(*_args, **_options):
        raise LookupError("no such tenant")  # a class of the store's package

    monkeypatch.setattr(type(target), "write_bytes", broken)
    with pytest.raises(OSError, match=r"a.png cannot be reached \(LookupError: no such tenant\)"):
        save_png(target, to_pil(torch.zeros(3, 64, 64)))
    with pytest.raises(UserError, match="says what to do"), store_errors(place("memory://b")):
        raise UserError("says what to do")


def test_a_fetched_file_is_kept_until_it_changes(monkeypatch):
    source = place("memory://bucket/x.bin")
    put("bucket/x.bin", b"one")
    copy = fetched(source)
    assert copy.read_bytes() == b"one" and copy.name == "x.bin" and fetched(copy) == copy
    monkeypatch.setattr(type(source), "open", lambda *_args: pytest.fail("it is here already"))
    assert fetched(source) == copy
    monkeypatch.undo()
    put("bucket/x.bin", b"three")
    assert fetched(source).read_bytes() == b"three"


def test_embeddings_and_models_come_from_a_store(tmp_path):
    write_embedding(tmp_path / "neg.pt", Embedding("neg", torch.ones(2, 64)))
    put("bucket/neg.pt", (tmp_path / "neg.pt").read_bytes())
    assert torch.equal(read_embedding(place("memory://bucket/neg.pt")).vectors, torch.ones(2, 64))
    with pytest.raises(HostError, match="cannot be fetched"):
        load_model("memory://bucket/none.safetensors")


def test_a_model_must_be_the_one_that_was_meant(tmp_path):
    folder = write_folder(tiny_networks(), tmp_path / "model")
    right = file_hash(folder)
    assert load_model(ModelChoice(folder, "cpu", sha256=right)).checkpoint_hash == right
    with pytest.raises(HostError, match="is another file here than where the run was started"):
        load_model(ModelChoice(folder, "cpu", sha256="0" * 64))


def test_translate_from_store_to_store(run, tmp_path):  # noqa: F811
    put("bucket/in/a b.png", png())
    put("bucket/in/sub/c.png", png((80, 64)))
    put("bucket/in/broken.png", b"x")
    put("bucket/masks/a b.png", png())
    call = ("translate", "--input", "memory://bucket/in", "--out", "memory://bucket/out", *FAST)
    code, out, err = run(*call)
    assert code == 1 and "2 translated, 0 done already, 1 failed" in out
    assert "failed: memory://bucket/in/broken.png: cannot be read as a picture" in err
    assert sorted(SERVER.find("/bucket/out")) == ["/bucket/out/a b.png", "/bucket/out/sub/c.png"]
    code, out, _ = run(*call)
    assert code == 1 and "0 translated, 2 done already, 1 failed" in out
    code, out, _ = run(*call, "--overwrite", "--size", "64x64")
    assert code == 1 and "2 translated" in out
    code, out, err = run(*call, "--mask", "memory://bucket/masks", "--overwrite")
    assert (
        code == 1
        and "1 translated, 0 done already, 2 failed" in out
        and "c.png: has no mask: memory://bucket/masks/sub/c.png is missing" in err
    )
    noise(tmp_path / "in" / "d.png")
    assert run("translate", "--input", tmp_path / "in", "--out", "memory://bucket/mixed", *FAST)[0] == 0
    assert SERVER.exists("/bucket/mixed/d.png")
    code, _, err = run("translate", "--input", "memory://bucket/none", "--out", tmp_path / "out", *FAST)
    assert code == 2 and err == "error: there is no file or folder memory://bucket/none.\n"


def test_several_processes_cannot_share_a_store(run, monkeypatch):  # noqa: F811
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    put("bucket/in/a.png", png())
    code, _, err = run("translate", "--input", "memory://bucket/in", "--out", "memory://bucket/out", *FAST)
    assert code == 2 and "Several processes cannot share memory://bucket/out: use --engine ray" in err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--engine", "ray"), "--engine ray needs Ray: install this project with `pip install '.[ray]'`"),
        (("--ray-address", "h:1"), "--ray-address is for --engine ray"),
        (("--block", "0"), "--block 0 must be more than 0."),
        (("--cpus-per-actor", "-1"), "--cpus-per-actor -1 must be more than 0."),
        (("--item-timeout", "-1"), "--item-timeout -1 must be 0 or more seconds."),
    ],
)
def test_wrong_engine_options_are_a_sentence(run, tmp_path, monkeypatch, options, says):  # noqa: F811
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    monkeypatch.delitem(sys.modules, "lib_negtrans.runners.ray_cluster", raising=False)
    noise(tmp_path / "a.png")
    code, out, err = run("translate", "--input", tmp_path / "a.png", "--out", tmp_path / "out", *FAST, *options)
    assert code == 2 and not out and says in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_speed_of_actors():
    now = iter((0.0, 30.0, 60.0))
    rate = telling.Rate(lambda: next(now))

    class Done:
        where = "a/1"

    assert rate.add(Done) == "1 actors, 2 a minute each"
    Done.where = "b/1"
    assert rate.add(Done) == "2 actors, 1 a minute each"
    Done.where = ""
    assert rate.add(Done) == ""
