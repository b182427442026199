"""The inversions of earlier pictures in the webui: where they are kept, and when they are forgotten."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from modules import script_callbacks
from torch import nn

from lib_negtrans import memory
from lib_negtrans.core.features import FeatureBudget
from lib_negtrans.core.inversion import Trajectory
from lib_negtrans.memory import MIB
from lib_negtrans.translation.cache import TrajectoryCache, network_state

from .registration import register_once
from .settings import option

cache = TrajectoryCache()


def register() -> Callable[[], None]:
    """Forget everything when a checkpoint is loaded; the function given back does so when the scripts are unloaded."""
    register_once(script_callbacks.on_model_loaded, _model_loaded)
    return cache.clear


def _model_loaded(_model: Any) -> None:
    cache.clear()


def store(unet: nn.Module) -> Store | None:
    """Where one UNet's inversions are kept; None, and all forgotten, where the settings give them no memory."""
    if option("negtrans_cache_mb"):
        return Store(unet)
    cache.clear()
    return None


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
