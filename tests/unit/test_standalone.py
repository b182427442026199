"""The standalone host: files and folders give one model, embeddings are spliced exactly, nothing is left changed."""

from __future__ import annotations

import json
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch.utils.checkpoint import checkpoint

from lib_negtrans.core.schedule import sd1_alphas_cumprod
from lib_negtrans.embeddings.inspection import describe_file
from lib_negtrans.models import standalone
from lib_negtrans.models.prompts import PromptError
from lib_negtrans.models.protocol import HostError, ModelHost
from lib_negtrans.models.standalone import default_model_path, load_model
from tests import tiny_model

PROMPTS = ["a (photo:1.3) of neg-x, a dress", "word " * 80]


def outputs(host) -> list[torch.Tensor]:
    """Everything a host computes, on fixed inputs."""
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(2, 3, 64, 64, generator=generator)
    vectors = torch.randn(3, host.embedding_width, generator=generator)
    latent = host.encode_image(image)
    context = host.encode_prompts(PROMPTS, {"neg-x": vectors})
    return [latent, host.decode_latent(latent), context, host.predict_noise(latent, 281, context), host.alphas_cumprod]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """model.safetensors with a yaml, model-2.ckpt without, and the folder `diffusers`: all the same tiny model."""
    folder = tmp_path_factory.mktemp("models")
    networks = tiny_model.tiny_networks()
    state = tiny_model.ldm_state(networks)
    save_file(state, folder / "model.safetensors")
    unet = {"num_heads": 8, "context_dim": 64}
    params = {
        "scale_factor": 0.18215,
        "unet_config": {"params": unet},
        "cond_stage_config": {"params": {"version": "x/te"}},
    }
    (folder / "model.yaml").write_text(yaml.safe_dump({"model": {"params": params}}))
    for clip in ("te", "clip"):  # where the yaml points to, and where none does
        (folder / clip).mkdir()
        networks.text_encoder.config.to_json_file(folder / clip / "config.json")
    torch.save({"state_dict": state, "global_step": 1}, folder / "model-2.ckpt")
    tiny_model.write_folder(networks, folder / "diffusers")
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "model-2.ckpt", "diffusers"])
def test_every_layout_gives_the_model_that_was_saved(models, name, shared_tiny_host, monkeypatch):
    def no_network(*_args):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    host = load_model(models / name, device="cpu")
    assert isinstance(host, ModelHost)
    for ours, expected in zip(outputs(host), outputs(shared_tiny_host), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert (host.checkpoint_name, host.prediction_type, host.embedding_width) == (Path(name).stem, "epsilon", 64)
    torch.testing.assert_close(host.alphas_cumprod, sd1_alphas_cumprod(), rtol=1e-12, atol=0)
    assert not any(p.requires_grad for m in (host.unet, host.vae, host.text_encoder) for p in m.parameters())


def test_a_folder_with_half_precision_weights_only_is_read(models, tmp_path, shared_tiny_host):
    shutil.copytree(models / "diffusers", tmp_path / "half")
    for file in (tmp_path / "half").rglob("*model.safetensors"):
        save_file(
            {k: v.half() for k, v in load_file(file).items()}, file.with_suffix(".fp16.safetensors"), {"format": "pt"}
        )
        file.unlink()
    host = load_model(tmp_path / "half", device="cpu")
    for ours, expected in zip(outputs(host)[2:4], outputs(shared_tiny_host)[2:4], strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0.05)


def test_the_yaml_beside_a_file_is_followed(models, tmp_path, shared_tiny_host):
    config = yaml.safe_load((models / "model.yaml").read_text())
    config["model"]["params"]["unet_config"]["params"]["num_heads"] = 2
    config["model"]["params"] |= {"scale_factor": 0.2, "parameterization": "v", "linear_end": 0.02}
    (tmp_path / "other.safetensors").symlink_to(models / "model.safetensors")
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "te").symlink_to(models / "te")
    host = load_model(tmp_path / "other.safetensors", device="cpu")
    assert (host.scaling_factor, host.prediction_type) == (0.2, "v_prediction")
    assert host.alphas_cumprod[-1] < shared_tiny_host.alphas_cumprod[-1] / 2
    latent, context = torch.ones(1, 4, 8, 8), torch.ones(1, 77, 64)
    assert not torch.allclose(
        host.predict_noise(latent, 9, context), shared_tiny_host.predict_noise(latent, 9, context)
    )
    (tmp_path / "other.yaml").write_text("model: [broken")
    with pytest.raises(HostError, match="config"):
        load_model(tmp_path / "other.safetensors")


