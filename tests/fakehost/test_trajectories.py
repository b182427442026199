"""Earlier inversions in the webui: what they go by there, and when they are forgotten."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lib_negtrans.core.inversion import Trajectory
from lib_negtrans.core.schedule import Schedule, sd1_alphas_cumprod


def trajectory():
    return Trajectory(Schedule(sd1_alphas_cumprod(), (1,)), [torch.zeros(4)])


def job():
    unet = nn.Linear(2, 2)
    info = SimpleNamespace(filename="model.safetensors", sha256="abc")
    model = SimpleNamespace(model=SimpleNamespace(diffusion_model=unet), sd_checkpoint_info=info)
    return SimpleNamespace(sd_model=model, image_conditioning=torch.zeros(1, 5, 1, 1))


@pytest.fixture
def trajectories(fake_host, monkeypatch):
    from lib_negtrans.apps.webui import trajectories

    monkeypatch.setattr(trajectories, "option", lambda name: {"negtrans_cache_mb": 16}.get(name, 0))
    trajectories.cache.clear()
    yield trajectories
    trajectories.cache.clear()


@pytest.fixture
def a1111(fake_host):
    from lib_negtrans.apps.webui.a1111 import denoiser

    denoiser.shared.loaded_hypernetworks = []
    denoiser.devices.dtype_unet = denoiser.devices.device = "cpu"
    return denoiser


def kept(trajectories):
    return len(trajectories.cache._kept)


def test_they_are_forgotten_with_the_checkpoint_and_on_reload_ui(fake_host, trajectories):
    fake_host.load_scripts()
    unet = nn.Linear(2, 2)
    trajectories.Store(unet).put("key", trajectory())
    assert kept(trajectories) == 1
    for loaded in fake_host.callbacks["on_model_loaded"]:
        loaded(None)
    assert kept(trajectories) == 0
    trajectories.Store(unet).put("key", trajectory())
    fake_host.reload_ui()
    assert kept(trajectories) == 0


def test_weights_must_be_those_that_it_ended_with(trajectories):
    unet, found = nn.Linear(2, 2), trajectory()
    store = trajectories.Store(unet)
    store.put("key", found)
    assert store.get("key") is found
    with torch.no_grad():
        unet.weight.add_(1)  # a LoRA, merged in by whatever extension
    assert store.get("key") is None


def test_without_memory_for_them_they_are_neither_kept_nor_looked_up(trajectories, monkeypatch):
    trajectories.Store(nn.Linear(2, 2)).put("key", trajectory())
    monkeypatch.setattr(trajectories, "option", lambda name: 0)
    assert trajectories.store(nn.Linear(2, 2)) is None and kept(trajectories) == 0


def test_what_the_state_of_the_model_is_made_of(a1111, monkeypatch):
    p = job()
    plain = a1111.model_state(p)
    assert plain == a1111.model_state(p)
    network = SimpleNamespace(
        name="lora", mtime=1.0, network_on_disk=SimpleNamespace(hash="x"), te_multiplier=1.0, unet_multiplier=1.0,
        dyn_dim=None,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "networks", SimpleNamespace(loaded_networks=[network]))
    with_lora = a1111.model_state(p)
    network.unet_multiplier = 0.5
    weaker = a1111.model_state(p)
    a1111.shared.loaded_hypernetworks = [SimpleNamespace(name="hyper", multiplier=1.0)]
    with_hypernetwork = a1111.model_state(p)
    p.sd_model.sd_checkpoint_info.sha256 = "def"
    assert len({plain, with_lora, weaker, with_hypernetwork, a1111.model_state(p)}) == 5


def test_a_replaced_forward_is_not_vouched_for(a1111, monkeypatch):
    monkeypatch.setattr(a1111, "option", lambda name: False)
    p = job()
    unet = p.sd_model.model.diffusion_model
    unet.forward = lambda x: x
    assert a1111.model_state(p) is None
    # ControlNet's, which the inversion goes round, unless the settings want it in there
    unet._original_forward = nn.Linear.forward
    assert a1111.model_state(p) is not None
    monkeypatch.setattr(a1111, "option", lambda name: True)
    assert a1111.model_state(p) is None
