"""The caption command on a tiny random BLIP: good folders and captioners, and bad ones."""

from __future__ import annotations

import json
import pickle
import shutil
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    PreTrainedModel,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
)

from lib_negtrans.apps.cli import main as cli
from lib_negtrans.models.standalone import file_hash
from lib_negtrans.preparation.captioning import CaptionerError, CaptionJob, captions_of
from lib_negtrans.runners.runner import FileItem, make_item
from lib_negtrans.training.data.captions import filewords

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [*SPECIAL, "a", "photo", "of", "red", "blue", "coat", "dress", "on", "the", "floor", "woman", "long", "silk"]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {**SIZES, "vocab_size": len(WORDS), "max_position_embeddings": 64}


MARKS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
VISION = {**SIZES, "image_size": 32, "patch_size": 8}
SIDE = {"height": 32, "width": 32}


def saved(model: PreTrainedModel, bias: torch.Tensor, folder, seed):
    """Write a model with random weights that, by the bias of its last layer, says words only. Gives its tokenizer."""
    for name, parameter in model.named_parameters():  # by name: their order is not that of every transformers
        torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(seed + crc32(name.encode())))
    bias.data.zero_()[: len(SPECIAL)] = -1e4
    model.save_pretrained(folder)
    (folder / "words").write_text("\n".join(WORDS))
    return BertTokenizerFast(str(folder / "words"))


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    """A folder with a BLIP that says something else of a dark picture than of a light one."""
    folder = tmp_path_factory.mktemp("models") / "blip"
    model = BlipForConditionalGeneration(
        BlipConfig({**TEXT, **MARKS, "sep_token_id": 3, "encoder_hidden_size": 32}, VISION)
    )
    tokenizer = saved(model, model.text_decoder.cls.predictions.bias, folder, 9)
    BlipProcessor(BlipImageProcessor(size=SIDE), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(blip, tmp_path):
    """Another copy of the captioner's folder, to be spoilt."""
    return shutil.copytree(blip, tmp_path / "copy")


@pytest.fixture
def caption(blip, tmp_path, capsys):
    """Captions tmp_path/in; gives exit code, standard output and the lines of standard error."""

    def call(*argv, folder=tmp_path / "in", captioner=blip):
        code = cli.main([str(a) for a in ("caption", folder, "--captioner", captioner, "--max-tokens", 8, *argv)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err.splitlines()

    return call


def picture(path, value=0, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((80, 64, 4), value, np.uint8)
    values[:40, :, 3] = 0
    Image.fromarray(values).convert(mode).save(path)
    return path


def texts(folder):
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in folder.rglob("*.txt")}


def test_every_picture_of_a_tree_gets_its_words_and_a_broken_one_is_named(caption, tmp_path):
    folder = tmp_path / "in"
    names = ("a.jpg", "a.png", "mask_a.png", "sub/red coat 1.png", "sub/deep er/写真.webp")
    for name in names:
        picture(folder / name, 255 * (name == "sub/red coat 1.png"))
    (folder / "broken.png").write_bytes(b"x")
    code, out, err = caption()
    assert code == 1 and len(err) == 1 and err[0].startswith(f"failed: {folder / 'broken.png'}: cannot be read")
    assert "3 captioned, 0 done already, 1 failed" in out
    made = texts(folder)
    assert sorted(made) == ["a.txt", "sub/deep er/写真.txt", "sub/red coat 1.txt"]
    assert sorted(path.name for path in folder.rglob(".*")) == []
    for name, text in made.items():
        assert text and text == " ".join(text.split()) and set(text.split()) <= set(WORDS) - set(SPECIAL)
        assert f"{folder / name}  {text}" in out
    # the same picture has the same words, another one has others
    assert made["a.txt"] == made["sub/deep er/写真.txt"] != made["sub/red coat 1.txt"]
    assert filewords(folder / "sub" / "red coat 1.png") == (made["sub/red coat 1.txt"], True)


def test_texts_are_kept_unless_overwritten_and_made_alike_again(caption, tmp_path):
    folder = tmp_path / "in"
    picture(folder / "a.png")
    picture(folder / "b.png", 255)
    (folder / "a.txt").write_text("my own words")
    code, out, _err = caption()
    assert code == 0 and "1 captioned, 1 done already, 0 failed" in out
    before = texts(folder)
    assert before["a.txt"] == "my own words"
    code, out, _err = caption("--overwrite")
    after = texts(folder)
    assert code == 0 and "2 captioned, 0 done already, 0 failed" in out
    assert after["b.txt"] == before["b.txt"] and after["a.txt"] != "my own words"


def test_events(caption, tmp_path):
    folder = tmp_path / "in"
    for name in ("a.png", "b.png"):
        picture(folder / name)
    (folder / "a.txt").write_text("a coat")
    (folder / "c.png").write_bytes(b"x")
    code, out, _err = caption("--json")
    skipped, captioned, error, done = (json.loads(line) for line in out.splitlines())
    assert code == 1 and skipped == {"event": "skipped", "source": str(folder / "a.png"), "index": 0, "total": 3}
    assert captioned["event"] == "captioned" and captioned["target"] == str(folder / "b.txt")
    assert captioned["text"] == texts(folder)["b.txt"] and captioned["seconds"] > 0
    assert error["event"] == "error" and error["source"] == str(folder / "c.png")
    assert (done["event"], done["captioned"], done["skipped"], done["failed"]) == ("done", 1, 1, 1)


def test_a_prompt_begins_the_caption_of_one_picture(caption, tmp_path):
    path = picture(tmp_path / "in" / "a.png")
    assert caption("--prompt", " a  photo of ", folder=path)[0] == 0
    text = texts(tmp_path / "in")["a.txt"]
    assert text.startswith("a photo of ") and len(text.split()) > 3


def test_a_job_goes_to_other_processes_and_sees_grey_where_a_picture_is_transparent(blip, tmp_path):
    path = picture(tmp_path / "a.png", 255, "RGBA")
    job = pickle.loads(pickle.dumps(CaptionJob(blip, max_tokens=4)))
    worker = job.start("cpu")
    (item,) = captions_of(path)
    seen = worker.read(item)
    assert seen.mode == "RGB" and seen.getpixel((9, 9)) == (128,) * 3 and seen.getpixel((9, 70)) == (255,) * 3
    assert make_item(worker, item).path == item.target == tmp_path / "a.txt"
    other = FileItem(path, tmp_path / "b.txt")
    assert make_item(worker, other).text == item.target.read_text()


def test_git_goes_on_from_a_prompt_as_its_authors_do(tmp_path):
    model = GitForCausalLM(GitConfig(VISION, **TEXT, **MARKS))
    tokenizer = saved(model, model.output.bias, tmp_path, 2)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SIDE)
    GitProcessor(images, tokenizer).save_pretrained(tmp_path)
    (item,) = captions_of(picture(tmp_path / "a.png", 255))
    text = make_item(CaptionJob(tmp_path, "a photo of", 4).start("cpu"), item).text
    pixels = images(Image.open(item.source), return_tensors="pt").pixel_values
    start = torch.tensor([[WORDS.index(word) for word in ("[CLS]", "a", "photo", "of")]])
    tokens = model.eval().generate(pixel_values=pixels, input_ids=start, max_new_tokens=4)
    assert text == tokenizer.decode(tokens[0], skip_special_tokens=True) and len(text.split()) == 7


def test_an_encoder_and_a_decoder_without_a_processor_of_their_own(tmp_path):
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**VISION), BertConfig(**TEXT))
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 0, 3
    model = VisionEncoderDecoderModel(config)
    saved(model, model.decoder.cls.predictions.bias, tmp_path, 0).save_pretrained(tmp_path)
    ViTImageProcessor(size=SIDE).save_pretrained(tmp_path)
    (item,) = captions_of(picture(tmp_path / "a.png"))
    text = make_item(CaptionJob(tmp_path, max_tokens=4).start("cpu"), item).text
    assert len(text.split()) == 4 and set(text.split()) <= set(WORDS) - set(SPECIAL)


