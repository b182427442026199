"""The command line as people meet it: good folders, bad folders, wrong calls."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from lib_negtrans.apps.cli import demo
from lib_negtrans.apps.cli import main as cli
from lib_negtrans.files import file_and_weight
from lib_negtrans.lora.files import write_lora
from lib_negtrans.models import standalone
from lib_negtrans.options import ParamError
from lib_negtrans.translation.folder import plan
from lib_negtrans.translation.infotext import parse_pairs
from lib_negtrans.translation.negatives import Negative, with_negatives
from lib_negtrans.translation.params import TranslationParams
from tests.lora_files import random_pairs

FAST = ["--steps", "10", "--step-share", "1", "--negative-prompt", "a 3d render"]


@pytest.fixture
def run(monkeypatch, shared_tiny_host, capsys):
    """Runs a command on the tiny model; gives exit code, standard output and standard error."""
    monkeypatch.setattr(standalone, "load_model", lambda *_args, **_options: shared_tiny_host)

    def call(*argv: str):
        code = cli.main([str(a) for a in argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def noise(path, width=64, height=72, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path)
    return path


def messy_tree(root):
    noise(root / "a.png")
    noise(root / "a.jpg")
    noise(root / "sub" / "cmyk.jpg", mode="CMYK")
    noise(root / "sub" / "deep er" / "写真 1.png", mode="RGBA")
    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16).save(root / "sub" / "deep16.png")
    Image.new("RGB", (1, 1)).save(root / "tiny.png")
    (root / "corrupt.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (root / "notes.txt").write_text("not a picture")


def test_a_messy_tree_is_mirrored_failures_are_named_and_a_second_run_does_the_rest(run, tmp_path):
    messy_tree(tmp_path / "in")
    code, out, err = run("translate", "--input", tmp_path / "in", "--out", tmp_path / "out", *FAST)
    assert code == 1
    made = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*"))
    assert made == ["a.jpg.png", "a.png", "sub/cmyk.png", "sub/deep er/写真 1.png", "sub/deep16.png"]
    failures = [line for line in err.splitlines() if line.startswith("failed:")]
    assert len(failures) == 2
    assert "corrupt.png: cannot be read" in failures[0] and "tiny.png: is 1x1 pixels" in failures[1]
    assert "Traceback" not in err and "5 translated, 0 done already, 2 failed" in out

    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.png")}
    (tmp_path / "out" / "a.png").unlink()
    code, out, _err = run("translate", "--input", tmp_path / "in", "--out", tmp_path / "out", *FAST)
    assert code == 1 and "1 translated, 4 done already, 2 failed" in out
    changed = [p for p, stamp in stamps.items() if p.stat().st_mtime_ns != stamp]
    assert [p.name for p in changed] == ["a.png"]


def test_size_alpha_and_text_of_the_output(run, tmp_path):
    noise(tmp_path / "p.png", 70, 90, "RGBA")
    code, _out, _err = run(
        "translate", "--input", tmp_path / "p.png", "--out", tmp_path / "o", *FAST, "--strength", "0.4"
    )
    assert code == 0
    result = Image.open(tmp_path / "o" / "p.png")
    assert result.size == (70, 90) and result.mode == "RGBA"
    fields = parse_pairs(result.text["parameters"].split("\n")[-1])
    assert fields["NegTrans strength"] == "0.4" and fields["Steps"] == "10"
    assert json.loads(result.text["negtrans"])["params"]["negative_prompt"] == "a 3d render"


def test_guidance_and_attention_options_reach_the_output_and_its_text(run, tmp_path):
    noise(tmp_path / "p.png")

    def translated(*options) -> Image.Image:
        call = ("translate", "--input", tmp_path / "p.png", "--out", tmp_path / "o", "--overwrite", *FAST, *options)
        assert run(*call)[0] == 0
        return Image.open(tmp_path / "o" / "p.png")

    plain = np.asarray(translated())
    options = ("--guidance", "topk", "--topk-ratio", "0.1", "--cfg-rescale", "0.5")
    options += ("--tac-halves", "both", "--tac-blend", "0.5", "--tac-depths", "1 0.7")
    result = translated(*options)
    fields = parse_pairs(result.text["parameters"].split("\n")[-1])
    written = [f"NegTrans {name}" for name in ("guidance", "top-k ratio", "CFG rescale", "TAC halves", "TAC blend")]
    assert [fields[name] for name in written] == ["topk", "0.1", "0.5", "both", "0.5"]
    assert fields["NegTrans TAC depths"] == "1 0.7" and "NegTrans SEGA threshold" not in fields
    assert (np.asarray(result) != plain).any()


def test_json_events_are_one_object_a_line(run, tmp_path):
    noise(tmp_path / "in" / "p.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"x")
    code, out, _err = run("translate", "--input", tmp_path / "in", "--out", tmp_path / "o", *FAST, "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 1 and [e["event"] for e in events] == ["error", "translated", "done"]
    # 3 steps up from the clean end; 3 down, of which the first knows its conditional row
    assert events[1]["forwards"] == 4 + 5


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--input", "missing"], "no file or folder missing"),
        (["--input", "empty"], "no pictures were found"),
        (["--input", "p.png", "--strength", "0.01"], "leaves no step"),
        (["--input", "p.png", "--strength", "2"], "Strength must lie between"),
        (["--input", "p.png", "--size", "12"], "size must be"),
        (["--input", "p.png", "--tac-depths", "all"], "TAC depths must be up to 4 numbers"),
        (["--input", "p.png", "--negative", "nothing.pt"], "nothing.pt"),
        (["--input", "p.png", "--negative", "p.png"], "p.png"),
        (["--input", "p.png", "--preset", "fashionr2r", "--fixed-point", "1"], "published inversion order"),
        (["--input", "p.png", "--source-prompt", "a coat AND a hat"], "works only in a translation's prompt"),
        (["--input", "p.png", "--negative-prompt", "a AND b"], "works only in a translation's prompt"),
        (["--input", "p.png", "--prompt", "a AND_PERP [b AND_SALT c]"], "AND_SALT within square brackets is not"),
        (["--input", "p.png", "--concept", "wool :3 | kind=tok"], "Line 1 of Concepts: kind must be one of cfg, perp"),
        (["--input", "p.png", "--concept", "a", "--concept", "b | 3"], "Line 2 of Concepts: options are written as"),
        (["--input", "p.png", "--feature-memory", "-1"], "--feature-memory -1 must be 0 or more MB"),
    ],
)
def test_wrong_calls_are_one_line_and_exit_2(run, tmp_path, monkeypatch, argv, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    noise(tmp_path / "p.png")
    code, _out, err = run("translate", "--out", "o", *argv)
    assert code == 2 and says in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("out", ["p.png", "p.png/results"])
def test_an_output_folder_that_is_a_file_or_lies_in_one_is_refused(run, tmp_path, out):
    noise(tmp_path / "p.png")
    for command in (["translate", "--input", tmp_path / "p.png"], ["demo"]):
        code, _out, err = run(*command, "--out", tmp_path / out)
        assert code == 2 and err == f"error: --out {tmp_path / 'p.png'} is a file: name a folder.\n"


def test_interrupt_keeps_what_is_done(run, tmp_path, monkeypatch, shared_tiny_host):
    noise(tmp_path / "in" / "a.png")
    noise(tmp_path / "in" / "b.png")
    original, calls = shared_tiny_host.predict_noise, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) > 10:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(shared_tiny_host, "predict_noise", interrupted)
    code, _out, err = run("translate", "--input", tmp_path / "in", "--out", tmp_path / "o", *FAST)
    assert code == 130 and "again to go on" in err
    assert [p.name for p in (tmp_path / "o").iterdir()] == ["a.png"]
    assert not any(m._forward_hooks for m in shared_tiny_host.unet.modules())


def test_the_output_inside_the_input_is_not_translated_again(tmp_path):
    noise(tmp_path / "a.png")
    noise(tmp_path / "out" / "a.png")
    assert [item.source.name for item in plan(tmp_path, tmp_path / "out")] == ["a.png"]


def test_the_demo_leaves_its_embedding_with_a_card(run, tmp_path, monkeypatch):
    def interrupted(*_args):
        raise KeyboardInterrupt

    for number in range(3):
        noise(tmp_path / f"renders/train/mh_{number}.png", 128, 128)
        noise(tmp_path / f"renders/eval/mh_{number}.png", 128, 128)
    write_lora(tmp_path / "photo.safetensors", random_pairs(standalone.load_model("any")), {})
    monkeypatch.setattr(demo, "PHOTO_LORA", tmp_path / "photo.safetensors")
    monkeypatch.setattr(demo, "RENDERS", tmp_path / "renders")
    monkeypatch.setattr(demo, "_translate", interrupted)
    code, _out, err = run("demo", "--out", tmp_path / "o", "--steps", "1", "--count", "3")
    assert code == 130, err
    assert json.loads((tmp_path / "o/neg-render-demo.json").read_text())["activation text"] == "neg-render-demo"


@pytest.mark.parametrize(
    ("typed", "used"),
    [
        ("blurry, neg-c", "neg-a, (neg-b:1.3), blurry, neg-c"),
        ("(neg-b:0.5), Neg-A", "neg-c, (neg-b:0.5), Neg-A"),
        ("neg-a-2, neg-bb, xneg-c", "neg-a, (neg-b:1.3), neg-c, neg-a-2, neg-bb, xneg-c"),
        ("", "neg-a, (neg-b:1.3), neg-c"),
    ],
    ids=["one typed", "weighted or in capitals", "only parts of other words", "none typed"],
)
def test_negatives_join_the_prompt_once(typed, used):
    negatives = [Negative("neg-a", None), Negative("neg-b", None, 1.3), Negative("neg-c", None)]
    params, embeddings = with_negatives(TranslationParams(negative_prompt=typed), negatives)
    assert params.negative_prompt == used
    assert list(embeddings) == ["neg-a", "neg-b", "neg-c"]


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [
        ("a.pt", "a.pt", 1.0),
        ("a.pt:1.5", "a.pt", 1.5),
        (r"C:\x\a.pt", r"C:\x\a.pt", 1.0),
        ("d:a.pt:.5", "d:a.pt", 0.5),
        ("a.pt:nan", "a.pt:nan", 1.0),
    ],
)
def test_file_and_weight(text, path, weight):
    parsed = file_and_weight(text)
    assert (str(parsed[0]), parsed[1]) == (path, weight)


def test_unknown_names_are_param_errors():
    with pytest.raises(ParamError):
        TranslationParams.from_dict({"unknown": 1})
