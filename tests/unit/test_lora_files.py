"""LoRA files: what is written is read, in every layout, and what is no LoRA for SD1 is refused in a sentence."""

from __future__ import annotations

import hashlib
import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_negtrans.embeddings.files import EmbeddingError, read_embedding
from lib_negtrans.lora.files import LoraError, LoraPair, read_lora, write_lora
from tests.lora_files import random_pairs, save_diffusers, save_peft

NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture(scope="module")
def pairs(shared_tiny_host):
    return random_pairs(shared_tiny_host, convolutions=False)


def assert_equal_pairs(ours, expected):
    assert ours.keys() == expected.keys()
    for name in expected:
        for one, other in zip(ours[name], expected[name], strict=True):
            same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
            assert same, name


def test_what_is_written_is_read(tmp_path, shared_tiny_host):
    pairs = random_pairs(shared_tiny_host)
    first = next(name for name, pair in pairs.items() if pair.down.shape[2:] == (3, 3))
    out, inner = pairs[first].up.shape[0], pairs[first].down.shape[1]
    pairs[first] = LoraPair(torch.randn(4, inner, 1, 1), torch.randn(out, 4, 1, 1), torch.randn(4, 4, 3, 3), 1.5)
    embeddings = {"neg-x": torch.randn(3, 64)}
    metadata = {"ss_output_name": "photo", "ss_network_dim": "4"}
    path = tmp_path / "photo.safetensors"
    write_lora(path, pairs, metadata, torch.float32, embeddings=embeddings)
    read = read_lora(path)
    assert_equal_pairs(read.pairs, pairs)
    assert (read.name, read.layout, read.rank) == ("photo", "kohya", 4)
    assert {key: read.metadata[key] for key in metadata} == metadata
    assert torch.equal(read.embeddings["neg-x"], embeddings["neg-x"])
    # a second process writes the same bytes, whatever order its dictionaries have
    backwards = dict(reversed(metadata.items()))
    write_lora(
        tmp_path / "again.safetensors", dict(reversed(pairs.items())), backwards, torch.float32, False, embeddings
    )
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    with pytest.raises(FileExistsError):
        write_lora(path, pairs, metadata, torch.float32)


def test_half_precision_keeps_the_alpha_exact(tmp_path, pairs):
    odd = {name: pair._replace(alpha=0.3) for name, pair in pairs.items()}
    write_lora(tmp_path / "half.safetensors", odd, {})
    read = read_lora(tmp_path / "half.safetensors").pairs[NAME]
    assert (read.down.dtype, read.alpha) == (torch.float16, pytest.approx(0.3, rel=1e-7))
    assert torch.equal(read.up, odd[NAME].up.half())
    # the file in the names that the webui looks for: everything behind the first dot belongs to the part
    names = {key.split(".", 1)[1] for key in load_file(tmp_path / "half.safetensors")}
    assert names == {"lora_down.weight", "lora_up.weight", "alpha"}


@pytest.mark.parametrize("style", ["lora_A", "lora.down", "processor"])
@pytest.mark.parametrize("alpha", [2.0, None])
def test_diffusers_layouts(tmp_path, shared_tiny_host, pairs, style, alpha):
    save_diffusers(tmp_path / "d.safetensors", shared_tiny_host, pairs, alpha, style)
    read = read_lora(tmp_path / "d.safetensors")
    assert read.layout == "diffusers"
    # without a word about alpha, diffusers takes the rank
    assert_equal_pairs(read.pairs, {name: pair._replace(alpha=alpha or 4.0) for name, pair in pairs.items()})


def test_the_pickle_of_old_trainers_is_read_and_code_in_it_is_not_run(tmp_path, pairs):
    torch.save(
        {f"{NAME}.lora_down.weight": pairs[NAME].down, f"{NAME}.lora_up.weight": pairs[NAME].up}, tmp_path / "a.pt"
    )
    assert_equal_pairs(read_lora(tmp_path / "a.pt").pairs, {NAME: pairs[NAME]._replace(alpha=4.0)})
    torch.save({"code": pytest.raises}, tmp_path / "b.pt")
    with pytest.raises(LoraError, match="holds more than tensors"):
        read_lora(tmp_path / "b.pt")


