"""Colour and tone of the source put back into a translation: pure functions on pictures and latents.

Guidance away from "rendered" also moves colours (METHOD.md 4). What texture is, is fine; what drifts, is coarse: so the
coarse part is taken from the source and the fine part from the translation, in CIE L*a*b* or in the latent. Only
"lightness" takes a* and b* wholly from the source.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

PIXEL_WAYS = ("lightness", "lowpass", "statistics")
LATENT_WAYS = ("latent",)
WAYS = PIXEL_WAYS + LATENT_WAYS

# Deviations of the Gaussians, as shares of the picture's shorter side. Texture and shading, which a translation is to
# change, are lightness: that is held coarsely, and chroma finely.
LIGHTNESS_RADIUS, CHROMA_RADIUS = 1 / 20, 1 / 64
LATENT_RADIUS = 1 / 20

# IEC 61966-2-1 and CIE 15, white point D65, 2 degrees: the figures that scikit-image uses
_RGB_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)
_KAPPA, _EPSILON = 7.787, 0.008856


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """sRGB (B, 3, H, W) in [0, 1] -> CIE L*a*b* of the same shape, L* in [0, 100], float32."""
    rgb = rgb.float()
    linear = torch.where(rgb > 0.04045, ((rgb.clamp_min(0) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = _mix(_RGB_TO_XYZ, linear) / linear.new_tensor(_WHITE).view(1, 3, 1, 1)
    f = torch.where(xyz > _EPSILON, xyz.clamp_min(_EPSILON) ** (1 / 3), _KAPPA * xyz + 16 / 116)
    x, y, z = f.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """The inverse of `rgb_to_lab`; colours outside sRGB are clipped to [0, 1]."""
    light, a, b = lab.float().unbind(1)
    y = (light + 16) / 116
    f = torch.stack([y + a / 500, y, y - b / 200], 1)
    xyz = torch.where(f > _EPSILON ** (1 / 3), f**3, (f - 16 / 116) / _KAPPA)
    inverse = torch.linalg.inv(torch.tensor(_RGB_TO_XYZ, dtype=torch.float64)).tolist()
    linear = _mix(inverse, xyz * xyz.new_tensor(_WHITE).view(1, 3, 1, 1))
    rgb = torch.where(linear > 0.0031308, 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055, 12.92 * linear)
    return rgb.clamp(0, 1)


def _mix(matrix, channels: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", channels.new_tensor(matrix), channels)


def blur(values: Tensor, deviation: float, weight: Tensor | None = None) -> Tensor:
    """Gaussian low-pass of (B, C, H, W), borders repeated; weight (B, 1, H, W) >= 0: only where it is counts.

    With a weight it is the normalised convolution blur(w v) / blur(w): nothing bleeds in from outside a mask.
    """
    if weight is not None:
        total = blur(weight, deviation)
        return blur(values * weight, deviation) / total.clamp_min(1e-4)
    reach = max(1, math.ceil(3 * deviation))
    taps = torch.arange(-reach, reach + 1, device=values.device, dtype=values.dtype)
    kernel = torch.exp(-0.5 * (taps / max(deviation, 1e-3)) ** 2)
    kernel = kernel / kernel.sum()
    batch, channels, height, width = values.shape
    rows = values.reshape(batch * channels, 1, height, width)
    rows = conv2d(pad(rows, (reach, reach, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))
    rows = conv2d(pad(rows, (0, 0, reach, reach), mode="replicate"), kernel.view(1, 1, -1, 1))
    return rows.reshape(values.shape)


def preserve_pixels(
    image: Tensor, source: Tensor, way: str, strength: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    """A translation (B, 3, H, W) in [0, 1] with the colours of its source, of the same shape.

    way "lightness": a* and b* are the source's, and so is the low-passed lightness: cloth is lively in its lightness,
    and coloured specks and fringes are the model's. "lowpass": the low-passed difference of the two in L*a*b* is added,
    so that detail stays the translation's.
    "statistics": mean and deviation of each L*a*b* channel become the source's (Reinhard et al. 2001).
    strength in [0, 1]; mask (B or 1, 1, H, W) in [0, 1]: only there, and nothing bleeds in from outside.
    Raises ValueError for another way or shape.
    """
    if way not in PIXEL_WAYS:
        raise ValueError(f"the way must be one of {', '.join(PIXEL_WAYS)}, not {way!r}.")
    if image.shape != source.shape:
        raise ValueError(f"translation and source must be of one shape, not {image.shape} and {source.shape}.")
    if strength <= 0 or (mask is not None and not mask.any()):
        return image
    ours, theirs = rgb_to_lab(image), rgb_to_lab(source.to(image))
    weight = None if mask is None else mask.to(ours).expand(len(ours), -1, -1, -1)
    own = ours
    if way == "lightness":  # clipped to sRGB before its drift is measured
        own = rgb_to_lab(lab_to_rgb(torch.cat([ours[:, :1], theirs[:, 1:]], 1)))
    wanted = _statistics(own, theirs, weight) if way == "statistics" else _lowpass(own, theirs, weight)
    amount = strength if weight is None else strength * weight
    # both went through the conversion, so that no difference changes nothing
    return (image + amount * (lab_to_rgb(wanted) - lab_to_rgb(ours))).clamp(0, 1).to(image.dtype)


def _lowpass(ours: Tensor, theirs: Tensor, weight: Tensor | None) -> Tensor:
    side = min(ours.shape[-2:])
    lightness, chroma = (theirs - ours).split((1, 2), dim=1)
    return ours + torch.cat(
        [blur(lightness, LIGHTNESS_RADIUS * side, weight), blur(chroma, CHROMA_RADIUS * side, weight)], 1
    )


def _statistics(ours: Tensor, theirs: Tensor, weight: Tensor | None) -> Tensor:
    (mean, deviation), (target, wanted) = _moments(ours, weight), _moments(theirs, weight)
    return (ours - mean) * (wanted / deviation.clamp_min(1e-3)).clamp(0.5, 2.0) + target


def _moments(values: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and deviation (B, C, 1, 1) of each channel, under a weight (B, 1, H, W)."""
    w = torch.ones_like(values[:, :1]) if weight is None else weight
    total = w.sum((2, 3), keepdim=True).clamp_min(1e-6)
    mean = (values * w).sum((2, 3), keepdim=True) / total
    return mean, (((values - mean) ** 2 * w).sum((2, 3), keepdim=True) / total).sqrt()


