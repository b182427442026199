"""What other extensions put on the host's objects, and what they read from them, during a translation."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn


class Denoiser(nn.Module):
    def apply_model(self):
        """As the checkpoint's, which the host has replaced in its class."""


@pytest.fixture
def a1111(fake_host):
    from lib_negtrans.apps.webui.a1111 import denoiser

    return denoiser


@pytest.fixture
def job():
    wrapped = Denoiser()
    wrapped.inner_model = Denoiser()
    return SimpleNamespace(sampler=SimpleNamespace(model_wrap_cfg=wrapped), sd_model=Denoiser())


@pytest.mark.parametrize(
    ("owner", "method"),
    [
        pytest.param(lambda p: p.sampler.model_wrap_cfg, "forward", id="DemoFusion"),
        pytest.param(lambda p: p.sampler.model_wrap_cfg.inner_model, "forward", id="MultiDiffusion"),
        pytest.param(lambda p: p.sd_model, "apply_model", id="Mixture of Diffusers"),
    ],
)
def test_tiles_are_refused_until_what_cuts_them_is_gone(fake_host, job, owner, method):
    from lib_negtrans.apps.webui.host import host
    from lib_negtrans.apps.webui.refusal import TranslationRefused

    host().refuse_sampler(job)
    its = getattr(owner(job), method)
    setattr(owner(job), method, lambda: None)
    with pytest.raises(TranslationRefused, match="cuts the picture into tiles"):
        host().refuse_sampler(job)
    setattr(owner(job), method, its)  # put back as Mixture of Diffusers does: it stays on the object
    host().refuse_sampler(job)


def test_other_extensions_are_told_the_step_of_the_photograph_not_that_of_both_directions(a1111):
    module, theirs = a1111.sd_samplers_cfg_denoiser, SimpleNamespace(sampling_step=12, sampling_steps=18, skipped=True)
    module.state = a1111.shared.state = theirs
    cfg_denoiser = SimpleNamespace(step=3, total_steps=9)
    with pytest.raises(RuntimeError), a1111.guided_steps_counted(cfg_denoiser):
        assert (module.state.sampling_step, module.state.sampling_steps, module.state.skipped) == (3, 9, True)
        raise RuntimeError
    assert module.state is theirs


def test_training_waits_until_they_have_let_go_of_a_failed_pictures_model(fake_host):
    from lib_negtrans.models import a1111
    from lib_negtrans.models.protocol import HostError

    a1111.devices.fp8 = False
    info = SimpleNamespace(filename="model.safetensors", model_name="model")
    model = Denoiser()
    model.sd_checkpoint_info, model.is_sd1, model.parameterization = info, True, "eps"
    model.model = Denoiser()
    model.model.conditioning_key, model.model.diffusion_model = "crossattn", Denoiser()
    host = a1111.WebuiHost(model)
    host.refuse_training()
    host.unet.forward = lambda x: x
    host.refuse_training()  # whose this is, nobody knows
    host.unet._original_forward = None
    with pytest.raises(HostError, match="ControlNet still holds the model"):
        host.refuse_training()
    del host.unet._original_forward
    model.apply_model = lambda x: x
    with pytest.raises(HostError, match="Tiled Diffusion still holds the model"):
        host.refuse_training()