def test_peft_layout(tmp_path, shared_tiny_host):
    pairs = random_pairs(shared_tiny_host, text=False)
    config = {"r": 4, "lora_alpha": 2, "alpha_pattern": {"mid_block.attentions.0.proj_in": 7}}
    path = save_peft(tmp_path / "unet-lora", shared_tiny_host, pairs, config)
    read = read_lora(path)
    own = "lora_unet_mid_block_attentions_0_proj_in"
    assert (read.layout, read.name) == ("peft", "unet-lora")
    assert_equal_pairs(read.pairs, pairs | {own: pairs[own]._replace(alpha=7.0)})
    (path.parent / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": True}))
    assert read_lora(path).pairs[NAME].alpha == 2 * 4**0.5  # alpha / sqrt(rank), as alpha / rank
    (path.parent / "adapter_config.json").unlink()
    with pytest.raises(LoraError, match=r"adapter_config\.json: put that file beside it"):
        read_lora(path)


def test_the_hash_is_the_webuis(tmp_path, pairs):
    write_lora(tmp_path / "a.safetensors", pairs, {"ss_output_name": "a"})
    write_lora(tmp_path / "b.safetensors", pairs, {"ss_output_name": "b"})
    first, second = read_lora(tmp_path / "a.safetensors"), read_lora(tmp_path / "b.safetensors")
    content = first.path.read_bytes()
    assert first.webui_hash == hashlib.sha256(content[8 + struct.unpack("<Q", content[:8])[0] :]).hexdigest()
    assert first.webui_hash == second.webui_hash and first.sha256 != second.sha256
    write_lora(tmp_path / "c.safetensors", pairs, {"sshs_model_hash": "abc"})
    assert read_lora(tmp_path / "c.safetensors").webui_hash == "abc"


def lora_keys(module: str, context: int = 768) -> dict[str, torch.Tensor]:
    return {f"{module}.lora_down.weight": torch.randn(2, context), f"{module}.lora_up.weight": torch.randn(8, 2)}


TO_K = NAME.replace("attn1_to_q", "attn2_to_k")
REFUSED = {
    "for SDXL": lora_keys("lora_te2_text_model_encoder_layers_0_mlp_fc1"),
    "made for SDXL": lora_keys("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"),
    "for SDXL,": lora_keys(TO_K, 2048),
    "for SD2": lora_keys(TO_K, 1024),
    "for Flux": lora_keys("lora_unet_double_blocks_0_img_attn_proj"),
    "for SD3 or another": {"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": torch.ones(2, 8)},
    "is a DoRA": lora_keys(NAME) | {f"{NAME}.dora_scale": torch.ones(8, 1)},
    "is a LoHa": {f"{NAME}.hada_w1_a": torch.ones(8, 2)},
    "is a LoKr": {f"{NAME}.lokr_w1": torch.ones(8, 2)},
    "2 of its 4 keys are unknown, such as some.thing, x": lora_keys(NAME)
    | {"some.thing": torch.ones(1), "x": torch.ones(1)},
    "has not both of its matrices": {f"{NAME}.lora_down.weight": torch.ones(2, 8)},
    "do not fit together": lora_keys(NAME) | {f"{NAME}.lora_up.weight": torch.ones(8, 3)},
    "NaN or infinity": lora_keys(NAME) | {f"{NAME}.lora_up.weight": torch.full((8, 2), float("nan"))},
    "has alpha 0": lora_keys(NAME) | {f"{NAME}.alpha": torch.tensor(0.0)},
    "holds no LoRA weights": {"bundle_emb.neg.string_to_param.*": torch.ones(1, 8)},
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_is_no_lora_for_this_is_refused(tmp_path, sentence):
    save_file(REFUSED[sentence], tmp_path / "x.safetensors")
    with pytest.raises(LoraError) as error:
        read_lora(tmp_path / "x.safetensors")
    assert sentence in str(error.value) and "x.safetensors" in str(error.value)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_bad_files(tmp_path, pairs):
    write_lora(tmp_path / "a.safetensors", pairs, {})
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-9])
    for path, sentence in {
        tmp_path / "cut.safetensors": "damaged",
        tmp_path / "none.safetensors": "There is no",
        tmp_path / "picture.png": "is not a LoRA",
        tmp_path: "is a folder",
    }.items():
        with pytest.raises(LoraError, match=sentence):
            read_lora(path)
    with pytest.raises(EmbeddingError, match="is a LoRA, not an embedding"):
        read_embedding(tmp_path / "a.safetensors")


def test_what_cannot_be_written_leaves_no_file(tmp_path, pairs):
    path = tmp_path / "big.safetensors"
    huge = {NAME: pairs[NAME]._replace(up=pairs[NAME].up * 1e9)}
    with pytest.raises(LoraError, match=r"lora_up\.weight has numbers that float16 cannot hold"):
        write_lora(path, huge, {})
    with pytest.raises(LoraError, match=r"ss_epoch of big\.safetensors is not text"):
        write_lora(path, pairs, {"ss_epoch": 3})
    with pytest.raises(LoraError, match="holds no LoRA"):
        write_lora(path, {}, {})
    with pytest.raises(LoraError, match="other names than"):
        write_lora(path, {"unet.dotted": pairs[NAME]}, {})
    assert not list(tmp_path.iterdir())
