"""Every format that is written: read by its owner and by us, converted between any two, combined, with a card."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from safetensors.torch import load_file

from lib_negtrans.apps.cli import main as cli
from lib_negtrans.embeddings.arithmetic import combine, convert
from lib_negtrans.embeddings.files import Embedding, EmbeddingError, read_embedding, write_embedding
from lib_negtrans.embeddings.inspection import describe_file
from lib_negtrans.embeddings.layouts import LAYOUTS
from tests.unit.test_embeddings import example, host_accepts, vectors

FORMATS = [(layout, suffix) for layout, suffixes in LAYOUTS.items() for suffix in suffixes]


@pytest.mark.parametrize(("first", "second"), [*itertools.product(FORMATS, FORMATS)])
def test_any_format_becomes_any_other(tmp_path, first, second):
    (layout, suffix), (other, ending) = first, second
    source, target = tmp_path / "a" / f"neg-render{suffix}", tmp_path / "b" / f"neg-other{ending}"
    write_embedding(source, example(), layout=layout)
    assert read_embedding(source).layout == layout
    _, complaints = convert(source, target, other)
    back = read_embedding(target)
    assert torch.equal(back.vectors, vectors()) and back.layout == other and complaints == []
    if all(ending_ == ".safetensors" or layout_ == "a1111" for layout_, ending_ in (first, second)):
        was = read_embedding(source)
        assert (back.metadata, back.step, back.checkpoint_hash, back.checkpoint_name) == (
            was.metadata, was.step, was.checkpoint_hash, was.checkpoint_name,
        )  # fmt: skip


@pytest.mark.parametrize(("layout", "suffix"), FORMATS)
def test_equal_content_gives_equal_bytes(tmp_path, layout, suffix):
    files = [tmp_path / folder / f"neg-render{suffix}" for folder in "ab"]
    for path in files:
        write_embedding(path, example(), layout=layout)
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(("layout", "suffix"), [f for f in FORMATS if f[1] != ".safetensors"])
def test_the_webuis_rules_accept_every_pickle(tmp_path, layout, suffix):
    path = tmp_path / f"neg-render{suffix}"
    write_embedding(path, example(), layout=layout)
    assert host_accepts(path)


def kohya_load_weights(path):
    """sd-scripts' train_textual_inversion.py at 48d368f, `load_weights`, in other words."""
    if path.suffix == ".safetensors":
        data = load_file(path)
    else:
        data = torch.load(path, map_location="cpu", weights_only=True)
        if "string_to_param" in data:
            data = data["string_to_param"]
    found = next(iter(data.values()))
    assert isinstance(found, torch.Tensor)
    return found if found.ndim == 2 else found.unsqueeze(0)


@pytest.mark.parametrize(("layout", "suffix"), FORMATS)
def test_kohya_finds_the_vectors(tmp_path, layout, suffix):
    path = tmp_path / f"neg-render{suffix}"
    write_embedding(path, example(), layout=layout)
    assert torch.equal(kohya_load_weights(path), vectors())
    if layout == "kohya":
        data = load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)
        assert list(data) == ["emb_params"]


@pytest.mark.parametrize(("layout", "suffix"), FORMATS)
def test_diffusers_loads_every_format(tmp_path, shared_tiny_host, layout, suffix):
    from diffusers.loaders import TextualInversionLoaderMixin

    from lib_negtrans.models.standalone import load_tokenizer
    from tests.tiny_model import tiny_networks

    class Pipeline(TextualInversionLoaderMixin):
        components: dict = {}  # noqa: RUF012
        hf_device_map = None

    pipeline = Pipeline()
    pipeline.tokenizer, pipeline.text_encoder = load_tokenizer(), tiny_networks().text_encoder
    path = tmp_path / f"neg-render{suffix}"
    write_embedding(path, example(), layout=layout)
    pipeline.load_textual_inversion(str(path), token="<neg>")
    ids = pipeline.tokenizer.convert_tokens_to_ids(["<neg>", "<neg>_1", "<neg>_2"])
    assert torch.equal(pipeline.text_encoder.get_input_embeddings().weight[ids], vectors())


def test_a_layout_has_its_endings(tmp_path):
    for suffix, layout in ((".bin", "a1111"), (".safetensors", "a1111"), (".bin", "kohya"), (".pt", "diffusers")):
        with pytest.raises(EmbeddingError, match=f"layout {layout} is for files that end in"):
            write_embedding(tmp_path / f"neg-render{suffix}", example(), layout=layout)
    with pytest.raises(EmbeddingError, match="embeddings end in"):
        write_embedding(tmp_path / "neg-render.txt", example())
    assert not list(tmp_path.iterdir())


