"""A student: its network against the base model's own parts, its gradients, its file, and pictures by it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from lib_negtrans.models import vae_tiles
from lib_negtrans.models.protocol import HostError
from lib_negtrans.models.standalone import StandaloneHost, load_tokenizer
from lib_negtrans.pictures.feature_network import PerceptualDistance
from lib_negtrans.student.files import StudentChoice, StudentError, read_student, write_student
from lib_negtrans.student.network import LATENT_CHANGE, PICTURE_CHANGE, StudentDesign, StudentNetwork, skip_name
from lib_negtrans.training.student_losses import convincing, initial_discriminator, judged, student_loss
from lib_negtrans.translation.infotext import parse_infotext, settings_from_infotext
from lib_negtrans.translation.student import student_params, translate_with_student
from tests.tiny_model import tiny_host, tiny_networks

DESIGN = StudentDesign(timestep=60, rank=2, decoder_rank=2)


def generator_of(name):
    return torch.Generator().manual_seed(len(name))


def picture(seed=0, size=64, count=1):
    # smooth, so that finite differences meet few kinks
    small = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.interpolate(small, size=(size, size), mode="bicubic").clamp(0, 1).float()


def moved(weights, scale=0.05):
    """Weights that do something in every place."""
    generator = torch.Generator().manual_seed(5)
    return {
        name: (w.detach() + scale * torch.randn(w.shape, generator=generator).to(w)).requires_grad_()
        for name, w in weights.items()
    }


@pytest.fixture
def network(host):
    return StudentNetwork(host, DESIGN)


@torch.no_grad()
def test_without_training_it_gives_the_render_back(network):
    image, weights = picture(), network.initial(generator_of)
    merged = StudentNetwork(tiny_host(), DESIGN)
    merged.merge(weights)
    assert torch.equal(merged(image), image)
    for given in (weights, None):
        with network.applied(given):
            assert torch.equal(network(image), image)


@torch.no_grad()
def test_one_call_of_the_unet_is_added_to_the_latent(host, network):
    latent, scale = host.encode_image(picture()), float(host.alphas_cumprod[DESIGN.timestep]) ** 0.5
    weights = network.initial(generator_of)
    weights[LATENT_CHANGE].copy_(host.unet.conv_out.weight)
    output = host.predict_noise(scale * latent, DESIGN.timestep, host.encode_prompts([""]))
    bias = host.unet.conv_out.bias[:, None, None]
    with network.applied(weights):
        torch.testing.assert_close(network.translated(latent), latent + output - bias)
    with network.applied(None):
        assert torch.equal(network.translated(latent), latent)


@torch.no_grad()
def test_skips_lead_from_each_level_of_the_encoder_to_the_decoders_and_the_change_to_the_render(host, network):
    image, vae = picture(), host.vae
    weights = {name: torch.zeros_like(tensor) for name, tensor in network.initial(generator_of).items()}
    for number, name in enumerate([*map(skip_name, range(4)), PICTURE_CHANGE]):
        weights[name].copy_(0.3 * torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(number)))
    latent, taken = network.encode(image)
    with network.applied(weights):
        found = network.decode(latent, taken, image)
    x, features = vae.encoder.conv_in(image * 2 - 1), []
    for block in vae.encoder.down_blocks:
        features.append(x)
        x = block(x)
    z = vae.decoder.mid_block(vae.decoder.conv_in(vae.post_quant_conv(latent / host.scaling_factor)))
    for level, block in enumerate(vae.decoder.up_blocks):
        z = block(z + F.conv2d(features[3 - level], weights[skip_name(level)]))
    wanted = image + F.conv2d(F.silu(vae.decoder.conv_norm_out(z)), weights[PICTURE_CHANGE], padding=1)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, image, atol=0.05)


@torch.no_grad()
def test_merged_it_does_what_the_live_weights_do(network):
    image, weights = picture(), moved(network.initial(generator_of))
    with network.applied(weights):
        live = network(image)
    merged = StudentNetwork(tiny_host(), DESIGN)
    before = merged(image)
    merged.merge(weights)
    torch.testing.assert_close(merged(image), live, rtol=1e-4, atol=1e-4)
    assert (live - before).abs().max() > 0.05


@torch.no_grad()
def test_pieces_of_the_vae_get_the_skips_of_their_own_picture(monkeypatch):
    network = StudentNetwork(smooth_host(), DESIGN)
    images, weights = picture(3, count=3).double(), moved(network.initial(generator_of))
    with network.applied(weights):
        alone = torch.cat([network(image[None]) for image in images])
        monkeypatch.setattr(vae_tiles, "WHOLE", 128)  # in float64: one picture of 64x64 at a time
        torch.testing.assert_close(network(images), alone, rtol=1e-9, atol=1e-9)
        monkeypatch.setattr(vae_tiles, "WHOLE", 16)
        monkeypatch.setattr(vae_tiles.spans, "__defaults__", (6, 2))  # and in tiles
        assert network(images[:1]).shape == (1, 3, 64, 64)


def test_nothing_is_left_on_the_model_after_an_error(host, network):
    modules = [*host.unet.modules(), *host.vae.modules()]
    with pytest.raises(KeyError), network.applied({}):
        network(picture())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)


# --- gradients, against finite differences in float64 ---


def smooth_host():
    networks = tiny_networks(norm_groups=8)
    return StandaloneHost(networks, load_tokenizer(), device="cpu", dtype=torch.float64)


def directional(function, tensors, step=1e-6):
    """(by autograd, by central differences) of a scalar along one random direction in all tensors."""
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in tensors]
    grads = torch.autograd.grad(function(), tensors)
    analytic = sum(float((g * d).sum()) for g, d in zip(grads, direction, strict=True))
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for tensor, d in zip(tensors, direction, strict=True):
                tensor.add_(sign * step * d)
            values.append(function().item())
            for tensor, d in zip(tensors, direction, strict=True):
                tensor.sub_(sign * step * d)
    return analytic, (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("part", ["skip_", "change.", "latent_", "lora_vae_decoder_", "lora_unet_"])
def test_gradients_of_the_network(part):
    host = smooth_host()
    network = StudentNetwork(host, DESIGN)
    weights, image = moved(network.initial(generator_of), 0.02), picture().double()
    wanted = picture(1).double()

    def loss():
        with network.applied(weights):
            return (network(image) - wanted).square().mean()

    chosen = [tensor for name, tensor in weights.items() if name.startswith(part)]
    assert chosen
    with host.training():
        analytic, numeric = directional(loss, chosen)
    assert analytic == pytest.approx(numeric, rel=1e-5) and abs(numeric) > 1e-6


@pytest.mark.parametrize(("l2", "perceptual"), [(10.0, 0.0), (0.0, 1.0)])
def test_gradients_of_the_distances(l2, perceptual):
    found, wanted = picture().double().requires_grad_(), picture(1).double()
    distance = PerceptualDistance(dtype=torch.float64)
    analytic, numeric = directional(
        lambda: student_loss(wanted, wanted, found, distance, {}, l2, perceptual, 0.0).sum(), [found], 1e-9
    )  # the step is small because the network has a kink wherever one of its many ReLUs begins
    assert analytic == pytest.approx(numeric, rel=1e-5)
    assert student_loss(wanted, wanted, wanted, distance, {}, l2, perceptual, 0.0).item() == 0


def test_each_side_of_the_discriminator_has_its_own_gradient():
    judge = initial_discriminator(torch.Generator().manual_seed(0), torch.device("cpu"), torch.float64)
    render, wanted, found = picture().double(), picture(1).double(), picture(2).double().requires_grad_()
    own = list(judge.values())
    for function, tensors, others in (
        (lambda: judged(judge, render, wanted, found).sum(), own, [found]),
        (lambda: convincing(judge, render, found).sum(), [found], own),
    ):
        analytic, numeric = directional(function, tensors)
        assert analytic == pytest.approx(numeric, rel=1e-4) and abs(numeric) > 1e-8
        assert torch.autograd.grad(function(), others, allow_unused=True) == (None,) * len(others)
    # what is shown is the distance alone, and both sides are trained all the same
    loss = student_loss(render, wanted, found, None, judge, 1.0, 0.0, 0.5).sum()
    assert loss.item() == pytest.approx(4 * (found - wanted).square().mean().item())
    expected = torch.autograd.grad(
        4 * (found - wanted).square().mean() + 0.5 * convincing(judge, render, found).sum(), [found]
    )
    torch.testing.assert_close(torch.autograd.grad(loss, [found], retain_graph=True), expected)
    expected = torch.autograd.grad(judged(judge, render, wanted, found).sum(), own)
    torch.testing.assert_close(torch.autograd.grad(loss, own), expected)


def test_the_discriminator_learns_to_tell_two_pictures_apart():
    judge = initial_discriminator(torch.Generator().manual_seed(0), torch.device("cpu"), torch.float32)
    render, wanted, found = picture(), picture(1), picture(2)
    optimizer = torch.optim.Adam(judge.values(), lr=1e-3)
    begin = judged(judge, render, wanted, found).item()
    for _ in range(20):
        optimizer.zero_grad()
        judged(judge, render, wanted, found).sum().backward()
        optimizer.step()
    assert judged(judge, render, wanted, found).item() < 0.5 * begin


# --- the file ---


def facts_of(host):
    return {"checkpoint": host.checkpoint_name, "checkpoint_hash": host.checkpoint_hash, "model_hash": host.model_hash}


@pytest.fixture
def file(tmp_path, host, network):
    path = tmp_path / "quick.safetensors"
    write_student(path, DESIGN, moved(network.initial(generator_of)), facts_of(host), torch.float32)
    return path


def test_what_is_written_is_read(file, tmp_path, host, network):
    weights, student = moved(network.initial(generator_of)), read_student(file)
    assert student.name == "quick" and student.design == DESIGN
    assert student.weights.keys() == weights.keys()
    assert all(torch.equal(student.weights[name], tensor) for name, tensor in weights.items())
    write_student(tmp_path / "again.safetensors", DESIGN, weights, facts_of(host), torch.float32)
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    image = picture()
    with torch.no_grad(), network.applied(weights):
        torch.testing.assert_close(student.on(tiny_host())(image), network(image), rtol=1e-4, atol=1e-4)


def test_what_is_no_student_of_this_model_is_refused_in_a_sentence(file, tmp_path, host, network):
    with pytest.raises(StudentError, match=r"quick.safetensors is a student of in-memory \[.{10}\] without LoRAs, and"):
        read_student(file).on(tiny_host(seed=1))
    with pytest.raises(StudentError, match=r"There is no .*nowhere: name a student's file"):
        read_student(tmp_path / "nowhere")
    other = tmp_path / "other.safetensors"
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, other)
    with pytest.raises(StudentError, match="is not a student: name a file that the command distill has written"):
        read_student(other)
    other.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(StudentError, match="is damaged or not a student"):
        read_student(other)
    with pytest.raises(StudentError, match="another file here than where the run was started"):
        replace(StudentChoice(file).pinned(), sha256="0").read()
    huge = {name: 1e6 * torch.ones_like(tensor) for name, tensor in network.initial(generator_of).items()}
    with pytest.raises(StudentError, match="do not fit into half precision"):
        write_student(tmp_path / "huge.safetensors", DESIGN, huge, facts_of(host))
    less = {name: tensor for name, tensor in huge.items() if name != skip_name(0)}
    with pytest.raises(HostError, match="made for a model of other layers"):
        network.merge(less)

    class Other:
        pass

    with pytest.raises(HostError, match="works on a model of the command line's"):
        StudentNetwork(Other(), DESIGN)


# --- one picture ---


@pytest.fixture
def trained(file):
    return read_student(file).on(tiny_host())


def test_pictures_of_any_sides_keep_their_size(trained):
    image = picture(2, 104)[..., :70, :101]
    assert translate_with_student(trained, image, student_params()).shape == image.shape


def test_a_kept_background_is_the_renders(trained):
    image, mask = picture(), torch.zeros(1, 1, 64, 64)
    mask[..., 16:48, 16:48] = 1
    found = translate_with_student(trained, image, student_params(background="keep", mask="file"), mask)
    free = translate_with_student(trained, image, student_params(mask="file"), mask)
    assert torch.equal(found[..., :4, :], image[..., :4, :])
    torch.testing.assert_close(found[..., 24:40, 24:40], free[..., 24:40, 24:40], rtol=0, atol=1e-6)  # soft edges
    assert not torch.allclose(free[..., :4, :], image[..., :4, :], atol=0.01)


@pytest.mark.parametrize("colour", ["lowpass", "statistics"])
def test_colours_can_be_brought_back(trained, colour):
    image = picture()
    drift = [
        (translate_with_student(trained, image, student_params(colour=way)) - image).mean((2, 3)).abs().max()
        for way in ("off", colour)
    ]
    assert student_params().colour == "off" and drift[1] < 0.3 * drift[0]


def test_nan_is_told(trained):
    trained.host.unet.conv_in.weight.data.fill_(float("nan"))
    with pytest.raises(HostError, match="the model gave NaN: use --dtype float32"):
        translate_with_student(trained, picture(), student_params())


def test_its_pictures_say_which_student_made_them(trained, file, tmp_path):
    from lib_negtrans.models.standalone import ModelChoice
    from lib_negtrans.runners.runner import make_item
    from lib_negtrans.translation.folder import plan
    from lib_negtrans.translation.student import StudentJob, StudentTranslator

    Image.fromarray((picture()[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(tmp_path / "a.png")
    job = StudentJob(ModelChoice(""), StudentChoice(file), student_params(colour="lowpass"))
    student = read_student(file)
    made = make_item(StudentTranslator(student, trained, job), plan(tmp_path / "a.png", tmp_path / "out")[0])
    assert made.forwards.total == 1
    text = Image.open(made.path).text
    pairs = parse_infotext(text["parameters"])[2]
    assert pairs["NegTrans student"] == "quick" and student.sha256.startswith(pairs["NegTrans student hash"])
    assert pairs["NegTrans colour"] == "lowpass" and pairs["Steps"] == "1" and "CFG scale" not in pairs
    assert settings_from_infotext(text["parameters"]) == {}
    told = json.loads(text["negtrans"])
    assert told["student"] == {"name": "quick", "sha256": student.sha256, "base": trained.host.model_hash}
    assert set(told["params"]) == {"colour", "colour_strength", "mask", "background"}
