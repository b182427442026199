"""What our command line trains, opened by a real webui: its pictures are those of our own host, and name the LoRA."""

from __future__ import annotations

import pytest
import torch

from lib_negtrans.lora.apply import load_model
from lib_negtrans.lora.bundle import bundle_path, write_bundle
from lib_negtrans.lora.files import read_lora
from lib_negtrans.pictures.images import picture_from_pil, to_pil
from lib_negtrans.training.kinds import KINDS
from lib_negtrans.training.request import TrainingRequest
from lib_negtrans.training.run import Training
from lib_negtrans.translation.params import translation_preset
from lib_negtrans.translation.pipeline import translate
from tests.webui.client import arguments, difference, infotext, render
from tests.webui.files import copy_renders

LORA, FULL, WORD = "photo-locon", "photo-checkpoint", "neg-bundled"
OPTIONS = {"steps": 20, "cfg_scale": 7.5, "strength": 0.3}


@pytest.fixture(scope="module")
def base(webui):
    return next((webui.data / "models" / "Stable-diffusion").glob("negtrans-demo.safetensors"))


@pytest.fixture(scope="module")
def files(webui, base):
    """A LoRA of all layers, a checkpoint and a bundle, in the webui's folders."""
    models = webui.data / "models"
    host, photos = load_model(base, device="cpu", dtype=torch.float32), copy_renders(webui.data / "photos", 3)
    out = {"lora": models / "Lora" / f"{LORA}.safetensors", "full": base.with_name(f"{FULL}.safetensors")}
    options = {
        "lora": {"rank": 4, "conv_rank": 2, "lr": "1e-2"}, "full": {"lr": "1e-4", "file_precision": "fp16"},
    }  # fmt: skip
    for kind, file in out.items():
        values = {"steps": 4, "size": 64, "text_encoder": True, "ema": 0.1} | options[kind]
        request = TrainingRequest(file.stem, photos, KINDS[kind].options.from_dict(values), kind=kind)
        for _ in Training(request, host, webui.data / f"{kind}.run", file).run():
            pass
    vectors = 0.1 * torch.randn(2, host.embedding_width, generator=torch.Generator().manual_seed(3))
    out["bundle"] = bundle_path(out["lora"])
    write_bundle(out["bundle"], read_lora(out["lora"]), {WORD: vectors})
    for what in ("loras", "checkpoints"):
        assert webui.post(f"/sdapi/v1/refresh-{what}").status_code == 200
    return out


def ours(model, loras=(), **prompts):
    """The render translated by our own host."""
    host = load_model(model, device="cpu", dtype=torch.float32, loras=loras)
    params = translation_preset("default", **OPTIONS, **prompts)
    return to_pil(translate(host, picture_from_pil(render()).rgb[None], params, {}).image[0])


def theirs(client, **prompts):
    sampling = {"steps": OPTIONS["steps"], "cfg_scale": OPTIONS["cfg_scale"]}
    return client.translate(arguments(), **sampling, denoising_strength=OPTIONS["strength"], **prompts)


def test_a_lora_in_the_prompt(client, files, base):
    answer = theirs(client, prompt=f"a photo <lora:{LORA}:0.8>", negative_prompt="cg")
    expected = ours(base, [f"{files['lora']}:0.8"], prompt="a photo", negative_prompt="cg")
    assert difference(answer["images"][0], expected) <= 1
    assert difference(expected, ours(base, prompt="a photo", negative_prompt="cg")) > 3


def test_the_bundles_embedding_in_the_negative_prompt(client, webui, files, base):
    """In the same picture in which the LoRA is named first."""
    lora = f"<lora:{files['bundle'].stem}:1>"
    answer = theirs(client, prompt=f"a photo {lora}", negative_prompt=WORD)
    expected = ours(base, [files["bundle"]], prompt="a photo", negative_prompt=WORD)
    assert difference(answer["images"][0], expected) <= 1
    assert difference(expected, ours(base, [files["lora"]], prompt="a photo")) > 3
    assert "Networks with errors" not in webui.log and "Networks not found" not in webui.log


def test_png_info_brings_the_lora_back(client, webui, files, base):
    prompt = f"a photo <lora:{LORA}:0.8>"
    answer = theirs(client, prompt=prompt, negative_prompt="cg")
    assert f'Lora hashes: "{LORA}: ' in infotext(answer)
    fields = webui.post("/sdapi/v1/png-info", {"image": answer["images"][0]}).json()["parameters"]
    assert fields["Prompt"] == prompt and fields["Lora hashes"].startswith(f"{LORA}: ")


def test_a_checkpoint(client, webui, files, base):
    titles = {model["model_name"]: model["title"] for model in webui.get("/sdapi/v1/sd-models").json()}
    former = webui.get("/sdapi/v1/options").json()["sd_model_checkpoint"]
    client.options(sd_model_checkpoint=titles[FULL])
    try:
        answer = theirs(client, prompt="a photo", negative_prompt="cg")
    finally:
        client.options(sd_model_checkpoint=former)
    expected = ours(files["full"], prompt="a photo", negative_prompt="cg")
    assert difference(answer["images"][0], expected) <= 1
    assert difference(expected, ours(base, prompt="a photo", negative_prompt="cg")) > 3