def preserve_latent(latent: Tensor, source: Tensor, strength: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """A translated latent (B, 4, h, w) with the low frequencies of its source's; mask (B or 1, 1, h, w) in [0, 1].

    Of each channel the detail is also no stronger than the source's: guidance makes it 1.2 (CFG scale 7.5) to 4 times
    as strong (20), and the decoder turns stronger detail into other colours, more than half of the drift.
    Costs nothing, and the VAE smooths what would look pasted; but a latent's channels mix colour with structure, so it
    gives up more of the translation for the same colours than "lowpass" does.
    """
    if strength <= 0 or (mask is not None and not mask.any()):
        return latent
    weight = None if mask is None else mask.to(latent).expand(len(latent), -1, -1, -1)
    source, radius = source.to(latent), LATENT_RADIUS * min(latent.shape[-2:])
    coarse, wanted = blur(latent, radius, weight), blur(source, radius, weight)
    (_, deviation), (_, most) = _moments(latent - coarse, weight), _moments(source - wanted, weight)
    gain = (most / deviation.clamp_min(1e-6)).clamp_max(1.0)
    shift = wanted - coarse + (gain - 1) * (latent - coarse)
    return latent + (strength if weight is None else strength * weight) * shift


def to_latent_size(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask (B, 1, H, W) in [0, 1] at a latent's (height, width): each cell the share of it that is covered."""
    return interpolate(mask.float(), size=size, mode="area")
