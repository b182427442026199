"""An extension of the tests: sd-webui-controlnet knows ControlNets of SD1.5's size, here the loaded UNet's."""

import sys

from modules import script_callbacks


def _model_loaded(model):
    unet = model.model.diffusion_model
    guess = sys.modules["scripts.controlnet_model_guess"]
    guess.controlnet_default_config.update(model_channels=unet.model_channels, num_heads=unet.num_heads)


script_callbacks.on_model_loaded(_model_loaded)
