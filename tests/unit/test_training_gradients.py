"""The gradients of LoRAs and full finetunes are those of the loss, by finite differences in float64."""

from __future__ import annotations

import pytest
import torch

from lib_negtrans.models.standalone import StandaloneHost, load_tokenizer
from lib_negtrans.training.kinds import KINDS
from lib_negtrans.training.objective import Rows, model_with
from lib_negtrans.training.positive_params import FullParams, LoraParams
from tests.ldm_unet import UNetModel
from tests.tiny_model import WIDTH, ldm_state, tiny_networks


class LdmHost(StandaloneHost):
    """The same model with ldm's modules, as the webui holds it."""

    def predict_noise(self, latent, timestep, context):
        return self.unet(latent, torch.as_tensor(timestep), context)


def make_host(kind):
    networks = tiny_networks()
    host = (LdmHost if kind == "ldm" else StandaloneHost)(networks, load_tokenizer(), device="cpu", dtype=torch.float64)
    if kind == "ldm":
        prefix = "model.diffusion_model."
        unet = UNetModel((32, 32, 64, 64), WIDTH, 8)
        unet.load_state_dict({k[len(prefix) :]: v for k, v in ldm_state(networks).items() if k.startswith(prefix)})
        host.unet = unet.double().eval().requires_grad_(False)
    return host


@pytest.fixture(scope="module", params=["diffusers", "ldm"])
def host(request):
    return make_host(request.param)


def rows(seed=0):
    generator = torch.Generator().manual_seed(seed)
    latent, noise = (torch.randn(2, 4, 16, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    return Rows(latent, noise, torch.tensor([120, 700]), ("a red coat", "a photo"))


def trainable(kind, host, **values):
    if kind == "full":
        return KINDS["full"](host, FullParams(text_encoder=True, **values), "x")
    made = KINDS["lora"](host, LoraParams(rank=2, alpha=3.0, conv_rank=3, text_encoder=True, **values), "x")
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in made.weights.items():
            if name.endswith("lora_up.weight"):
                tensor.copy_(0.05 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
    return made


def loss(made, name="photos", weight=1.0):
    with made.applied(made.weights) as embeddings:
        model = model_with(made.host, embeddings, lambda: made.applied(None))
        return made.terms()[name][0](model, rows()).mean() * weight


def gradient(made, **options):
    return torch.autograd.grad(loss(made, **options), list(made.weights.values()))


GROUPS = {
    "lora": {
        "linear": lambda name: "attn2_to_k" in name, "1x1": lambda name: "proj_in" in name,
        "3x3": lambda name: "resnets_0_conv1" in name, "sampler": lambda name: "samplers" in name,
        "time": lambda name: "time_emb_proj" in name, "text": lambda name: name.startswith("lora_te"),
    },
    "full": {
        "unet": lambda name: name.startswith("unet"), "text": lambda name: name.startswith("text"),
        "norms": lambda name: "norm" in name or "in_layers.0" in name,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_gradients_equal_finite_differences(host, kind):
    made = trainable(kind, host)
    found = dict(zip(made.weights, gradient(made), strict=True))
    for group, chosen in GROUPS[kind].items():
        generator = torch.Generator().manual_seed(1)
        names = [name for name in made.weights if chosen(name)]
        # along the gradient itself, disturbed: a random way alone is nearly orthogonal to it
        ways = {}
        for name in names:
            g = found[name]
            noise = torch.randn(g.shape, generator=generator, dtype=torch.float64) * g.square().mean().sqrt()
            ways[name] = g + noise
        size = sum(way.square().sum() for way in ways.values()).sqrt()
        step, values = 1e-5 / float(size), []
        for sign in (1, -1):
            with torch.no_grad():
                for name in names:
                    made.weights[name].add_(ways[name], alpha=sign * step)
                values.append(float(loss(made)))
                for name in names:
                    made.weights[name].sub_(ways[name], alpha=sign * step)
        numeric = (values[0] - values[1]) / (2 * step)
        exact = float(sum((found[name] * ways[name]).sum() for name in names))
        assert len(names) > 3 and abs(exact) > 0
        assert numeric == pytest.approx(exact, rel=1e-3), group


@pytest.mark.parametrize("prior", ["base", "class"])
def test_the_weight_changes_the_gradient_as_the_formula_says(prior):
    host = make_host("diffusers")
    made = trainable("lora", host, prior=prior, prior_weight=0.7)
    (_, one), (_, weight) = made.terms().values()
    assert (one, weight) == (1.0, 0.7)
    photos, preserved = gradient(made), gradient(made, name="prior")
    with made.applied(made.weights) as embeddings:
        model = model_with(host, embeddings, lambda: made.applied(None))
        total = sum(term(model, rows()).mean() * w for term, w in made.terms().values())
        both = torch.autograd.grad(total, list(made.weights.values()))
    for a, b, c in zip(photos, preserved, both, strict=True):
        assert torch.allclose(c, a + 0.7 * b, rtol=1e-9, atol=1e-14)
    assert max(float(b.norm()) for b in preserved) > 0
    assert list(trainable("lora", host, prior=prior, prior_weight=0.0).terms()) == ["photos"]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_base_prediction_is_that_of_the_untrained_model(kind):
    """Its loss is 0 to the bit before the first step, and not after it; its target has no gradient."""
    host = make_host("diffusers")
    made = trainable(kind, host, prior="base")
    with torch.no_grad():
        if kind == "lora":
            kept = {name: tensor.clone() for name, tensor in made.weights.items()}
            for name, tensor in made.weights.items():
                if name.endswith("lora_up.weight"):
                    tensor.zero_()
        assert float(loss(made, name="prior")) == 0.0
        if kind == "lora":
            for name, tensor in made.weights.items():
                tensor.copy_(kept[name])
        else:
            next(iter(made.weights.values())).mul_(1.1)
        assert float(loss(made, name="prior")) > 0.0