def test_the_hash_is_the_files_sha256(models):
    import hashlib

    for name in ("model.safetensors", "model-2.ckpt"):
        expected = hashlib.sha256((models / name).read_bytes()).hexdigest()
        assert load_model(models / name, device="cpu").checkpoint_hash == expected
    folder_hash = load_model(models / "diffusers", device="cpu").checkpoint_hash
    assert len(folder_hash) == 64 and folder_hash == load_model(models / "diffusers", device="cpu").checkpoint_hash


# --- embeddings in prompts ---


def test_vectors_that_equal_the_words_change_nothing(shared_tiny_host):
    plain = shared_tiny_host.encode_prompts(["a plastic (doll:1.2) shines"])
    vectors = {"neg-x": shared_tiny_host.token_vectors("plastic"), "neg-y": shared_tiny_host.token_vectors("doll")}
    spliced = shared_tiny_host.encode_prompts(["a neg-x (neg-y:1.2) shines"], vectors)
    torch.testing.assert_close(spliced, plain)
    pair = shared_tiny_host.encode_prompts(["a neg-xy shines"], {"neg-xy": torch.cat(list(vectors.values()))})
    torch.testing.assert_close(pair, shared_tiny_host.encode_prompts(["a plastic doll shines"]))


def test_gradient_to_the_vectors_is_the_finite_difference():
    host = tiny_model.tiny_host(dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    latent = torch.randn(1, 4, 8, 8, generator=generator, dtype=torch.float64)
    vectors = torch.randn(2, 64, generator=generator, dtype=torch.float64, requires_grad=True)

    def loss(v: torch.Tensor) -> torch.Tensor:
        context = host.encode_prompts(["a (neg-x:1.3) photo of neg-x"], {"neg-x": v})
        return host.predict_noise(latent, 141, context).square().mean()

    with host.training():
        (gradient,) = torch.autograd.grad(loss(vectors), vectors)
        direction = torch.randn(2, 64, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            h = 1e-5
            slope = (loss(vectors + h * direction) - loss(vectors - h * direction)) / (2 * h)
    assert slope.abs() > 1e-6
    assert torch.get_default_dtype() == torch.float32  # float64 needs another one while it encodes
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=0)


def test_a_prompt_longer_than_one_chunk_is_encoded_chunk_by_chunk(shared_tiny_host):
    host = shared_tiny_host
    both = host.encode_prompts(["word " * 75 + "cat", "dog"])
    assert both.shape == (2, 154, 64)
    torch.testing.assert_close(
        both[:1], torch.cat([host.encode_prompts(["word " * 75]), host.encode_prompts(["cat"])], 1)
    )
    torch.testing.assert_close(both[1:], torch.cat([host.encode_prompts(["dog"]), host.encode_prompts([""])], 1))


def test_a_prompt_alone_and_in_a_batch_is_the_same(shared_tiny_host):
    prompts = ["a (photo:1.3)", "a [[dress]]", "neg-x"]
    vectors = {"neg-x": torch.ones(2, 64)}
    together = shared_tiny_host.encode_prompts(prompts, vectors)
    alone = torch.cat([shared_tiny_host.encode_prompts([prompt], vectors) for prompt in prompts])
    torch.testing.assert_close(together, alone)


def test_clip_skip_takes_an_earlier_layer(tiny_host):
    second = tiny_model.tiny_host(clip_skip=2)
    with torch.no_grad():
        chunk = second.prompt_tokenizer.chunks("a dress")[0]
        states = tiny_host.text_encoder(torch.tensor([chunk.tokens]), output_hidden_states=True).hidden_states
        expected = tiny_host.text_encoder.text_model.final_layer_norm(states[-2])
    torch.testing.assert_close(second.encode_prompts(["a dress"]), expected)
    assert not torch.allclose(tiny_host.encode_prompts(["a dress"]), expected)
    with pytest.raises(HostError, match="between 1 and 2"):
        tiny_model.tiny_host(clip_skip=3)


def test_bad_embeddings_and_prompts_are_refused_and_no_hook_stays(shared_tiny_host):
    host = shared_tiny_host
    with pytest.raises(ValueError, match=r"takes \(vectors, 64\)"):
        host.encode_prompts(["neg-x"], {"neg-x": torch.ones(2, 32)})
    with pytest.raises(ValueError, match="holds 1 to 75"):
        host.encode_prompts(["neg-x"], {"neg-x": torch.ones(76, 64)})
    with pytest.raises(PromptError):
        host.encode_prompts(["[cat:dog:0.5]"])
    with pytest.raises(ValueError, match="at least one"):
        host.encode_prompts([])
    assert not host.text_encoder.get_input_embeddings()._forward_hooks


def test_no_words_have_no_vectors(shared_tiny_host):
    assert shared_tiny_host.token_vectors("").shape == (0, 64)
    table, texts = shared_tiny_host.token_table()
    for word in ("dress", "é"):
        places = [number for number, text in enumerate(texts) if text == word]  # inside a word and at its end
        assert any(torch.equal(shared_tiny_host.token_vectors(word)[-1], table[place]) for place in places), word


# --- images ---


def test_latents_are_the_scaled_mean(shared_tiny_host):
    image = torch.rand(1, 3, 64, 72)
    mean, deviation = shared_tiny_host.encode_image_distribution(image)
    with torch.no_grad():
        posterior = shared_tiny_host.vae.encode(image * 2 - 1).latent_dist
    torch.testing.assert_close(mean, posterior.mean * 0.18215)
    torch.testing.assert_close(deviation, posterior.std * 0.18215)
    assert torch.equal(mean, shared_tiny_host.encode_image(image)) and mean.shape == (1, 4, 8, 9)
    decoded = shared_tiny_host.decode_latent(mean * 50)
    assert decoded.min() >= 0 and decoded.max() <= 1 and decoded.shape == (1, 3, 64, 72)
    with pytest.raises(ValueError, match="multiples of 8"):
        shared_tiny_host.encode_image(torch.rand(1, 3, 64, 66))


def test_a_half_precision_vae_that_overflows_is_run_again_in_float32(shared_tiny_host):
    host = tiny_model.tiny_host(dtype=torch.bfloat16)
    assert host.vae.dtype == torch.bfloat16
    half = host.vae.encode

    def overflows(x):
        return half(x if x.dtype == torch.float32 else x * float("nan"))

    host.vae.encode = overflows
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(host.encode_image(image), shared_tiny_host.encode_image(image), rtol=0.02, atol=0.02)
    assert host.vae.dtype == torch.float32


def test_predictions_are_float32_and_take_a_timestep_per_row(shared_tiny_host):
    latent, context = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 64)
    together = shared_tiny_host.predict_noise(latent, torch.tensor([1, 281]), context)
    one = shared_tiny_host.predict_noise(latent[1:], 281, context[1:])
    torch.testing.assert_close(together[1:], one, rtol=0, atol=1e-3)
    half = tiny_model.tiny_host(dtype=torch.bfloat16).predict_noise(latent, 281, context)
    assert half.dtype == torch.float32