def test_no_words_are_a_failure(caption, copy, tmp_path):
    picture(tmp_path / "in" / "a.png")
    model = BlipForConditionalGeneration.from_pretrained(copy)
    model.text_decoder.cls.predictions.bias.data[WORDS.index("[SEP]")] = 1e4
    model.save_pretrained(copy)
    code, _out, err = caption(captioner=copy)
    assert code == 1 and err == [f"failed: {tmp_path / 'in' / 'a.png'}: the captioner gave no words for it."]
    assert texts(tmp_path / "in") == {}


def cut(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def of_another_kind(folder):
    BertModel(BertConfig(**TEXT)).save_pretrained(folder)


def with_weights_of_another_kind(folder):
    config = (folder / "config.json").read_bytes()
    of_another_kind(folder)
    (folder / "config.json").write_bytes(config)


def with_its_own_program(folder):
    (folder / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}')
    (folder / "mine.py").write_text("raise SystemExit('this must not run')")


def without_a_prompt(folder):
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**SIZES), BertConfig(**TEXT))
    VisionEncoderDecoderModel(config).save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "argv", "says"),
    [
        (shutil.rmtree, [], "There is no folder"),
        (lambda folder: (folder / "config.json").unlink(), [], "it lacks config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), [], "has no model that is known here"),
        (lambda folder: (folder / "model.safetensors").unlink(), [], "The weights in"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), [], "The tokenizer or image processor in"),
        (cut, [], "they may be damaged or incomplete"),
        (of_another_kind, [], "of the kind bert, which cannot caption"),
        (with_weights_of_another_kind, [], "are not those of the blip model"),
        (with_its_own_program, [], "has no model that is known here"),
        (without_a_prompt, ["--prompt", "a photo"], "takes no prompt"),
        (lambda folder: None, ["--max-tokens", 100], "cannot caption a picture with 100 tokens and no prompt"),
        (lambda folder: None, ["--max-tokens", 0], "--max-tokens 0 must be 1 or more"),
    ],
)
def test_a_captioner_that_cannot_be_used_is_one_sentence(caption, copy, tmp_path, spoil, argv, says):
    picture(tmp_path / "in" / "a.png")
    spoil(copy)
    code, out, err = caption(*argv, captioner=copy)
    assert code == 2 and out == "" and len(err) == 1 and err[0].startswith("error: ") and says in err[0]
    assert len(err[0]) < 500 and texts(tmp_path / "in") == {}


@pytest.mark.parametrize("what", ["nowhere", "empty", "notes.txt"])
def test_nothing_to_caption_is_one_sentence(caption, tmp_path, what):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("keep")
    code, _out, err = caption("--overwrite", folder=tmp_path / what)
    assert code == 2 and len(err) == 1 and what in err[0]
    assert not (tmp_path / "nowhere").exists() and (tmp_path / "notes.txt").read_text() == "keep"


def test_another_machine_must_have_the_same_captioner(blip, tmp_path):
    right = file_hash(blip)
    assert CaptionJob(blip, max_tokens=3, device="cpu", sha256=right).start().kind == "blip"
    with pytest.raises(CaptionerError, match="holds another model here"):
        CaptionJob(blip, max_tokens=3, device="cpu", sha256="0" * 64).start()
