"""train-positive and adapt on the command line."""

from __future__ import annotations

import pytest

from lib_negtrans.apps.cli import adapt
from lib_negtrans.apps.cli.main import main
from lib_negtrans.lora.files import read_lora
from tests.unit.test_training_lora import make_photos


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("data")
    return make_photos(place / "photos"), make_photos(place / "renders", 3, 40)


def test_train_positive_writes_a_lora_with_its_card(tmp_path, base, folders, capsys):
    photos, renders = map(str, folders)
    call = ["train-positive", "--images", photos, "--renders", renders, "--name", "photo-look", "--out", str(tmp_path)]
    call += ["--model", str(base), "--size", "64", "--rank", "2"]
    assert main([*call, "--steps", "2"]) == 0
    assert read_lora(tmp_path / "photo-look.safetensors").rank == 2
    assert (tmp_path / "photo-look.json").is_file() and (tmp_path / "photo-look.preview.png").is_file()
    assert "use it with --lora" in capsys.readouterr().out
    assert main([*call, "--steps", "2"]) == 2 and "resume it, or allow overwriting" in capsys.readouterr().err
    assert main([*call, "--steps", "3", "--resume", "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--kind", "full", "--rank", "4"], "--rank is not for the kind full"),
        (["--rank", "0"], "Rank must lie between 1 and 1024"),
        (["--lr", "1e9"], "at most 1"),
        (["--images", "nowhere"], "nowhere is not a folder"),
        (["--no-ema-on-cpu"], "--ema-on-cpu is not for the kind lora"),
    ],
)
def test_wrong_calls_are_one_line(tmp_path, base, folders, capsys, options, says):
    call = [
        "train-positive",
        "--images",
        str(folders[0]),
        "--name",
        "photo-look",
        "--out",
        str(tmp_path),
        "--size",
        "64",
    ]
    assert main([*call, "--size", "64", "--model", str(base), *options]) == 2
    error = capsys.readouterr().err.strip()
    assert says in error and "\n" not in error


def test_adapt_goes_on_where_it_was_stopped(tmp_path, base, folders, monkeypatch, capsys):
    def call(out, *more):
        options = ["--lora-option", "rank=2", "--negative-option", "vectors=2", "--negative-option", "accumulation=1"]
        for kind in ("lora", "negative"):
            options += [f"--{kind}-option", "steps=2", f"--{kind}-option", "size=64"]
        photos, renders = map(str, folders)
        found = ["adapt", "--photos", photos, "--renders", renders, "--name", "neg-x", "--out", str(tmp_path / out)]
        return [*found, "--model", str(base), *options, *more]

    assert main(call("whole")) == 0
    with monkeypatch.context() as patch:
        patch.setattr(adapt, "merge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(call("halved")) == 130
    assert not (tmp_path / "halved/neg-x.pt").exists()
    assert main(call("halved")) == 0 and "neg-x-photo.safetensors is there already" in capsys.readouterr().out
    one, two = (tmp_path / name / "neg-x.bundle.safetensors" for name in ("whole", "halved"))
    assert one.read_bytes() == two.read_bytes() and read_lora(one).embeddings["neg-x"].shape == (2, 64)
    assert main(call("whole", "--lora-option", "steps")) == 2 and "write NAME=VALUE" in capsys.readouterr().err