# --- training ---


def flags(host) -> list:
    networks = (host.unet, host.vae, host.text_encoder)
    return [
        [p.requires_grad for n in networks for p in n.parameters()],
        [m.training for n in networks for m in n.modules()],
        [getattr(m, "gradient_checkpointing", None) for m in host.unet.modules()],
        [getattr(m, "_gradient_checkpointing_func", None) for m in host.unet.modules()],
        [p.grad for n in networks for p in n.parameters()],
    ]


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_training_leaves_every_flag_as_it_was(tiny_host, gradient_checkpointing):
    next(tiny_host.unet.parameters()).requires_grad_(True)
    tiny_host.text_encoder.requires_grad_(True)
    tiny_host.vae.decoder.train()
    tiny_host.unet.mid_block.gradient_checkpointing = True
    tiny_host.unet.mid_block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    before = flags(tiny_host)
    vectors = torch.randn(2, 64, requires_grad=True)
    with pytest.raises(ZeroDivisionError), torch.no_grad(), tiny_host.training(gradient_checkpointing):
        assert flags(tiny_host) != before
        context = tiny_host.encode_prompts(["neg-x"], {"neg-x": vectors})
        tiny_host.predict_noise(torch.randn(1, 4, 8, 8), 21, context).mean().backward()
        raise ZeroDivisionError
    assert flags(tiny_host) == before
    assert vectors.grad.abs().sum() > 0


