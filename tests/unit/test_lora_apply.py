"""LoRAs in a host of our own: the numbers of the definition and of diffusers, gone without a trace, known by name."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lib_negtrans
from lib_negtrans.lora.apply import load_model
from lib_negtrans.lora.files import LoraError, LoraPair, read_lora, write_lora
from lib_negtrans.lora.merge import Loras, merge, merged
from lib_negtrans.lora.names import lora_modules
from lib_negtrans.models.standalone import default_model_path
from lib_negtrans.translation.cache import host_state
from tests.lora_files import random_pairs
from tests.tiny_model import tiny_host

WEIGHTS = (0.8, -0.3)
PROMPT = "a photo of a dress"


@pytest.fixture(scope="module")
def files(tmp_path_factory, shared_tiny_host):
    """Two LoRA files for the tiny model: LoCon with text encoder and one small kernel, and attention alone."""
    folder = tmp_path_factory.mktemp("loras")
    first, second = random_pairs(shared_tiny_host), random_pairs(shared_tiny_host, 2, 3.0, 1, convolutions=False)
    write_lora(folder / "locon.safetensors", first, {}, torch.float32)
    write_lora(folder / "attention.safetensors", second, {}, torch.float32)
    name = "lora_unet_down_blocks_0_downsamplers_0_conv"
    small = LoraPair(torch.randn(3, 32, 1, 1), torch.randn(32, 3, 1, 1), torch.randn(3, 3, 3, 3) * 0.1, 1.0)
    write_lora(folder / "small.safetensors", {name: small}, {}, torch.float32)
    return folder


def predictions(host, prompt: str = PROMPT) -> list[torch.Tensor]:
    context = host.encode_prompts([prompt])
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return [context, host.predict_noise(latent, 281, context)]


def added(module: nn.Module, pair: LoraPair, x: torch.Tensor) -> torch.Tensor:
    """What a LoRA layer adds to its module's output, as it is defined: one layer after the other."""
    down, up = pair.down.to(x), pair.up.to(x)
    scale = pair.alpha / pair.down.shape[0]
    if isinstance(module, nn.Linear):
        return scale * F.linear(F.linear(x, down), up)
    place = {"stride": module.stride, "padding": module.padding}
    if pair.mid is None:
        return scale * F.conv2d(F.conv2d(x, down, **place), up)
    return scale * F.conv2d(F.conv2d(F.conv2d(x, down), pair.mid.to(x), **place), up)


