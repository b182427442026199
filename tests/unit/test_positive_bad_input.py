"""What people give `train-positive` by mistake: each time one sentence that says what to do, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_negtrans.apps.cli import main as cli
from lib_negtrans.models import standalone
from lib_negtrans.training import step
from lib_negtrans.training.data import photographs
from tests.unit.test_bad_input import Disk, everything, full_disks, needs_proc, zero_bytes
from tests.unit.test_training_lora import make_photos

KINDS = pytest.mark.parametrize("kind", ["lora", "full"])
NAME, OTHER = "photo-look", "photo-other"
NO_MEMORY = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


@pytest.fixture(scope="module")
def loaded(base):
    return standalone.load_model(base, device="cpu")


@pytest.fixture
def train(tmp_path, loaded, capsys, monkeypatch):
    """Trains on tmp_path/photos into tmp_path/out; gives exit code, standard output, lines on standard error."""
    monkeypatch.setattr(standalone, "load_model", lambda *_args, **_options: loaded)
    make_photos(tmp_path / "photos")

    def call(kind="lora", *more, name=NAME, **options):
        values = {"steps": 2, "size": 64, "save-every": 1, **({"rank": 2} if kind == "lora" else {}), **options}
        flags = [word for key, value in values.items() for word in (f"--{key}", str(value))]
        folders = ["--images", tmp_path / "photos", "--out", tmp_path / "out", "--name", name]
        code = cli.main([str(word) for word in ("train-positive", "--kind", kind, *folders, *flags, *more)])
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        assert not any(module._forward_hooks for module in loaded.unet.modules())
        return code, said.out, said.err.strip().splitlines()

    return call


def no_pictures(place, _):
    for path in (place / "photos").iterdir():
        path.unlink()


def class_file(place, _):
    (place / "class").write_text("x")


def class_without_rights(place, monkeypatch):
    (place / "class").mkdir()
    real = Path.iterdir

    def iterdir(path):
        if path == place / "class":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)


def class_of_broken_pictures(place, _):
    (place / "class").mkdir()
    zero_bytes(place / "class", None)


def name_of_another_file(place, _):
    (place / "out" / f"{OTHER}.safetensors").write_bytes(b"mine")


@KINDS
@pytest.mark.parametrize(
    ("spoil", "call", "says"),
    [
        (no_pictures, {}, "No pictures were found"),
        (class_file, {"prior": "class", "class-images": "class"}, "cannot be used (File exists): name another one"),
        (class_without_rights, {"prior": "class", "class-images": "class"}, "cannot be used (Permission denied)"),
        (
            class_of_broken_pictures,
            {"prior": "class", "class-images": "class", "class-count": 1},
            "None of the 1 pictures",
        ),
        (None, {"prior": "class"}, "needs a folder for them"),
        (None, {"rank": 0}, "Rank must lie between 1 and 1024, not 0"),
        (None, {"alpha": 0}, "Alpha must lie between 0.001"),
        (None, {"lr": "1e9"}, "must be above 0 and at most 1"),
        (None, {"name": NAME}, "resume it, or allow overwriting"),
        (name_of_another_file, {}, "exists already: choose another name"),
        (None, {"name": "photo/look"}, "use only a-z"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_one_sentence_and_nothing_is_lost(tmp_path, monkeypatch, train, kind, spoil, call, says):
    if kind == "full" and call.keys() & {"rank", "alpha"}:
        pytest.skip("an option of LoRAs")
    assert train(kind)[0] == 0
    if spoil is not None:
        spoil(tmp_path, monkeypatch)
    before, options = everything(tmp_path), {"name": OTHER} | call
    if "class-images" in options:
        options["class-images"] = tmp_path / options["class-images"]
    code, _, errors = train(kind, **options)
    assert code == 2 and len(errors) == 1 and says in errors[0] and errors[0].startswith("error: "), errors
    assert everything(tmp_path) == before


@KINDS
def test_a_checkpoint_of_sdxl(tmp_path, base, capsys, kind):
    save_file(load_file(base) | {"conditioner.embedders.0.transformer.x": torch.zeros(1)}, tmp_path / "xl.safetensors")
    make_photos(tmp_path / "photos")
    call = ["train-positive", "--kind", kind, "--model", str(tmp_path / "xl.safetensors"), "--name", NAME]
    code = cli.main([*call, "--images", str(tmp_path / "photos"), "--out", str(tmp_path / "out")])
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and "kind SDXL," in error and not (tmp_path / "out").exists()


@KINDS
def test_one_picture_without_a_caption_is_trained_on(tmp_path, train, kind):
    for path in (tmp_path / "photos").iterdir():
        if path.name != "0.png":
            path.unlink()
    code, out, errors = train(kind, **{"validate-every": 1})
    assert code == 0 and errors == [] and "too few photos" in out


def test_captions_that_are_missing_are_told(tmp_path, train):
    for path in (tmp_path / "photos").glob("*.txt"):
        path.unlink()
    code, out, errors = train()
    assert code == 0 and errors == [] and "No picture has a caption of its own: all are shown as 'a photo'" in out


def resumed(tmp_path, train, kind, *more):
    """The same training goes on, to what it would have been."""
    assert train(kind, "--resume", *more)[0] == 0
    assert train(kind, *more, name=OTHER)[0] == 0
    one, two = (load_file(tmp_path / "out" / f"{name}.safetensors") for name in (NAME, OTHER))
    assert all(torch.equal(one[key], two[key]) for key in two)


@needs_proc
@KINDS
@full_disks(f"{NAME}.safetensors", ("class-00000001", 0, 2, "Class picture 1 cannot be written"))
def test_a_full_disk(tmp_path, monkeypatch, train, kind, word, after, code, says):
    more = ["--prior", "class", "--class-images", str(tmp_path / "class"), "--class-count", "2", "--class-steps", "1"]
    disk = Disk(monkeypatch, word, after)
    got, out, errors = train(kind, *more)
    assert got == code and len(errors) == 1 and says in errors[0], (got, errors, out)
    assert not list(tmp_path.rglob("*.tmp"))
    disk.full = False
    resumed(tmp_path, train, kind, *more)


@KINDS
@pytest.mark.parametrize("place", ["pictures", "class pictures", "step"])
def test_memory_that_runs_out(tmp_path, monkeypatch, loaded, train, kind, place):
    more = ["--prior", "class", "--class-images", str(tmp_path / "class"), "--class-count", "1", "--class-steps", "1"]

    def fails(*_args, **_options):
        raise NO_MEMORY

    with monkeypatch.context() as patch:
        if place == "pictures":
            patch.setattr(loaded, "encode_image_distribution", fails)
        elif place == "class pictures":
            patch.setattr(photographs, "sample_picture", fails)
        else:
            patch.setattr(step.Stepper, "_gradient", fails)
        code, _, errors = train(kind, *more)
    assert code == (1 if place == "step" else 2) and len(errors) == 1, errors
    assert "Memory ran out: lower the batch size or the picture size" in errors[0]
    resumed(tmp_path, train, kind, *more)
