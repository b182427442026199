"""LoRAs from the command line and on the page: used, named in what is made, and the same model again or a refusal."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lib_negtrans import load_model
from lib_negtrans.apps.cli import main as cli
from lib_negtrans.embeddings.files import Embedding, read_embedding, write_embedding
from lib_negtrans.lora.files import read_lora, write_lora
from lib_negtrans.models import standalone
from lib_negtrans.models.standalone import default_model_path
from lib_negtrans.translation.infotext import loras_in, parse_infotext
from tests.lora_files import random_pairs
from tests.unit.test_cli import FAST, noise


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """photo.safetensors and style.safetensors for the demonstration model, neg-x.pt, and pictures in `in`."""
    folder = tmp_path_factory.mktemp("loras")
    host = standalone.load_model(default_model_path(), device="cpu")
    write_lora(
        folder / "photo.safetensors",
        random_pairs(host, scale=0.5),
        {"ss_output_name": "other", "sshs_model_hash": "0123456789abcdef"},
    )
    write_lora(folder / "style.safetensors", random_pairs(host, seed=2, convolutions=False, text=False), {})
    vectors = torch.randn(2, 64, generator=torch.Generator().manual_seed(3))
    write_embedding(folder / "neg-x.pt", Embedding("neg-x", vectors))
    for number in range(2):
        noise(folder / "in" / f"{number}.png")
    return folder


@pytest.fixture
def run(capsys):
    def call(*argv) -> tuple[int, str, str]:
        code = cli.main([str(a) for a in (*argv, "--device", "cpu")])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return call


@pytest.fixture
def translated(run, folder, tmp_path):
    """Translates 0.png; gives its pixels and its text."""

    def call(*argv) -> tuple[np.ndarray, str]:
        options = ["--input", folder / "in" / "0.png", "--out", tmp_path / "out", "--overwrite", *FAST, *argv]
        code, out, err = run("translate", *options)
        assert code == 0, out + err
        with Image.open(tmp_path / "out" / "0.png") as image:
            return np.asarray(image.convert("RGB")).copy(), image.text["parameters"]

    return call


def test_translations_use_loras_and_name_them_as_the_webui_does(translated, folder):
    plain, plain_text = translated()
    half, text = translated("--lora", f"{folder / 'photo.safetensors'}:0.5", "--lora", folder / "style.safetensors")
    whole, _text = translated("--lora", folder / "photo.safetensors", "--lora", folder / "style.safetensors")
    assert (half != plain).mean() > 0.5 and (half != whole).mean() > 0.5
    prompt, _negative, pairs = parse_infotext(text)
    assert prompt == "<lora:photo:0.5> <lora:style:1>"
    hashes = {name: read_lora(folder / f"{name}.safetensors").webui_hash[:12] for name in ("photo", "style")}
    assert pairs["Lora hashes"] == ", ".join(f"{name}: {digits}" for name, digits in hashes.items())
    assert "lora" not in plain_text.lower()
    assert loras_in("a <lora:b c:0.5> d <lora:e>") == ("a d", [("b c", 0.5), ("e", 1.0)])


def test_a_bundle_is_both_halves(translated, run, folder, tmp_path):
    bundle = tmp_path / "photo.bundle.safetensors"
    code, out, _err = run("bundle", folder / "photo.safetensors", folder / "neg-x.pt", "--out", bundle)
    assert code == 0 and "<lora:photo.bundle:1>" in out
    separate, _ = translated("--lora", folder / "photo.safetensors", "--negative", f"{folder / 'neg-x.pt'}:1.2")
    for negative in (["--negative", "neg-x:1.2"], ["--negative-prompt", "(neg-x:1.2), a 3d render"]):
        together, text = translated("--lora", bundle, *negative)
        assert np.array_equal(together, separate)
        assert "<lora:photo.bundle:1>" in text and "(neg-x:1.2), a 3d render" in text
    without, _ = translated("--lora", folder / "photo.safetensors")
    assert not np.array_equal(without, separate)


def test_what_a_bundle_holds(run, folder, tmp_path):
    (tmp_path / "photo.safetensors").write_bytes((folder / "photo.safetensors").read_bytes())
    assert run("bundle", tmp_path / "photo.safetensors", folder / "neg-x.pt")[0] == 0
    bundle = read_lora(tmp_path / "photo.bundle.safetensors")
    original, embedding = read_lora(folder / "photo.safetensors"), read_embedding(folder / "neg-x.pt")
    assert torch.equal(bundle.embeddings["neg-x"], embedding.vectors)
    assert all(torch.equal(bundle.pairs[name].down, pair.down) for name, pair in original.pairs.items())
    assert bundle.pairs.keys() == original.pairs.keys()
    # the hash and the name are those of the new file
    assert bundle.metadata["ss_output_name"] == "photo.bundle" and bundle.webui_hash != original.webui_hash
    code, _out, err = run("bundle", tmp_path / "photo.safetensors", folder / "neg-x.pt")
    assert code == 2 and "exists already" in err
    code, _out, err = run("bundle", bundle.path, folder / "neg-x.pt", "--out", tmp_path / "other.safetensors")
    assert code == 2 and "has an embedding neg-x already" in err
    write_embedding(tmp_path / "neg-wide.pt", Embedding("neg-wide", torch.randn(1, 768)))
    code, _out, err = run("bundle", tmp_path / "photo.safetensors", tmp_path / "neg-wide.pt", "--overwrite")
    assert code == 2 and "has width 768, but" in err and "was made for 64" in err


def test_python_and_command_line_give_the_same(translated, folder):
    loras = [f"{folder / 'photo.safetensors'}:0.5"]
    host = load_model(default_model_path(), device="cpu", loras=loras)
    assert host.loras[0].weight == 0.5
    choice = standalone.ModelChoice(default_model_path(), "cpu")
    assert load_model(choice, loras=loras).model_hash == host.model_hash != load_model(choice).model_hash


def test_a_wrong_lora_is_told_before_a_model_is_loaded(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(standalone, "load_model", lambda *_args: pytest.fail("a model was loaded"))
    for lora, sentence in {"none.safetensors": "There is no", str(folder / "neg-x.pt"): "it is an embedding"}.items():
        options = ["--input", folder / "in", "--out", tmp_path / "out", "--lora", lora]
        code, _out, err = run("translate", *options)
        assert code == 2 and sentence in err and len(err.splitlines()) == 1


def test_a_lora_in_a_prompt_is_refused_with_the_way_to_name_it(run, folder, tmp_path):
    options = ["--input", folder / "in", "--out", tmp_path / "out", *FAST, "--prompt", "coat <lora:photo:1>"]
    code, _out, err = run("translate", *options)
    assert code == 2 and "name a LoRA's file with --lora" in err


def test_a_negative_is_trained_on_the_model_with_the_lora(run, folder, tmp_path):
    quick = ["--images", folder / "in", "--name", "neg-y", "--steps", 2, "--size", 64, "--vectors", 1, "--seed", 1]
    lora = ["--lora", f"{folder / 'photo.safetensors'}:0.7"]

    def train(out, *argv):
        return run("train-negative", *quick, "--out", tmp_path / out, *argv)

    assert train("with", *lora)[0] == 0 and train("without")[0] == 0
    ours, others = (read_embedding(tmp_path / out / "neg-y.pt") for out in ("with", "without"))
    assert not torch.equal(ours.vectors, others.vectors)
    assert ours.metadata["loras"] == "photo:0.7" and "loras" not in others.metadata
    assert ours.checkpoint_hash == others.checkpoint_hash  # the file that the embedding is for
    described = json.loads((tmp_path / "with" / "neg-y.run" / "run.json").read_text())
    assert [(used["name"], used["weight"]) for used in described["loras"]] == [("photo", 0.7)]
    for argv in ([], ["--lora", folder / "photo.safetensors"]):
        code, _out, err = train("with", "--resume", "--steps", 3, *argv)
        assert code == 2 and "model" in err
    code, _out, err = train("with", "--resume", "--overwrite", "--steps", 3, *lora)
    assert code == 0, err
    assert read_embedding(tmp_path / "with" / "neg-y.pt").step == 3


def test_checkpoints_are_compared_on_the_model_with_the_lora(run, folder, tmp_path):
    grids = []
    for lora in ([], ["--lora", folder / "photo.safetensors"]):
        options = ["--image", folder / "in" / "0.png", "--size", 64, "--steps", 10, "--grid", tmp_path / "grid.png"]
        assert run("compare", folder / "neg-x.pt", *options, *lora)[0] == 0
        grids.append(np.asarray(Image.open(tmp_path / "grid.png").convert("RGB")))
    assert not np.array_equal(*grids)


def test_the_page_offers_a_bundles_embedding_and_takes_settings_back(folder, tmp_path):
    pytest.importorskip("gradio")
    import gradio as gr

    from lib_negtrans.apps.page.page import _TranslationTab, build_page
    from lib_negtrans.jobs.training import TrainingManager
    from lib_negtrans.jobs.translation import TranslationRunner
    from lib_negtrans.jobs.workplace import LocalWorkplace
    from lib_negtrans.translation.infotext import format_infotext
    from lib_negtrans.translation.params import TranslationParams

    write_lora(
        tmp_path / "b.safetensors",
        read_lora(folder / "photo.safetensors").pairs,
        {},
        embeddings={"neg-x": torch.ones(1, 64)},
    )
    host = load_model(default_model_path(), device="cpu", loras=[f"{tmp_path / 'b.safetensors'}:0.5"])
    workplace = LocalWorkplace(host, tmp_path / "embeddings", tmp_path / "runs")
    runner = TranslationRunner(workplace)
    page = build_page(workplace, TrainingManager(workplace), runner)
    assert "negtrans-demo + b:0.5 on cpu" in str(page.get_config_file())
    with gr.Blocks():
        tab = _TranslationTab(workplace, runner)
        tab.build()
    assert "neg-x" in tab.choices()
    for loras, note in ((host.loras, "Settings restored."), ((), "start the page without")):
        image = Image.new("RGB", (64, 64))

        info = PngInfo()
        info.add_text("parameters", format_infotext(TranslationParams(prompt="a coat"), (64, 64), {}, loras))
        image.save(tmp_path / "p.png", pnginfo=info)
        restored = tab.restore(str(tmp_path / "p.png"), None)
        assert restored[list(tab.controls).index("prompt")]["value"] == "a coat"
        assert note in restored[-1]
