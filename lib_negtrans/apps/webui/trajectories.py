"""The inversions of earlier pictures in the webui: what they depend on there, and when they are forgotten."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from typing import Any

import torch
from modules import devices, script_callbacks, shared
from torch import nn

from lib_negtrans import memory
from lib_negtrans.core.features import FeatureBudget
from lib_negtrans.core.inversion import Trajectory
from lib_negtrans.memory import MIB
from lib_negtrans.translation.cache import TrajectoryCache, network_state

from .registration import register_once
from .settings import option

cache = TrajectoryCache()
# settings of the host that change what the UNet computes
_OPTIONS = ("cross_attention_optimization", "upcast_attn", "fp8_storage", "cache_fp16_weight", "sd_vae")


def register() -> Callable[[], None]:
    """Forget everything when a checkpoint is loaded; the function given back does so when the scripts are unloaded."""
    register_once(script_callbacks.on_model_loaded, _model_loaded)
    return cache.clear


def _model_loaded(_model: Any) -> None:
    cache.clear()


def model_state(p: Any) -> Hashable | None:
    """What of the host an inversion depends on; None where something else takes part in it, or none is to be kept.

    Weights are not in here: LoRAs get into them with the first call only. `Store` looks at them.
    """
    unet = p.sd_model.model.diffusion_model
    # ControlNet keeps the former forward, which the inversion then calls unless the settings say otherwise
    hooked = "forward" in vars(unet) and (
        "_original_forward" not in vars(unet) or option("negtrans_controlnet_in_inversion")
    )
    if not option("negtrans_cache_mb"):
        cache.clear()
        return None
    if hooked:
        return None
    info = p.sd_model.sd_checkpoint_info
    return (
        info.filename,
        info.sha256,
        id(unet),
        str(devices.dtype_unet),
        str(devices.device),
        tuple((name, str(getattr(shared.opts, name, None))) for name in _OPTIONS),
        _networks(),
        tuple(sorted((str(net.name), float(net.multiplier)) for net in shared.loaded_hypernetworks)),
        tuple(p.image_conditioning.shape[1:]),
    )


def _networks() -> Hashable:
    """The LoRAs in force, each with its file's hash or time and its multipliers."""
    lora = sys.modules.get("networks")
    loaded = getattr(lora, "loaded_networks", None) or []
    return tuple(
        (
            net.name,
            getattr(net, "mtime", None),
            getattr(getattr(net, "network_on_disk", None), "hash", None),
            net.te_multiplier,
            net.unet_multiplier,
            str(net.dyn_dim),
        )
        for net in loaded
    )


class Store:
    """The inversions of one UNet, each for the weights that it ended with: LoRAs get into them with the first call."""

    def __init__(self, unet: nn.Module) -> None:
        self.unet = unet

    def get(self, key: Hashable) -> Trajectory | None:
        return cache.get((key, network_state(self.unet)))

    def put(self, key: Hashable, trajectory: Trajectory) -> None:
        cache.limit = int(option("negtrans_cache_mb")) * MIB
        cache.put((key, network_state(self.unet)), trajectory)


def feature_budget(device: torch.device) -> FeatureBudget:
    """Memory for captured features: the setting's, or what is free."""
    megabytes = option("negtrans_feature_mb")
    return memory.feature_budget(device, megabytes or None)
