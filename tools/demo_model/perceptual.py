"""ST-LPIPS on AlexNet's features, from the weights that PyPI's `stlpips-pytorch` (BSD 2-Clause) carries.

The network is written here, because the package asks for torchvision; it gives the package's numbers to 1e-6.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PerceptualDistance(nn.Module):
    """(x, y), both (n, 3, h, w) in [-1, 1] -> distances (n,). Sides of at least 32 pixels."""

    def __init__(self):
        super().__init__()
        folder = Path(find_spec("stlpips_pytorch").submodule_search_locations[0])
        state = torch.load(folder / "weights/vST0.0/alex_shift_tolerant.pth", map_location="cpu", weights_only=True)
        for name, value in state.items():
            self.register_buffer(name.replace(".", "_"), value)

    def conv(self, x: Tensor, name: str, padding: int) -> Tensor:
        return F.conv2d(x, getattr(self, f"net_{name}_weight"), getattr(self, f"net_{name}_bias"), padding=padding)

    def halve(self, x: Tensor, name: str) -> Tensor:
        return F.conv2d(F.pad(x, (2,) * 4, "reflect"), getattr(self, f"net_{name}_filt"), stride=2, groups=x.shape[1])

    def features(self, x: Tensor) -> list[Tensor]:
        """Five maps, each scaled to length 1 over channels."""
        x = (x - self.scaling_layer_shift) / self.scaling_layer_scale
        x = F.relu(self.halve(self.conv(x, "slice1_0", 2), "slice1_1"))
        maps = [x]
        x = F.relu(self.conv(self.halve(F.max_pool2d(x, 3, 1), "slice2_4"), "slice2_5", 2))
        maps.append(x)
        x = F.relu(self.conv(self.halve(F.max_pool2d(x, 3, 1), "slice3_8"), "slice3_9", 1))
        maps.append(x)
        for name in ("slice4_11", "slice5_13"):
            x = F.relu(self.conv(x, name, 1))
            maps.append(x)
        return [m / (m.square().sum(1, keepdim=True) + 1e-12).sqrt() for m in maps]

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        total = 0
        for i, (a, b) in enumerate(zip(self.features(x), self.features(y), strict=True)):
            weight = getattr(self, f"lin{i}_model_1_weight")
            total = total + F.conv2d((a - b).square(), weight).mean((1, 2, 3))
        return total
