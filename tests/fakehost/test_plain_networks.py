"""A training begins with the weights themselves, whatever LoRA the last picture had."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import torch
from torch import nn


def test_the_last_pictures_lora_is_out_of_the_weights_before_anybody_copies_them(fake_host, monkeypatch):
    """The host's Lora extension alone would put them back at a layer's next forward, into what is in its place then."""
    layer, own = nn.Linear(2, 2), torch.ones(2, 2)
    layer.weight.data = own + 5.0
    layer.network_current_names = (("some-lora", 1.0, 1.0, None),)
    lora = SimpleNamespace(loaded_networks=[SimpleNamespace(name="some-lora")])

    def network_apply_weights(module):  # as the extension does it
        assert lora.loaded_networks == []
        module.weight.copy_(own)
        module.network_current_names = ()

    lora.network_apply_weights = network_apply_weights
    monkeypatch.setitem(sys.modules, "networks", lora)
    fake_host.modules["modules.shared"].loaded_hypernetworks = []
    fake_host.modules["modules.sd_models"].model_data = SimpleNamespace(sd_model=nn.Sequential(layer, nn.ReLU()))
    from lib_negtrans.models.a1111 import plain_networks

    with plain_networks():
        assert torch.equal(layer.weight, own)
    assert [network.name for network in lora.loaded_networks] == ["some-lora"]
