"""Forge's side of a translation on a stand-in for its backend: rows, guidance, masks, and nothing that stays."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from lib_negtrans.core.attention import AttentionShapeError
from lib_negtrans.core.guidance import Concept, Guidance
from lib_negtrans.core.guidance.perp import Perp
from lib_negtrans.core.guidance.sega import Sega
from lib_negtrans.core.tac import TacPlan
from tests.fakehost import forge

COND, OTHER, UNCOND, EMPTY = (torch.full((1, 77, 1), value) for value in (0.5, 0.3, -0.4, 0.1))


def noise(z, context):
    """A model whose prediction hangs on the prompt differently at every place."""
    return 0.2 * z + context.mean((1, 2))[:, None, None, None] * (1.5 + z.sin())


@pytest.fixture
def module(fake_host, monkeypatch, tmp_path):
    forge.install(monkeypatch, fake_host, tmp_path)
    from lib_negtrans.apps.webui.forge import denoiser

    composed = [[(0, 1.0)]]
    for name, stand_in in (
        ("reconstruct_multicond_batch", lambda cond, step: (composed, None)),
        ("reconstruct_cond_batch", lambda cond, step: cond),
    ):
        monkeypatch.setattr(denoiser.prompt_parser, name, stand_in, raising=False)
    denoiser.composed = composed
    return denoiser


class Recorder:
    """An attention control that writes down what it was told."""

    layers = ("IN01",)

    def __init__(self):
        self.rows = []

    @contextmanager
    def inject(self, features, rows, strengths=None):
        self.rows.append(list(rows))
        yield


def made(
    module,
    cond,
    *,
    of_image=(0,),
    guide=None,
    both=False,
    needs_empty=False,
    scale=7.5,
    mask=None,
    after=(),
    concepts=(),
):
    """A denoiser of ours on a patched UNet, after `__init__`; cond: (context, weight) pairs."""
    patcher = forge.Patcher(noise)
    patcher.model_options["sampler_post_cfg_function"] = list(after)
    ours = object.__new__(module.ForgeDenoiser)
    count = len(of_image)
    conds = [{**forge.compile_conditions(c.expand(count, -1, -1))[0], "strength": w} for c, w in cond]
    uncond = forge.compile_conditions(UNCOND.expand(count, -1, -1))
    ours.sampler = SimpleNamespace(sampler_extra_args={"cond": None, "cond_scale": scale})
    ours._cfg_denoiser = forge.CfgDenoiser([patcher], conds, uncond)
    ours._cfg_denoiser.mask = mask
    ours.p = SimpleNamespace(cfg_scale=scale, scripts=None)
    ours.schedule = SimpleNamespace(timestep=lambda position: 100 * position, __len__=lambda self: 3)
    ours.schedule = type("Grid", (), {"timestep": lambda self, position: 100 * position, "__len__": lambda self: 3})()
    ours.of_image, ours.control, ours.guide = list(of_image), Recorder(), guide or Guidance("cfg")
    ours.tac = SimpleNamespace(layers=("IN01",), both_halves=both, strengths=lambda step: {})
    ours._needs_empty, ours._empty_context = needs_empty, EMPTY
    ours._concepts = dict(concepts)
    ours._injection, ours._step, ours._theirs = None, 0, patcher
    ours._patcher = ours._patched(patcher)
    return ours


Z = torch.linspace(-1, 1, 64).reshape(1, 4, 4, 4)


def test_a_prediction_at_any_timestep_is_the_models_own(module):
    from lib_negtrans.models.forge import predict_noise

    for timestep in (0, 1, 281, 999):
        found = predict_noise(forge.Patcher(noise), Z, timestep, COND)
        torch.testing.assert_close(found, noise(Z, COND), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("cond", "of_image", "both", "rows"),
    [
        ([(COND, 1.0)], [0, 1], False, [-1, -1, 0, 1]),
        ([(COND, 1.0)], [0, 0], True, [0, 0, 0, 0]),
        ([(COND, 1.0), (OTHER, 0.5)], [0], False, [-1, 0, 0]),
    ],
)
def test_rows_are_those_of_forges_list(module, cond, of_image, both, rows):
    ours = made(module, cond, of_image=of_image, both=both)
    module.composed[:] = [[(0, w) for _, w in cond]] * len(of_image)
    ours.guided(Z.expand(len(of_image), -1, -1, -1), 2, {})
    assert ours.control.rows == [rows]


def test_plain_guidance_is_forges_own(module):
    found = made(module, [(COND, 1.0)]).guided(Z, 2, None)
    cond, uncond = noise(Z, COND), noise(Z, UNCOND)
    torch.testing.assert_close(found, uncond + 7.5 * (cond - uncond), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["perp", "topk", "sega", "salience"])
def test_a_variant_takes_the_composed_prompt_the_negative_and_the_empty_one(module, kind):
    weights = [(COND, 1.0), (OTHER, 0.5)]
    module.composed[:] = [[(0, 1.0), (1, 0.5)]]
    found = made(module, weights, guide=Guidance(kind), needs_empty=True).guided(Z, 2, None)
    negative, empty = noise(Z, UNCOND), noise(Z, EMPTY)
    cond = negative + sum(w * (noise(Z, c) - negative) for c, w in weights)
    torch.testing.assert_close(found, Guidance(kind)(empty, cond, negative, 7.5, 1), rtol=0, atol=1e-3)


def test_the_empty_prompts_rows_take_the_sources_attention_and_later_calls_do_not(module):
    def self_attention_guidance(given):
        given["model_options"]["model_function_wrapper"](
            given["model"].apply_model,
            {"input": given["input"], "timestep": given["sigma"], "c": {"c_crossattn": COND}, "cond_or_uncond": [0]},
        )
        return given["denoised"]

    ours = made(module, [(COND, 1.0)], guide=Guidance("perp"), needs_empty=True, after=[self_attention_guidance])
    ours.guided(Z, 2, {})
    assert ours._theirs.calls == [2, 1, 1] and ours.control.rows == [[-1, 0], [0]]


WOOL, RED = (torch.full((1, 77, 1), value) for value in (0.7, -0.2))
CONCEPTS = [Concept("wool", Perp(), 0.5), Concept("red", Sega(warmup=0), -2.0), Concept("wool", Sega(warmup=0), 1.0)]


@pytest.mark.parametrize("scale", [7.5, 1.0])
def test_concepts_are_rows_of_the_same_attention_each_text_once(module, scale):
    module.composed[:] = [[(0, 1.0)], [(0, 1.0)]]
    ours = made(
        module, [(COND, 1.0)], of_image=(0, 1), guide=Guidance("topk", concepts=CONCEPTS), needs_empty=True,
        scale=scale, concepts={"wool": WOOL, "red": RED},
    )  # fmt: skip
    z = torch.cat([Z, Z.flip(-1)])
    found = ours.guided(z, 2, {})
    assert ours.control.rows == [[-1, -1, 0, 1], [0, 1], [0, 1], [0, 1]]
    texts = {"wool": noise(z, WOOL), "red": noise(z, RED)}
    expected = Guidance("topk", concepts=CONCEPTS)(noise(z, EMPTY), noise(z, COND), noise(z, UNCOND), scale, 1, texts)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


def test_at_scale_one_the_prompts_prediction_is_the_result(module):
    for guide in (Guidance("cfg"), Guidance("perp")):
        ours = made(module, [(COND, 1.0)], scale=1, guide=guide)
        torch.testing.assert_close(ours.guided(Z, 2, None), noise(Z, COND), rtol=0, atol=1e-4)
        assert ours._theirs.calls == [1]


def test_weights_of_and_are_relative_to_the_unconditional_at_scale_one_too(module):
    weights = [(COND, 1.0), (OTHER, 0.5)]
    module.composed[:] = [[(0, 1.0), (1, 0.5)]]
    uncond = noise(Z, UNCOND)
    expected = uncond + sum(w * (noise(Z, c) - uncond) for c, w in weights)
    torch.testing.assert_close(made(module, weights, scale=1).guided(Z, 2, None), expected, rtol=0, atol=1e-4)


def test_the_hosts_mask_is_off_during_the_call_and_on_again(module):
    ours = made(module, [(COND, 1.0)], mask="theirs")
    ours.guided(Z, 2, None)
    assert ours._cfg_denoiser.mask == "theirs"
    ours._cfg_denoiser.uncond = None  # now it fails
    with pytest.raises(TypeError):
        ours._cfg_denoiser.cond = None
        ours.guided(Z, 2, None)
    assert ours._cfg_denoiser.mask == "theirs" and ours._injection is None


def test_a_wrapper_of_another_extension_goes_on_and_one_that_takes_our_place_is_noticed(module):
    seen = []
    ours = made(module, [(COND, 1.0)])
    patcher = forge.Patcher(noise)
    patcher.model_options["model_function_wrapper"] = lambda apply, given: (
        seen.append(given["cond_or_uncond"]),
        apply(given["input"], given["timestep"], **given["c"]),
    )[1]
    ours._cfg_denoiser.patchers[-1] = ours._patcher = ours._patched(patcher)
    ours.guided(Z, 2, {})
    assert seen == [[1, 0]] and ours.control.rows == [[-1, 0]]
    del patcher.model_options["model_function_wrapper"]
    patcher.model_options["model_function_wrapper"] = lambda apply, given: apply(
        given["input"], given["timestep"], **given["c"]
    )
    with pytest.raises(AttentionShapeError, match="another extension"):
        ours.guided(Z, 2, {})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"is_sd1": False, "is_sdxl": True}, "is SDXL"),
        ({"is_sd1": False}, "another family"),
        ({"is_inpaint": True}, "inpainting"),
        ({"prediction": "edm"}, "'edm'"),
        ({"forge_objects": None}, "No checkpoint is loaded"),
        ({}, None),
        ({"prediction": "v_prediction"}, None),
    ],
)
def test_checkpoints_that_are_refused(module, changes, words):
    from lib_negtrans.models.forge import refuse_model
    from lib_negtrans.models.protocol import HostError

    patcher = forge.Patcher(noise)
    patcher.model.predictor.prediction_type = changes.pop("prediction", "epsilon")
    model = SimpleNamespace(**{
        "is_sd1": True, "is_inpaint": False, "forge_objects": SimpleNamespace(unet=patcher),
        "sd_checkpoint_info": SimpleNamespace(model_name="that"), **changes,
    })  # fmt: skip
    if words is None:
        refuse_model(model)
        return
    with pytest.raises(HostError, match=words):
        refuse_model(model)


def test_the_encoder_gives_the_mean_and_is_the_old_one_afterwards(module):
    from lib_negtrans.models.forge import mean_encoding

    class Vae:
        def __init__(self, regulation=None):
            self.patcher = self
            self.regulation = regulation

        def clone(self):
            return Vae()

        def set_model_vae_regulation(self, regulation):
            self.regulation = regulation

    vae = Vae()
    model = SimpleNamespace(forge_objects=SimpleNamespace(vae=vae))
    with pytest.raises(RuntimeError), mean_encoding(model):
        assert model.forge_objects.vae.regulation(SimpleNamespace(mode=lambda: "mean")) == "mean"
        assert vae.regulation is None
        raise RuntimeError
    assert model.forge_objects.vae is vae


def test_a_plan_for_no_layer_needs_no_rows(module):
    ours = made(module, [(COND, 1.0)])
    ours.tac = TacPlan.make([], [], 1.0, False)
    ours.guided(Z, 2, {})
    assert ours.control.rows in ([], [[-1, 0]])


@pytest.mark.parametrize(
    ("file", "tensors", "kind"),
    [
        ("a.gguf", None, "GGUF"),
        ("a.safetensors", {"w": torch.zeros(2).to(torch.float8_e4m3fn)}, "fp8"),
        ("a.safetensors", {"w.quant_state.bitsandbytes__nf4": torch.zeros(2, dtype=torch.uint8)}, "nf4"),
    ],
)
def test_quantised_files_are_not_trained_on(module, tmp_path, file, tensors, kind):
    from lib_negtrans.models.forge import own_copy
    from lib_negtrans.models.protocol import HostError

    path = tmp_path / file
    path.touch() if tensors is None else save_file(tensors, path)
    with pytest.raises(HostError, match=f"{kind} file.*choose"), own_copy(str(path), 1):
        pass


def test_forges_models_are_out_of_the_way_before_the_copy_is_loaded(module, monkeypatch, tmp_path):
    from lib_negtrans.models import forge as models

    seen = []
    monkeypatch.setattr(models.memory_management, "unload_all_models", lambda: seen.append("unloaded"), raising=False)
    monkeypatch.setattr(models.memory_management, "get_torch_device", lambda: "cpu", raising=False)
    monkeypatch.setattr(models.memory_management, "soft_empty_cache", lambda: seen.append("emptied"), raising=False)
    monkeypatch.setattr(models, "load_model", lambda *given, **more: seen.append((given, more)))
    save_file({"w": torch.zeros(2)}, tmp_path / "a.safetensors")
    with torch.inference_mode(), models.own_copy(str(tmp_path / "a.safetensors"), 2):
        assert not torch.is_inference_mode_enabled()
    path = str(tmp_path / "a.safetensors")
    assert seen == ["unloaded", ((path,), {"device": "cpu", "clip_skip": 2}), "emptied"]
