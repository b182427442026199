"""What people give a trainer by mistake: each time one sentence that says what to do, and nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_negtrans import files
from lib_negtrans.apps.cli import main as cli
from lib_negtrans.embeddings.files import read_embedding
from lib_negtrans.models import standalone
from lib_negtrans.training.checkpoint import checkpoints
from lib_negtrans.training.request import read_request

NAME = "neg-x"
SMALL = {"steps": "2", "vectors": "1", "accumulation": "1", "size": "64", "save-every": "1"}


def picture(path, size=(64, 64), seed=0, **options):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path, **options)


@pytest.fixture
def place(tmp_path, shared_tiny_host, monkeypatch):
    """renders/ with one good picture, out/, and a model that is loaded already."""
    monkeypatch.setattr(standalone, "load_model", lambda *_args, **_options: shared_tiny_host)
    (tmp_path / "renders").mkdir()
    picture(tmp_path / "renders" / "good.png")
    return tmp_path


def train(place, capsys, *more, name=NAME, **options):
    """(exit code, standard output, lines on standard error)"""
    values = SMALL | options
    flags = [word for key, value in values.items() for word in (f"--{key}", value)]
    folders = ["--images", str(place / "renders"), "--name", name, "--out", str(place / "out")]
    try:
        code = cli.main(["train-negative", *folders, *flags, *more])
    except SystemExit as exit_:  # argparse
        code = exit_.code
    said = capsys.readouterr()
    return code, said.out, said.err.strip().splitlines()


def everything(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def zero_bytes(folder, _):
    (folder / "bad.png").write_bytes(b"")


def cut_off(folder, _):
    picture(folder / "bad.jpg", (200, 200))
    content = (folder / "bad.jpg").read_bytes()
    (folder / "bad.jpg").write_bytes(content[: len(content) // 2])


def enormous(folder, _):
    Image.new("1", (20_000, 20_000)).save(folder / "bad.png")


def no_permission(folder, monkeypatch):
    picture(folder / "bad.png")
    real = Image.open

    def open_(file, *args, **kwargs):
        if Path(str(file)).name == "bad.png":
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, *args, **kwargs)

    monkeypatch.setattr(Image, "open", open_)


def loops(folder, _):
    (folder / "loop").symlink_to(folder)
    (folder / "bad.png").symlink_to(folder / "bad.png")


def tiny(folder, _):
    picture(folder / "bad.png", (1, 1))


def animation(folder, _):
    frames = [Image.new("P", (64, 64), shade) for shade in (0, 9)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("spoil", "pictures", "says"),
    [
        (None, 1, None),
        (zero_bytes, 1, "Skipped: bad.png cannot be read as a picture"),
        (cut_off, 1, "Skipped: bad.jpg cannot be read as a picture"),
        (enormous, 1, "Skipped: bad.png has too many pixels"),
        (no_permission, 1, "Skipped: bad.png cannot be read"),
        (loops, 1, None),
        (tiny, 1, "Skipped: bad.png is 1x1 pixels"),
        (animation, 2, None),
    ],
    ids=["one-picture", "zero-bytes", "cut-off", "20000x20000", "no-permission", "link-loops", "1x1", "gif"],
)
def test_pictures_that_cannot_be_used_are_named_and_the_rest_is_trained_on(
    place, capsys, monkeypatch, spoil, pictures, says
):
    if spoil is not None:
        spoil(place / "renders", monkeypatch)
    code, out, errors = train(place, capsys)
    assert code == 0 and errors == [], errors
    assert f"2 steps on {pictures} picture" in out
    if says is not None:
        assert sum(says in line for line in out.splitlines()) == 1, out
    assert read_embedding(place / "out" / f"{NAME}.pt").step == 2


@pytest.mark.parametrize(
    ("spoil", "says"),
    [(zero_bytes, "None of the 1 pictures"), (enormous, "too many pixels"), (None, "No pictures were found")],
    ids=["zero-bytes", "20000x20000", "empty"],
)
def test_a_folder_without_a_usable_picture(place, capsys, monkeypatch, spoil, says):
    (place / "renders" / "good.png").unlink()
    if spoil is not None:
        spoil(place / "renders", monkeypatch)
    code, _, errors = train(place, capsys)
    assert code == 2 and len(errors) == 1 and says in errors[0] and errors[0].startswith("error: ")
    assert not list((place / "out").rglob("*.pt"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "../up"}, "only a-z"),
        ({"name": "Neg X"}, "use only a-z"),
        ({"name": "con"}, "Windows"),
        ({"name": NAME}, "resume it"),
        ({"lr": "1e9", "name": "neg-y"}, "at most 1"),
        ({"lr": "5e-3:100; 1e-3", "name": "neg-y"}, "whole step number"),
        ({"lr": "5e-3:1OO", "name": "neg-y"}, "whole step number"),
        ({"vectors": "0", "name": "neg-y"}, "Vectors must lie between 1 and 75, not 0"),
        ({"vectors": "76", "name": "neg-y"}, "Vectors must lie between 1 and 75, not 76"),
        ({"size": "100", "name": "neg-y"}, "multiple of 8"),
        ({"steps": "0", "name": "neg-y"}, "Steps must lie between"),
        ({"tag-dropout": "2", "name": "neg-y"}, "Tag dropout must lie between 0 and 1"),
        ({"template": "no-such", "name": "neg-y"}, "no caption template"),
        ({"more": ["--resume"], "steps": "1"}, "has 2 steps already, not 1: ask for more steps"),
        ({"more": ["--resume"], "lr": "1e-3"}, "Learning rate"),
        ({"more": ["--images", "/no/such/folder"], "name": "neg-y"}, "is not a folder"),
    ],
)
def test_wrong_values_are_one_sentence_and_change_nothing(place, capsys, change, says):
    assert train(place, capsys)[0] == 0
    before, change = everything(place), dict(change)
    code, _, errors = train(place, capsys, *change.pop("more", ()), **change)
    assert code == 2 and len(errors) == 1 and says in errors[0], errors
    assert everything(place) == before


def test_another_file_under_the_name_is_kept(place, capsys):
    (place / "out").mkdir()
    (place / "out" / f"{NAME}.pt").write_bytes(b"mine")
    for more in ((), ("--resume",)):
        code, _, errors = train(place, capsys, *more)
        assert code == 2 and len(errors) == 1 and "exists already" in errors[0]
    assert everything(place / "out") == {f"{NAME}.pt": b"mine"}


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names of open files are Linux's")


class Disk:
    """A disk that is full for the files whose names contain a word, from a number of writes on."""

    def __init__(self, monkeypatch, word, after=0):
        self.word, self.left, self.full = word, after, True
        real = files.os.fsync

        def fsync(handle):
            name = str(Path(f"/proc/self/fd/{handle}").readlink())
            if self.full and self.word in name and Path(name).is_file():
                self.left -= 1
                if self.left < 0:
                    raise OSError(28, "No space left on device")
            return real(handle)

        monkeypatch.setattr(files.os, "fsync", fsync)


def full_disks(result, *more):
    """For any training whose result is the file `result`: what cannot be written, after how many, what then."""
    rows = [
        ("run.json", 0, 2, "No space left on device"),
        ("loss.csv", 0, 1, "No space left on device"),
        ("checkpoint-", 0, 1, "No space left on device"),
        ("checkpoint-", 1, 1, "No space left on device"),
        (result, 0, 1, "resume to write them"),
        (f"{Path(result).stem}.json", 0, 0, "the file itself is whole"),
    ]
    return pytest.mark.parametrize(("word", "after", "code", "says"), [*rows, *more])


@needs_proc
@full_disks(f"{NAME}.pt", ("out", 0, 2, "No space left on device"))
def test_a_full_disk_is_one_sentence_and_resume_goes_on(place, capsys, monkeypatch, word, after, code, says):
    disk = Disk(monkeypatch, word, after)
    got, out, errors = train(place, capsys)
    assert got == code and len(errors) == 1 and says in errors[0], (got, errors, out)
    assert "Traceback" not in out and not list(place.rglob("*.tmp"))
    disk.full = False
    assert train(place, capsys, "--resume")[0] == 0
    whole = read_embedding(place / "out" / f"{NAME}.pt").vectors
    assert train(place, capsys, name="neg-y")[0] == 0
    assert (whole == read_embedding(place / "out" / "neg-y.pt").vectors).all()


@needs_proc
def test_a_full_disk_loses_no_earlier_embedding(place, capsys, monkeypatch):
    assert train(place, capsys)[0] == 0
    before = (place / "out" / f"{NAME}.pt").read_bytes()
    Disk(monkeypatch, f"{NAME}.pt")
    code, _, errors = train(place, capsys, "--overwrite", lr="1e-3")
    assert code == 1 and len(errors) == 1 and (place / "out" / f"{NAME}.pt").read_bytes() == before


def test_pictures_that_become_unreadable_in_mid_run(place, capsys):
    """They are read before the first step; a resume says which they are."""
    for number in range(3):
        picture(place / "renders" / f"{number}.png", seed=number + 1)
    assert train(place, capsys, steps="2")[0] == 0
    (place / "renders" / "1.png").write_bytes(b"")
    (place / "renders" / "2.png").unlink()
    before = everything(place / "out")
    code, _, errors = train(place, capsys, "--resume", "--overwrite", steps="4")
    assert code == 2 and len(errors) == 1 and "other pictures or captions" in errors[0]
    assert "1.png cannot be read" in errors[0] and everything(place / "out") == before
    assert checkpoints(place / "out" / f"{NAME}.run")[0][0] == 2


def test_json_events_say_it_too(place, capsys):
    zero_bytes(place / "renders", None)
    code, out, _ = train(place, capsys, "--json")
    notices = [e for e in map(json.loads, out.splitlines()) if e["event"] == "notice"]
    assert code == 0 and any("bad.png cannot be read" in e.get("text", "") for e in notices)


def test_a_run_is_gone_on_with_by_its_folder_alone(place, capsys):
    """And by the tab: the request in the folder is the one that tab and API write."""
    assert train(place, capsys, "--preset", "quick", lr="1e-3")[0] == 0
    run = place / "out" / f"{NAME}.run"
    request = read_request(run)
    assert (request.name, request.images, request.params.lr) == (NAME, place / "renders", "1e-3")
    assert request.params.preview_every == 50, "of the preset"
    again = ["train-negative", "--resume", "--overwrite", "--run-folder", str(run), "--out", str(place / "out")]
    assert cli.main([*again, "--steps", "3"]) == 0
    assert read_embedding(place / "out" / f"{NAME}.pt").step == 3 and read_request(run).params.steps == 3