def test_the_numbers_are_those_of_the_definition(files):
    loras = [
        (read_lora(files / f"{name}.safetensors"), weight)
        for name, weight in (("locon", 0.8), ("attention", -0.3), ("small", 0.5))
    ]
    host, oracle = tiny_host(dtype=torch.float64), tiny_host(dtype=torch.float64)
    untouched = predictions(host)
    merge(host, loras)

    for name, module in lora_modules(oracle).items():
        for file, weight in loras:
            if name in file.pairs:
                module.register_forward_hook(
                    lambda m, args, y, pair=file.pairs[name], w=weight: y + w * added(m, pair, args[0])
                )
    for ours, expected, before in zip(predictions(host), predictions(oracle), untouched, strict=True):
        assert (expected - before).abs().max() > 0.1  # it does something
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="diffusers loads LoRAs with peft alone")
def test_the_numbers_are_those_of_diffusers(files, tmp_path):
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from peft.utils import get_peft_model_state_dict

    paths = [files / "locon.safetensors", files / "attention.safetensors"]
    host, theirs = tiny_host(), tiny_host()
    merge(host, [(read_lora(path), weight) for path, weight in zip(paths, WEIGHTS, strict=True)])
    pipeline = StableDiffusionPipeline(
        theirs.vae, theirs.text_encoder, theirs.tokenizer, theirs.unet, DDIMScheduler(), None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    for path in paths:
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=path.stem)
    pipeline.set_adapters([path.stem for path in paths], list(WEIGHTS))
    for ours, expected in zip(predictions(host), predictions(theirs), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    # and what diffusers writes of them is read as the same
    for path in paths:
        layers = [get_peft_model_state_dict(m, adapter_name=path.stem) for m in (theirs.unet, theirs.text_encoder)]
        told = [m.peft_config[path.stem].to_dict() for m in (theirs.unet, theirs.text_encoder)]
        pipeline.save_lora_weights(
            tmp_path / path.stem,
            *layers,
            unet_lora_adapter_metadata=told[0],
            text_encoder_lora_adapter_metadata=told[1],
        )
        written, expected = read_lora(tmp_path / path.stem / "pytorch_lora_weights.safetensors"), read_lora(path)
        assert written.layout == "diffusers" and written.pairs.keys() == expected.pairs.keys()
        for name, pair in expected.pairs.items():
            torch.testing.assert_close(written.pairs[name].delta(), pair.delta())


def test_half_precision_is_rounded_once(files, shared_tiny_host):
    host = tiny_host(dtype=torch.bfloat16)
    merge(host, [(read_lora(files / "locon.safetensors"), 1.0), (read_lora(files / "attention.safetensors"), 1.0)])
    name = "lora_unet_mid_block_attentions_0_proj_in"
    base = lora_modules(shared_tiny_host)[name].weight.bfloat16().double()
    deltas = [
        read_lora(files / f"{f}.safetensors").pairs[name].delta(dtype=torch.float64) for f in ("locon", "attention")
    ]
    exact = base + sum(deltas).reshape(base.shape)
    ours = lora_modules(host)[name].weight
    assert ours.dtype == torch.bfloat16
    nearest = exact.bfloat16()
    # the sum in float32 may lie on the other side of a middle between two numbers, but hardly ever does
    assert (ours == nearest).float().mean() > 0.999


def test_taken_out_again_to_the_bit_also_after_an_error(files):
    host = tiny_host()
    before = {
        key: value.clone() for network in (host.unet, host.text_encoder) for key, value in network.state_dict().items()
    }
    identity, state = host.model_hash, host_state(host)
    lora = read_lora(files / "locon.safetensors")
    with pytest.raises(KeyboardInterrupt), merged(host, [(lora, 1.0)]):
        assert host.model_hash != identity and host_state(host) != state
        raise KeyboardInterrupt
    after = host.unet.state_dict() | host.text_encoder.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert (host.model_hash, host_state(host), host.loras) == (identity, state, ())


def test_a_model_with_loras_is_another_model(files):
    """What training resumes, caches and metadata know the model by tells LoRA and weight."""
    host = tiny_host()
    lora, other = (read_lora(files / f"{name}.safetensors") for name in ("locon", "attention"))
    seen = {host.model_hash}
    for loras in ([(lora, 1.0)], [(lora, 0.5)], [(other, 1.0)], [(lora, 1.0), (other, 1.0)], [(lora, 0.0)]):
        with merged(host, loras):
            seen.add(host.model_hash)
    assert len(seen) == 6
    assert host.checkpoint_hash in seen


def test_loading_with_python(tmp_path):
    base = load_model(default_model_path(), device="cpu")
    pairs = random_pairs(base, text=False)
    write_lora(tmp_path / "photo.safetensors", pairs, {}, torch.float32)
    write_lora(tmp_path / "two.safetensors", random_pairs(base, seed=2), {}, torch.float32)
    loras = [tmp_path / "photo.safetensors", f"{tmp_path / 'two.safetensors'}:0.25"]
    host = lib_negtrans.load_model(default_model_path(), device="cpu", loras=loras)
    assert [(lora.name, lora.weight) for lora in host.loras] == [("photo", 1.0), ("two", 0.25)]
    assert host.checkpoint_hash == base.checkpoint_hash and host.model_hash != base.model_hash
    merge(base, Loras.named(loras).read())
    assert all(map(torch.equal, predictions(host), predictions(base)))


def test_embeddings_of_a_lora_file_are_known_to_prompts(tmp_path, shared_tiny_host):
    vectors = torch.randn(3, 64)
    pairs = random_pairs(shared_tiny_host, convolutions=False)
    write_lora(tmp_path / "both.bundle.safetensors", pairs, {}, embeddings={"neg-x": vectors})
    host, prompt = tiny_host(), "a photo of neg-x"
    with merged(host, [(read_lora(tmp_path / "both.bundle.safetensors"), 1.0)]):
        known = host.encode_prompts([prompt])
        assert torch.equal(known, host.encode_prompts([prompt], {"neg-x": vectors}))
        assert not torch.equal(known, host.encode_prompts([prompt], {"neg-x": -vectors}))  # a named one comes first
    assert not host.embeddings
    write_lora(tmp_path / "wide.safetensors", pairs, {}, embeddings={"neg-x": torch.randn(3, 768)})
    with pytest.raises(LoraError, match="embedding neg-x of width 768, but the model's is 64"):
        merge(host, [(read_lora(tmp_path / "wide.safetensors"), 1.0)])


def test_a_lora_of_another_model_changes_nothing(tmp_path, files, shared_tiny_host):
    pairs = random_pairs(shared_tiny_host, convolutions=False)
    name = next(iter(pairs))
    more = pairs | {"lora_unet_other_block": pairs[name], "lora_unet_down_blocks_0_nothing": pairs[name]}
    write_lora(tmp_path / "more.safetensors", more, {}, torch.float32)
    wide = pairs | {name: pairs[name]._replace(up=torch.randn(320, 4, 1, 1))}
    write_lora(tmp_path / "wide.safetensors", wide, {}, torch.float32)
    host = tiny_host()
    before = predictions(host)
    good = read_lora(files / "locon.safetensors")
    for file, sentence in {
        "more": f"lacks 2 of its {len(more)} modules, such as lora_unet_down_blocks_0_nothing, lora_unet_other_block:",
        "wide": rf"made for a model of other sizes: {name} is \(320, 32\) in it and \(32, 32\) in this model",
    }.items():
        with pytest.raises(LoraError, match=sentence):
            merge(host, [(good, 1.0), (read_lora(tmp_path / f"{file}.safetensors"), 1.0)])
    assert all(map(torch.equal, predictions(host), before)) and host.loras == ()