def test_concatenate_average_and_scale():
    one, two = example("neg-a"), Embedding("neg-b", vectors(3, seed=1), 7, "tiny", "ab" * 32, {"licence": "CC0"})
    joined = combine([(one, 1.0), (two, 0.5)], "concatenate", "neg-c")
    assert torch.equal(joined.vectors, torch.cat([one.vectors, 0.5 * two.vectors]))
    assert joined.metadata["made_from"] == "concatenate of neg-a x 1, neg-b x 0.5"
    assert joined.metadata["licence"] == "CC0" and joined.checkpoint_name == "tiny"
    mean = combine([(one, 1.0), (two, 3.0)], "average", "neg-c").vectors
    assert torch.allclose(mean, (one.vectors + 3 * two.vectors) / 4)
    scaled = combine([(one, 0.8)], "concatenate", "neg-c")
    assert torch.equal(scaled.vectors, one.vectors * 0.8) and scaled.step == 120


@pytest.mark.parametrize(
    ("parts", "way", "says"),
    [
        ([(example(), 1.0), (Embedding("neg-b", vectors(3, 32)), 1.0)], "concatenate", "do not fit the same model"),
        ([(example(), 1.0), (example(count=2), 1.0)], "average", "as many vectors in each, not 2, 3"),
        ([(example(), 1.0), (example(), -1.0)], "average", "add up to 0"),
        ([(example(count=40), 1.0), (example(count=40), 1.0)], "concatenate", "80 vectors; a prompt chunk holds 75"),
        ([], "average", "at least one"),
        ([(example(), 1.0)], "xor", "no way 'xor'"),
    ],
)
def test_what_cannot_be_combined_is_one_sentence(parts, way, says):
    with pytest.raises(EmbeddingError, match=says):
        combine(parts, way, "neg-c")


def test_inspect_converts_on_the_command_line(tmp_path, capsys):
    write_embedding(tmp_path / "neg-render.pt", example())
    out = tmp_path / "out" / "neg-kohya.safetensors"
    call = ["inspect", str(tmp_path / "neg-render.pt"), "--convert", str(out), "--layout", "kohya"]
    assert cli.main(call) == 0 and "trigger word is neg-kohya" in capsys.readouterr().out
    assert list(load_file(out)) == ["emb_params"] and describe_file(out)["layout"] == "kohya"
    card = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["negtrans"]["strength"] == 0.3 and card["negtrans"]["checkpoint_hash"] == "ab" * 32
    assert card["preferred weight"] == 1.0 and card["negtrans"]["vectors"] == 3
    assert "tiny [ababababab]" in card["description"]
    assert cli.main(call) == cli.EXIT_WRONG_CALL and "exists already" in capsys.readouterr().err
    assert cli.main([*call, "--overwrite"]) == 0
    assert cli.main([*call[:2], "--layout", "kohya"]) == cli.EXIT_WRONG_CALL


def test_combine_on_the_command_line(tmp_path, capsys):
    for name in ("neg-a", "neg-b"):
        write_embedding(tmp_path / f"{name}.pt", example(name))
    out = tmp_path / "neg-c.safetensors"
    assert cli.main(["combine", f"{tmp_path}/neg-a.pt:0.5", f"{tmp_path}/neg-b.pt", "--out", str(out)]) == 0
    assert torch.equal(read_embedding(out).vectors, torch.cat([0.5 * vectors(), vectors()]))
    assert cli.main(["combine", f"{tmp_path}/neg-x.pt", "--out", str(out)]) == cli.EXIT_WRONG_CALL
    assert "neg-x.pt cannot be read" in capsys.readouterr().err


def test_the_users_notes_on_a_card_stay(tmp_path):
    from lib_negtrans.embeddings.card import write_card

    path = tmp_path / "neg-render.pt"
    licensed = Embedding("neg-render", vectors(), metadata={"licence": "CC BY 4.0"})
    assert write_card(path, licensed) == []
    card = path.with_suffix(".json")
    assert json.loads(card.read_text())["notes"] == "Licence: CC BY 4.0"
    card.write_text(json.dumps({"notes": "mine", "description": "old", "other": 1}))
    write_card(path, licensed)
    found = json.loads(card.read_text())
    assert found["notes"] == "mine" and found["other"] == 1 and found["description"] != "old"
    assert found["negtrans"]["licence"] == "CC BY 4.0"
