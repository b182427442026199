"""What a translation keeps of its source beside texture: colours, and with a mask the background. For every host."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lib_negtrans.core.colour import PIXEL_WAYS, preserve_latent, preserve_pixels, to_latent_size
from lib_negtrans.pictures.masks import soft

from .params import TranslationParams


def controlled_region(params: TranslationParams, mask: Tensor | None, size: tuple[int, int]) -> Tensor | None:
    """Where attention control acts, at the latent's (height, width): on the garment, so that its background is free.

    None is everywhere: without a mask (B or 1, 1, H, W), and where the background is put back anyway.
    """
    return to_latent_size(mask, size) if mask is not None and params.background == "translate" else None


def finished_picture(
    params: TranslationParams,
    latent: Tensor,
    source_latent: Tensor,
    source: Tensor,
    mask: Tensor | None,
    decode: Callable[[Tensor], Tensor],
    decode_source: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The picture (B, 3, H, W) in [0, 1] of a translated latent, with the source's colours and kept background.

    source: the picture itself, mask (B or 1, 1, H, W) or None; decode: latent -> picture. Colours are compared with the
    source as the VAE shows it: what the VAE changes is not the translation's drift. That takes a decoding of its own,
    by decode_source where it is given (the source may have been decoded before).
    """
    strength = params.colour_strength if params.colour != "off" else 0.0
    if strength and params.colour not in PIXEL_WAYS:
        region = None if mask is None else to_latent_size(mask, (latent.shape[-2], latent.shape[-1]))
        latent = preserve_latent(latent, source_latent, strength, region)
    picture = decode(latent)
    if strength and params.colour in PIXEL_WAYS:
        picture = preserve_pixels(
            picture, (decode_source or decode)(source_latent).to(picture), params.colour, strength, mask
        )
    if mask is not None and params.background == "keep":
        share = soft(mask).to(picture)
        picture = share * picture + (1 - share) * source.to(picture)
    return picture
