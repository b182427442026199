"""Embedding files: every format is read, the webui and diffusers read ours, strangers' code never runs."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import pickle
import sys
import types
import zipfile
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lib_negtrans.embeddings.files import Embedding, EmbeddingError, read_embedding, validate_name, write_embedding
from lib_negtrans.embeddings.inspection import describe_embedding, describe_file

METADATA = {"lr": "5e-3:100, 1e-3", "strength": 0.3, "photos": False, "note": None, "版": "ü"}


def vectors(count: int = 3, width: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def example(name: str = "neg-render", count: int = 3) -> Embedding:
    return Embedding(name, vectors(count), 120, "tiny", "ab" * 32, dict(METADATA))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_written_is_read_back(tmp_path, suffix):
    path = tmp_path / f"neg-render{suffix}"
    write_embedding(path, example())
    back = read_embedding(path)
    assert torch.equal(back.vectors, vectors())
    assert (back.name, back.step, back.checkpoint_name, back.checkpoint_hash) == ("neg-render", 120, "tiny", "ab" * 32)
    assert back.metadata == METADATA and back.placeholder == "neg-render"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no temporary file is left


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 75),
    width=st.sampled_from([1, 64, 768]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float64]),
    suffix=st.sampled_from([".pt", ".safetensors"]),
)
def test_any_shape_and_dtype_survives(tmp_path_factory, count, width, dtype, suffix):
    path = tmp_path_factory.mktemp("shapes") / f"a-1{suffix}"
    given_vectors = vectors(count, width).to(dtype).requires_grad_()
    write_embedding(path, Embedding("a-1", given_vectors))
    back = read_embedding(path).vectors
    assert back.dtype == torch.float32 and not back.requires_grad
    assert torch.equal(back, given_vectors.detach().float())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_equal_content_gives_equal_bytes(tmp_path, suffix):
    first, second = tmp_path / "a" / f"neg-render{suffix}", tmp_path / "b" / f"neg-render{suffix}"
    one = example()
    one.checkpoint_name = one.name
    write_embedding(first, one)
    # equal strings that are other objects, a view of a larger tensor, another order of the metadata
    other = Embedding("".join("neg-render"), torch.cat([vectors(), vectors(5)])[:3], 120)
    other.checkpoint_name, other.checkpoint_hash = "".join(["neg-", "render"]), "".join(["ab"] * 32)
    other.metadata = dict(reversed(METADATA.items()))
    write_embedding(second, other)
    assert first.read_bytes() == second.read_bytes()
    other.vectors[0, 0] += 1e-6
    write_embedding(second, other, overwrite=True)
    assert first.read_bytes() != second.read_bytes()


# --- the webui's restricted unpickler, its rules stated again ---

HOST_GLOBALS = {
    "collections": {"OrderedDict"},
    "torch._utils": {"_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_device_tensor_from_numpy"},
    "torch": {"FloatStorage", "HalfStorage", "IntStorage", "LongStorage", "DoubleStorage", "ByteStorage", "float32"},
    "torch.nn.modules.container": {"ParameterDict"},
}
HOST_ENTRIES = ("data.pkl", "version", "byteorder", ".data/serialization_id")


def host_accepts(path: Path) -> bool:
    """The rules of modules/safe.py at v1.10.1: which zip entries and which globals a file may have."""

    class Restricted(pickle.Unpickler):
        def persistent_load(self, saved_id):
            return torch.storage.TypedStorage(_internal=True)

        def find_class(self, module, name):
            if name not in HOST_GLOBALS.get(module, ()):
                raise pickle.UnpicklingError(f"{module}.{name} is forbidden")
            return super().find_class(module, name)

    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            folder, _, entry = name.partition("/")
            number = entry.removeprefix("data/")
            if not folder or not (entry in HOST_ENTRIES or (entry != number and number.isdigit())):
                return False
        try:
            Restricted(io.BytesIO(archive.read("archive/data.pkl"))).load()
        except pickle.UnpicklingError:
            return False
    return True


def test_the_webuis_rules_accept_what_is_written(tmp_path):
    write_embedding(tmp_path / "neg-render.pt", example())
    assert host_accepts(tmp_path / "neg-render.pt")
    for entry, content in (("data.pkl", Path("x")), (".format_version", None)):  # the rules can say no
        with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
            archive.writestr(f"archive/{entry}", pickle.dumps(content))
        assert not host_accepts(tmp_path / "other.pt")


def test_the_real_webuis_safe_load_accepts_what_is_written(tmp_path):
    folder = os.environ.get("NEGTRANS_WEBUI_DIR")
    if not folder:
        pytest.skip("NEGTRANS_WEBUI_DIR names no webui checkout")
    package = types.ModuleType("modules")
    package.errors = types.SimpleNamespace(report=lambda *_args, **_kwargs: None)
    package.shared = types.SimpleNamespace(cmd_opts=types.SimpleNamespace(disable_safe_unpickle=False))
    spec = importlib.util.spec_from_file_location("modules.safe", Path(folder) / "modules" / "safe.py")
    safe = importlib.util.module_from_spec(spec)
    write_embedding(tmp_path / "neg-render.pt", example())
    with mock.patch.dict(sys.modules, {"modules": package}), mock.patch("torch.load", torch.load):
        spec.loader.exec_module(safe)
        data = safe.load(str(tmp_path / "neg-render.pt"), map_location="cpu")
        assert torch.equal(data["string_to_param"]["*"], vectors())
        assert data["negtrans"]["strength"] == 0.3 and data["sd_checkpoint"] == "ab" * 5
        write_embedding(tmp_path / "again.pt", example("again"))  # torch.load is the webui's own here
        assert torch.equal(read_embedding(tmp_path / "again.pt").vectors, vectors())
        torch.save({"path": Path("x")}, tmp_path / "path.pt")
        with pytest.raises(EmbeddingError, match="refused"):
            read_embedding(tmp_path / "path.pt")


# --- files of others ---


def test_diffusers_reads_what_is_written(tmp_path, tiny_host):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=tiny_host.vae,
        text_encoder=tiny_host.text_encoder,
        tokenizer=tiny_host.tokenizer,
        unet=tiny_host.unet,
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for name, suffix in (("neg-a", ".pt"), ("neg-b", ".safetensors")):
        write_embedding(tmp_path / f"{name}{suffix}", example(name))
        pipeline.load_textual_inversion(str(tmp_path), weight_name=f"{name}{suffix}", local_files_only=True)
        ids = tiny_host.tokenizer.convert_tokens_to_ids([name, f"{name}_1", f"{name}_2"])
        assert torch.equal(tiny_host.text_encoder.get_input_embeddings().weight[ids], vectors())


A1111 = {
    "string_to_token": {"*": 265},
    "name": "other",
    "step": 99,
    "sd_checkpoint": "cc6cb27103",
    "sd_checkpoint_name": "v1-5",
}


@pytest.mark.parametrize(
    ("file", "content", "placeholder"),
    [
        ("a1111.pt", A1111 | {"string_to_param": {"*": vectors()}}, "other"),
        ("parameter.pt", A1111 | {"string_to_param": {"*": torch.nn.Parameter(vectors().half())}}, "other"),
        ("learned_embeds.bin", {"<render>": vectors()}, "<render>"),
        ("one.bin", {"<render>": vectors()[0]}, "<render>"),
        ("kohya.pt", {"emb_params": vectors()}, "emb_params"),
        ("learned_embeds.safetensors", {"<render>": vectors()}, "<render>"),
        ("kohya.safetensors", {"emb_params": vectors()}, "emb_params"),
    ],
)
def test_other_programs_files_are_read(tmp_path, file, content, placeholder):
    path = tmp_path / file
    if path.suffix == ".safetensors":
        save_file(content, path, metadata={"format": "pt", "ss_steps": "10"})
    else:
        torch.save(content, path)
    back = read_embedding(path)
    expected = vectors()[:1] if path.stem == "one" else vectors()
    tolerance = 1e-3 if path.stem == "parameter" else 0
    torch.testing.assert_close(back.vectors, expected, rtol=tolerance, atol=tolerance)
    assert (back.name, back.placeholder) == (path.stem, placeholder)
    assert back.step == (99 if placeholder == "other" else None)
    assert back.checkpoint_hash == ("cc6cb27103" if placeholder == "other" else None)
    assert back.metadata == ({"ss_steps": "10"} if path.suffix == ".safetensors" else {})


def test_the_oldest_format_with_a_parameter_dict_is_read(tmp_path):
    if not hasattr(torch.serialization, "safe_globals"):
        pytest.skip("this torch cannot be told to allow ParameterDict")
    parameters = torch.nn.ParameterDict({"*": torch.nn.Parameter(vectors())})
    torch.save({"string_to_token": {"*": 265}, "string_to_param": parameters}, tmp_path / "old.pt", pickle_protocol=2)
    assert torch.equal(read_embedding(tmp_path / "old.pt").vectors, vectors())


def test_code_in_a_pickle_does_not_run(tmp_path):
    ran = tmp_path / "ran"

    class Malicious:
        def __reduce__(self):
            return exec, (f"open({str(ran)!r}, 'w').close()",)

    for legacy in (True, False):
        torch.save(
            {"string_to_param": {"*": Malicious()}}, tmp_path / "bad.pt", _use_new_zipfile_serialization=not legacy
        )
        with pytest.raises(EmbeddingError, match="malicious"):
            read_embedding(tmp_path / "bad.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(EmbeddingError):
        read_embedding(tmp_path / "bare.pt")
    assert not ran.exists()
    pickle.loads((tmp_path / "bare.pt").read_bytes())
    assert ran.exists()  # it would have run


BAD = vectors().clone()
BAD[1, 2] = float("nan")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"clip_g": vectors(1, 1280), "clip_l": vectors(1, 768)}, "for SDXL"),
        ({"a": vectors(), "b": vectors()}, "2 terms"),
        ({"emb_params": BAD}, "NaN"),
        ({"emb_params": vectors() / 0}, "NaN or infinity"),
        ({"emb_params": vectors(76)}, "76 vectors"),
        ({"emb_params": vectors()[:0]}, "0 vectors"),
        ({"emb_params": vectors()[None]}, r"shape \(1, 3, 64\)"),
        ({"emb_params": torch.ones(3, 64, dtype=torch.int64)}, "no floating-point"),
        ({"lora_unet_mid.lora_up.weight": vectors()}, "LoRA"),
        ({}, "no vectors"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors"])
def test_files_that_are_no_usable_embedding_are_refused(tmp_path, suffix, content, message):
    path = tmp_path / f"x{suffix}"
    save_file(content, path) if suffix == ".safetensors" else torch.save(content, path)
    with pytest.raises(EmbeddingError, match=message):
        read_embedding(path)


@pytest.mark.parametrize("file", ["x.png", "x.txt", "x.pt", "x.safetensors", "missing.pt"])
def test_other_files_are_refused_in_one_sentence(tmp_path, file):
    if not file.startswith("missing"):
        (tmp_path / file).write_bytes(b"not an embedding at all")
    with pytest.raises(EmbeddingError) as caught:
        read_embedding(tmp_path / file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_cut_off_anywhere_are_refused(tmp_path, suffix):
    write_embedding(tmp_path / f"neg-render{suffix}", example())
    content = (tmp_path / f"neg-render{suffix}").read_bytes()
    for end in range(0, len(content) - 1, 97):
        (tmp_path / f"cut{suffix}").write_bytes(content[:end])
        with pytest.raises(EmbeddingError):
            read_embedding(tmp_path / f"cut{suffix}")


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors"])
def test_foreign_files_of_a_few_bytes_are_refused(tmp_path, suffix):
    """Each first byte is another instruction to the unpickler, which fails at it in its own way."""
    for first in range(256):
        (tmp_path / f"foreign{suffix}").write_bytes(bytes([first]) + b"unk")
        with pytest.raises(EmbeddingError):
            read_embedding(tmp_path / f"foreign{suffix}")


# --- writing ---


def test_an_existing_file_is_kept_unless_asked(tmp_path):
    path = tmp_path / "neg-render.pt"
    write_embedding(path, example())
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="overwriting"):
        write_embedding(path, example(count=5))
    assert path.read_bytes() == before
    write_embedding(path, example(count=5), overwrite=True)
    assert len(read_embedding(path).vectors) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {"a": [1]}}, "metadata a="),
        ({"metadata": {"path": Path("x")}}, "metadata path="),
        ({"name": "other"}, "must be called other.pt"),
        ({"name": "Bad"}, "capitals"),
        ({"vectors": BAD}, "NaN"),
    ],
)
def test_nothing_is_written_for_what_cannot_be(tmp_path, change, message):
    embedding = example()
    for key, value in change.items():
        setattr(embedding, key, value)
    with pytest.raises(EmbeddingError, match=message):
        write_embedding(tmp_path / "neg-render.pt", embedding)
    assert list(tmp_path.iterdir()) == []


# --- names ---

ILLEGAL = ["neg render", "neg(x)", "a,b", "a:b", "a<b", "a/b", "..", "a.pt", "név", "a\nb", "a|b", "a\\b", "x" + chr(0)]


@pytest.mark.parametrize(
    ("name", "message"),
    [("", "needs a name"), ("a" * 65, "too long"), ("Neg", "use neg"), ("-neg", "must begin"), ("___", "must begin")]
    + [(name, "use only a-z") for name in ILLEGAL]
    + [(name, "reserved by Windows") for name in ("con", "nul", "aux", "prn", "com1", "lpt9")],
)
def test_bad_names_are_refused(name, message):
    with pytest.raises(EmbeddingError, match=message):
        validate_name(name)


@pytest.mark.parametrize("name", ["neg-render", "neg_render", "a1", "0-1", "a" * 64, "console", "com0"])
def test_good_names_pass(name):
    assert validate_name(name) == name


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=70))
def test_a_name_that_passes_is_a_file_and_no_prompt_syntax(name):
    try:
        validate_name(name)
    except EmbeddingError as error:
        assert "\n" not in str(error)
        return
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-") and 1 <= len(name) <= 64


@pytest.mark.parametrize("name", ["dress", "photo", "style", "render"])
def test_ordinary_words_are_refused_where_tokens_can_be_counted(shared_tiny_host, name):
    assert validate_name(name) == name
    with pytest.raises(EmbeddingError, match=f"use neg-{name}"):
        validate_name(name, shared_tiny_host.token_vectors)
    assert validate_name(f"neg-{name}", shared_tiny_host.token_vectors)


# --- inspection ---


def test_a_description_finds_the_tokens_a_vector_was_made_of(shared_tiny_host, tmp_path):
    embedding = Embedding("neg-x", shared_tiny_host.token_vectors("plastic doll") * 3)
    described = describe_embedding(embedding, shared_tiny_host, nearest=2)
    assert [row[0] for row in described["nearest"]] == [
        {"token": "plastic", "cosine": 1.0},
        {"token": "doll", "cosine": 1.0},
    ]
    assert (described["vectors"], described["width"]) == (2, 64)
    torch.testing.assert_close(described["norms"], embedding.vectors.norm(dim=1).tolist(), atol=1e-3, rtol=0)
    json.dumps(described)
    with pytest.raises(EmbeddingError, match="width 32"):
        describe_embedding(Embedding("neg-x", vectors(1, 32)), shared_tiny_host)


def test_describe_file_tells_kinds_apart(tmp_path):
    write_embedding(tmp_path / "neg-render.pt", example())
    write_embedding(tmp_path / "neg-render.safetensors", example())
    for suffix in (".pt", ".safetensors"):
        described = describe_file(tmp_path / f"neg-render{suffix}")
        assert (described["type"], described["step"], described["metadata"]) == ("embedding", 120, METADATA)
    save_file({"lora_unet_mid.lora_up.weight": vectors()}, tmp_path / "l.safetensors", metadata={"ss_output_name": "l"})
    described = describe_file(tmp_path / "l.safetensors")
    assert described["type"] == "LoRA" and described["metadata"] == {"ss_output_name": "l"}
    assert load_file(tmp_path / "neg-render.safetensors").keys() == {"neg-render"}
    with pytest.raises(EmbeddingError, match="There is no"):
        describe_file(tmp_path / "nothing.pt")
