"""What a translation keeps of its source beside texture: colours, details, flat ground, and with a mask the background.

For every host.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lib_negtrans.core.colour import PIXEL_WAYS, preserve_latent, preserve_pixels, to_latent_size
from lib_negtrans.pictures.flat import free_of_flat_ground
from lib_negtrans.pictures.masks import soft

from .params import TranslationParams


def controlled_region(params: TranslationParams, mask: Tensor | None, size: tuple[int, int]) -> Tensor | None:
    """Where attention control acts, at the latent's (height, width): on the garment, so that its background is free.

    None is everywhere: without a mask (B or 1, 1, H, W), and where the background is put back anyway.
    """
    return to_latent_size(mask, size) if mask is not None and params.background == "translate" else None


def free_share(params: TranslationParams, pictures: Tensor, mask: Tensor | None) -> Tensor | None:
    """The share (B, 1, H, W) of each pixel of pictures (B, 3, H, W) that may change; None where all may.

    What a mask (B or 1, 1, H, W) calls garment may, and where the background is put back there is nothing to hold.
    H and W are multiples of 8.
    """
    if params.flat_background != "hold" or (mask is not None and params.background == "keep"):
        return None
    free = torch.cat([free_of_flat_ground(picture.float().cpu()) for picture in pictures])
    if mask is not None:
        free = torch.maximum(free, mask.cpu().float())
    return None if bool((free == 1).all()) else free.to(pictures.device)


def finished_picture(
    params: TranslationParams,
    latent: Tensor,
    source_latent: Tensor,
    source: Tensor,
    mask: Tensor | None,
    decode: Callable[[Tensor], Tensor],
    decode_source: Callable[[Tensor], Tensor] | None = None,
    free: Tensor | None = None,
) -> Tensor:
    """The picture (B, 3, H, W) in [0, 1] of a translated latent, with what is kept of its source.

    source: the picture itself, mask (B or 1, 1, H, W) or None; decode: latent -> picture. Colours are compared with the
    source as the VAE shows it: what the VAE changes is not the translation's drift. That takes a decoding of its own,
    by decode_source where it is given (the source may have been decoded before). free: `free_share`'s.
    """
    strength = params.colour_strength if params.colour != "off" else 0.0
    coloured = mask if free is None else free if mask is None else mask * free.to(mask)
    if strength and params.colour not in PIXEL_WAYS:
        region = None if coloured is None else to_latent_size(coloured, (latent.shape[-2], latent.shape[-1]))
        latent = preserve_latent(latent, source_latent, strength, region)
    picture = decode(latent)
    colours = strength and params.colour in PIXEL_WAYS
    if colours or params.adds_to_render or free is not None:
        shown = (decode_source or decode)(source_latent).to(picture)
        if colours:
            picture = preserve_pixels(picture, shown, params.colour, strength, coloured)
        if params.adds_to_render:
            shown, picture = source.to(picture), (source.to(picture) + picture - shown).clamp(0, 1)
        if free is not None:  # what the VAE lets through from the cells beside
            share = soft(free).to(picture)
            picture = share * picture + (1 - share) * shown
    if mask is not None and params.background == "keep":
        share = soft(mask).to(picture)
        picture = share * picture + (1 - share) * source.to(picture)
    return picture
