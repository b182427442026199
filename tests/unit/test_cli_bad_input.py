"""The translate command with masks, and with what people give it by mistake: one sentence, results kept, hooks gone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lib_negtrans.apps.cli import main as cli
from lib_negtrans.models import standalone
from lib_negtrans.translation.infotext import parse_pairs
from tests.unit.test_cli import FAST, noise


@pytest.fixture
def run(monkeypatch, shared_tiny_host, capsys, tmp_path):
    """Translates tmp_path/in to tmp_path/out; gives exit code, standard output, standard error."""
    monkeypatch.setattr(standalone, "load_model", lambda *_args, **_options: shared_tiny_host)

    def call(*argv):
        folders = ["--input", tmp_path / "in", "--out", tmp_path / "out"]
        code = cli.main([str(a) for a in ("translate", *folders, *FAST, *argv)])
        captured = capsys.readouterr()
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in shared_tiny_host.unet.modules())
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return call


@pytest.fixture
def names(tmp_path):
    noise(tmp_path / "in" / "a.png")
    noise(tmp_path / "in" / "b.png")
    return lambda: sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file())


def paint(path, width=64, height=72):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((height, width), np.uint8)
    values[:, : width // 2] = 255
    Image.fromarray(values).save(path)
    return path


def test_a_painted_mask_keeps_the_background(run, names, tmp_path):
    code, _out, _err = run("--mask", paint(tmp_path / "mask.png"), "--background", "keep")
    assert code == 0 and names() == ["a.png", "b.png"]
    source, result = (np.asarray(Image.open(tmp_path / f / "a.png").convert("RGB")).astype(int) for f in ("in", "out"))
    assert abs(source - result)[:, 40:].max() <= 1 < abs(source - result)[:, :24].max()
    text = Image.open(tmp_path / "out" / "a.png").text["parameters"]
    fields = parse_pairs(text.split("\n")[-1])
    assert (fields["NegTrans mask"], fields["NegTrans background"]) == ("file", "keep")


def test_masks_of_another_shape_or_missing_fail_one_by_one(run, names, tmp_path):
    paint(tmp_path / "masks" / "a.png", 72, 64)
    code, _out, err = run("--mask", tmp_path / "masks")
    lines = err.strip().splitlines()
    assert code == 1 and len(lines) == 2 and names() == []
    assert "is 64x72 but its mask a.png is 72x64: make both of one shape." in lines[0] and "has no mask" in lines[1]
    paint(tmp_path / "masks" / "a.png")
    assert run("--mask", tmp_path / "masks")[0] == 1 and names() == ["a.png"]


def test_an_automatic_mask_says_what_it_found(run, names):
    code, out, _err = run("--mask", "auto", "--json")
    notes = [json.loads(line).get("note", "") for line in out.splitlines()]
    assert code == 0 and notes[0] == "no mask: neither transparency nor a uniform border colour"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--mask", "nowhere.png"], "there is no mask file or folder nowhere.png"),
        (["--colour", "paint"], None),
        (["--colour-strength", "2"], "Colour strength must lie between 0 and 1"),
    ],
)
def test_wrong_calls(run, names, argv, says):
    if says is None:
        with pytest.raises(SystemExit) as error:
            run(*argv)
        assert error.value.code == 2
        return
    code, _out, err = run(*argv)
    assert code == 2 and says in err and len(err.strip().splitlines()) == 1


def test_an_embedding_of_another_width(run, names, tmp_path):
    path = tmp_path / "wide.pt"
    torch.save({"string_to_param": {"*": torch.zeros(2, 768)}, "string_to_token": {"*": 265}, "name": "wide"}, path)
    code, _out, err = run("--negative", path)
    assert code == 2 and "has vectors of width 768, the model needs 64" in err and names() == []


class Fails:
    """A model that fails in the second picture's sampling, in one way; without memory once more when tried again."""

    def __init__(self, host, failure):
        self.original, self.failure, self.calls = host.predict_noise, failure, 0

    def __call__(self, *args):
        self.calls += 1
        output = self.original(*args)
        if self.calls not in ((10,) if self.failure is None else (10, 11)):
            return output
        if self.failure is None:
            return output * float("nan")
        raise self.failure


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (None, "the model gave NaN at timestep"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), "needs more memory than there is"),
        (MemoryError(), "needs more memory than there is"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."), "needs more memory"),
    ],
)
def test_a_failure_in_mid_sampling_keeps_earlier_results(
    run, names, monkeypatch, shared_tiny_host, failure, says, tmp_path
):
    noise(tmp_path / "in" / "c.png")
    monkeypatch.setattr(shared_tiny_host, "predict_noise", Fails(shared_tiny_host, failure))
    code, _out, err = run()
    assert code == 1 and len(err.strip().splitlines()) == 1 and says in err and "b.png" in err
    assert names() == ["a.png", "c.png"]