def test_gradient_checkpointing_gives_the_same_gradient(tiny_host):
    latent = torch.randn(1, 4, 8, 8)
    gradients = []
    for checkpointing in (False, True):
        vectors = torch.ones(2, 64, requires_grad=True)
        calls = []
        handle = tiny_host.unet.mid_block.resnets[1].register_forward_pre_hook(lambda *_args: calls.append(1))  # noqa: B023
        with tiny_host.training(checkpointing):
            context = tiny_host.encode_prompts(["a neg-x"], {"neg-x": vectors})
            tiny_host.predict_noise(latent, 21, context).square().mean().backward()
        handle.remove()
        gradients.append(vectors.grad)
        assert len(calls) == (2 if checkpointing else 1)  # computed again in the backward pass
    torch.testing.assert_close(*gradients)


# --- what is refused ---


def other_family(state: dict, name: str) -> dict:
    unet = "model.diffusion_model."
    changes = {
        "SD1 inpainting": {unet + "input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)},
        "SD1 InstructPix2Pix": {unet + "input_blocks.0.0.weight": torch.zeros(32, 8, 3, 3)},
        "SD2": {"cond_stage_model.model.ln_final.weight": torch.zeros(1)},
        "SDXL": {"conditioner.embedders.0.transformer.x": torch.zeros(1)},
        "SD3": {unet + "joint_blocks.0.x": torch.zeros(1)},
        "Flux": {unet + "double_blocks.0.x": torch.zeros(1)},
        "LoRA": {"lora_unet_mid.lora_up.weight": torch.zeros(1)},
    }
    return state | changes[name]


@pytest.mark.parametrize("name", ["SD1 inpainting", "SD1 InstructPix2Pix", "SD2", "SDXL", "SD3", "Flux", "LoRA"])
def test_other_families_are_refused_by_name(models, tmp_path, name):
    few = ("attn2.to_k", "input_blocks.0.0")
    state = {k: v for k, v in load_file(models / "model.safetensors").items() if any(part in k for part in few)}
    save_file(other_family(state, name), tmp_path / "m.safetensors")
    with pytest.raises(HostError, match=f"kind {name},"):
        load_model(tmp_path / "m.safetensors")
    assert describe_file(tmp_path / "m.safetensors")["family"] == name


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("unet/config.json", {"in_channels": 9}),
        ("unet/config.json", {"cross_attention_dim": 1024}),
        ("model_index.json", {"_class_name": "StableDiffusionXLPipeline"}),
        ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}),
    ],
)
def test_other_folders_are_refused(models, tmp_path, part, change):
    folder = tmp_path / "model"
    for name in ("unet/config.json", "model_index.json", "scheduler/scheduler_config.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        content = json.loads((models / "diffusers" / name).read_text())
        (folder / name).write_text(json.dumps(content | (change if name == part else {})))
    with pytest.raises(HostError, match=r"1\.x"):
        load_model(folder)


def test_damaged_and_strange_files_are_refused_in_one_sentence(models, tmp_path, monkeypatch):
    state = load_file(models / "model.safetensors")
    part = {key: value for key, value in state.items() if "first_stage" not in key}
    save_file(part, tmp_path / "no-vae.safetensors")
    missing = {key: value for key, value in state.items() if not key.endswith("middle_block.0.in_layers.0.bias")}
    save_file(missing, tmp_path / "hole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((models / "model.safetensors").read_bytes()[:5000])
    (tmp_path / "cut.ckpt").write_bytes((models / "model-2.ckpt").read_bytes()[:5000])
    torch.save({"state_dict": state, "callbacks": Path("x")}, tmp_path / "lightning.ckpt")
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    (tmp_path / "empty").mkdir()
    (tmp_path / "picture.png").write_bytes(b"x")
    messages = {
        "no-vae.safetensors": "VAE",
        "hole.safetensors": "lacks 1 tensors",
        "cut.safetensors": "cut off",
        "cut.ckpt": "cut off",
        "lightning.ckpt": "convert it to .safetensors",
        "x.safetensors": "not a Stable Diffusion checkpoint",
        "empty": "model_index.json",
        "picture.png": "neither",
        "nothing.safetensors": "There is no",
    }
    for name, message in messages.items():
        with pytest.raises(HostError, match=message) as caught:
            load_model(tmp_path / name, device="cpu")
        assert "\n" not in str(caught.value), name
    monkeypatch.setattr(standalone, "ASSETS", tmp_path)
    with pytest.raises(HostError, match=r"vocab\.json"):
        load_model(models / "model.safetensors", device="cpu")


@pytest.mark.parametrize("device", ["gpu", "meta:x", "cuda:99"])
def test_a_device_that_is_not_here_is_refused(models, device):
    with pytest.raises(HostError, match=f"device {device} cannot be used"):
        load_model(models / "model.safetensors", device=device)


def test_the_default_model_is_the_variables_or_the_demonstration_model(tmp_path, monkeypatch):
    monkeypatch.setenv("NEGTRANS_MODEL", str(tmp_path))
    assert default_model_path() == tmp_path
    monkeypatch.setenv("NEGTRANS_MODEL", str(tmp_path / "gone"))
    with pytest.raises(HostError, match="NEGTRANS_MODEL"):
        default_model_path()
    monkeypatch.delenv("NEGTRANS_MODEL")
    monkeypatch.setattr(standalone, "ASSETS", tmp_path)
    with pytest.raises(HostError, match=r"demonstration model .* missing"):
        default_model_path()
    (tmp_path / "negtrans-demo.safetensors").write_bytes(b"")
    assert default_model_path() == tmp_path / "negtrans-demo.safetensors"


def test_a_checkpoint_is_described_without_loading_it(models):
    for name in ("model.safetensors", "model-2.ckpt"):
        described = describe_file(models / name)
        assert (described["type"], described["family"], described["usable"]) == ("checkpoint", "SD1", True)
        assert described["width"] == 64
    assert describe_file(models / "diffusers")["parts"] == []


def test_threads_do_not_get_each_others_vectors(shared_tiny_host, monkeypatch):
    host = shared_tiny_host
    vectors = {name: torch.randn(1, 64) for name in ("neg-1", "neg-2", "neg-3")}
    expected = {name: host.encode_prompts([name], {name: v}) for name, v in vectors.items()}
    forward = host.text_encoder.forward

    def slow(*args, **kwargs):
        time.sleep(0.05)  # time for the other threads to come here
        return forward(*args, **kwargs)

    monkeypatch.setattr(host.text_encoder, "forward", slow)
    with ThreadPoolExecutor(3) as pool:
        jobs = {name: pool.submit(host.encode_prompts, [name], {name: v}) for name, v in vectors.items()}
    for name, job in jobs.items():
        torch.testing.assert_close(job.result(), expected[name])


def test_the_vaes_layout_stays_inside_it(shared_tiny_host):
    """A channels-last latent would make the UNet slower."""
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for result in (
        *shared_tiny_host.encode_image_distribution(image),
        shared_tiny_host.decode_latent(torch.rand(2, 4, 8, 8)),
    ):
        assert result.is_contiguous() and result.stride() == torch.empty(result.shape).stride()
