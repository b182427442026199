"""The names of LoRA targets: those of kohya's trainer, whatever names the modules have."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from lib_negtrans.lora.names import is_convolution, is_text, lora_modules, lora_targets
from lib_negtrans.models.ldm_names import to_diffusers, to_ldm
from lib_negtrans.models.standalone import default_model_path, load_model
from tests.ldm_unet import UNetModel

SD15 = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8}


def kohya_names(root: nn.Module, prefix: str, classes: set[str]) -> set[str]:
    """As LoRANetwork.create_modules of sd-scripts makes them."""
    return {
        f"{prefix}.{name}.{child}".replace(".", "_")
        for name, module in root.named_modules()
        if type(module).__name__ in classes
        for child, leaf in module.named_modules()
        if type(leaf).__name__ in ("Linear", "Conv2d")
    }


@pytest.fixture(scope="module")
def sd15():
    """SD1.5's own sizes; without memory for them."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD15)
        text = CLIPTextModel(CLIPTextConfig(hidden_size=768, num_hidden_layers=12, num_attention_heads=12))
        return SimpleNamespace(unet=unet, text_encoder=text, ldm=UNetModel())


def test_the_targets_are_those_of_kohya(sd15):
    attention = kohya_names(sd15.unet, "lora_unet", {"Transformer2DModel"})
    convolutions = kohya_names(sd15.unet, "lora_unet", {"ResnetBlock2D", "Downsample2D", "Upsample2D"})
    text = kohya_names(sd15.text_encoder, "lora_te", {"CLIPAttention", "CLIPSdpaAttention", "CLIPMLP"})
    assert (len(attention), len(convolutions), len(text)) == (192, 86, 72)
    assert set(lora_targets(sd15, convolutions=False, text=False)) == attention
    assert set(lora_targets(sd15, text=False)) == attention | convolutions
    targets = lora_targets(sd15)
    assert set(targets) == attention | convolutions | text
    assert {name for name in targets if is_convolution(name)} == convolutions
    assert {name for name in targets if is_text(name)} == text
    parameters = sum(m.weight.shape[0] + m.weight[0].numel() for m in lora_targets(sd15, False, False).values())
    assert parameters == 423_936  # times the rank


def test_the_same_names_for_the_webuis_modules(sd15):
    webui = SimpleNamespace(unet=sd15.ldm, text_encoder=sd15.text_encoder)
    ours, theirs = lora_modules(sd15), lora_modules(webui)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].weight.shape == theirs[name].weight.shape for name in ours)
    assert lora_targets(sd15).keys() == lora_targets(webui).keys()


def test_the_map_is_diffusers_own(sd15):
    """Each tensor of an ldm UNet, renamed by diffusers and by us; and back again."""
    state = {f"model.diffusion_model.{name}": name for name in sd15.ldm.state_dict()}
    config = dict(sd15.unet.config)
    renamed = convert_ldm_unet_checkpoint(dict(state), config)
    assert renamed.keys() == sd15.unet.state_dict().keys()
    for diffusers, ldm in renamed.items():
        assert (to_diffusers(ldm), to_ldm(diffusers)) == (diffusers, ldm)


def test_the_demonstration_model_has_them_too(sd15):
    host = load_model(default_model_path(), device="cpu")
    unet = {name for name in lora_targets(host) if not is_text(name)}
    assert unet == {name for name in lora_targets(sd15) if not is_text(name)}
    assert len(lora_targets(host)) - len(unet) == 6 * host.text_encoder.config.num_hidden_layers
