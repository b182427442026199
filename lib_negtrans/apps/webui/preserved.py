"""What a translation in the webui keeps of its source: masks found in the picture, colours, details and flat
ground put back before saving.

A mask that was painted (the Inpaint tab, the API's `mask`) is the host's own affair and goes before any of ours. One of
ours with "keep" is handed to the host as if it had been painted; with "translate" it only says where the garment is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from modules import devices, images, processing, shared
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from lib_negtrans import TITLE
from lib_negtrans.core.colour import to_latent_size
from lib_negtrans.memory import free_memory, is_out_of_memory
from lib_negtrans.pictures.flat import free_cells
from lib_negtrans.pictures.images import MULTIPLE, ImageError, picture_from_pil
from lib_negtrans.pictures.masks import Found, find_mask
from lib_negtrans.translation.params import TranslationParams
from lib_negtrans.translation.preservation import finished_picture, free_share

from .refusal import TranslationRefused

# what handing a mask to the host changes on its processing object, and what the host then leaves there
HANDED_OVER = (
    "image_mask", "inpainting_fill", "inpaint_full_res", "inpainting_mask_invert", "mask", "nmask", "mask_for_overlay",
    "overlay_images",
)  # fmt: skip


class Keeper:
    """For one job: its garment mask, and the finishing of its pictures."""

    def __init__(self, p: Any, params: TranslationParams) -> None:
        self.p, self.params = p, params
        self._mask: Tensor | None = None  # (B or 1, 1, H, W), for the background that is translated apart
        self._free: Tensor | None = None  # (B or 1, 1, H, W), what of it is not held
        self._pictures: Tensor | None = None  # (B or 1, 3, H, W), what the host encodes, where it does so as a whole

    def find(self) -> None:
        """Look for mask and flat background as the parameters ask; before the host's `init`.

        Raises TranslationRefused.
        """
        self._find_mask()
        p, ground = self.p, shared.opts.img2img_background_color
        holds = p.image_mask is None and self.params.flat_background == "hold"
        encoded = p.resize_mode != 3 and (p.image_mask is None or (not p.inpaint_full_res and p.inpainting_fill == 1))
        adds = encoded and self.params.adds_to_render
        if not (holds or adds):
            return
        whole = (..., slice(p.height // MULTIPLE * MULTIPLE), slice(p.width // MULTIPLE * MULTIPLE))
        pictures = torch.stack([_tensor(self._fitted(images.flatten(image, ground))) for image in p.init_images])[whole]
        if holds:
            mask = None if self._mask is None else self._mask[whole]
            self._free = free_share(self.params, pictures, mask)
        if adds:
            self._pictures = pictures

    def _find_mask(self) -> None:
        p, source = self.p, self.params.mask
        if source == "none":
            return
        if p.image_mask is not None:
            if source != "file":
                p.comment(f"{TITLE}: the painted mask was used, mask {source} was not.")
            return
        if source == "file":
            raise TranslationRefused("Mask is file, but none was painted: use the Inpaint tab, or choose another mask.")
        found = [_find(image, source) for image in p.init_images]
        masks = [one.mask for one in found if one.mask is not None]
        if not masks:
            p.comment(f"{TITLE}: {found[0].how}.")
            return
        if self.params.background == "translate":
            self._mask = torch.stack(
                [torch.ones(1, p.height, p.width) if one.mask is None else self._fitted_mask(one.mask) for one in found]
            )
            return
        if any(one.mask is None or not torch.equal(one.mask, masks[0]) for one in found):
            raise TranslationRefused("Each of these pictures has another mask: translate them one by one.")
        p.image_mask = Image.fromarray((masks[0] * 255).round().to(torch.uint8).numpy())
        p.inpainting_fill, p.inpaint_full_res, p.inpainting_mask_invert = 1, False, 0

    def _fitted_mask(self, mask: Tensor) -> Tensor:
        grey = Image.fromarray((mask * 255).round().to(torch.uint8).numpy())
        return _tensor(self._fitted(grey.convert("RGB")))[:1]

    def _fitted(self, picture: Any) -> Any:
        """An RGB picture as the host fits the render into the size that is asked for."""
        width, height = self.p.width, self.p.height
        if self.p.resize_mode != 3:
            return images.resize_image(self.p.resize_mode, picture, width, height)
        return picture.resize((width, height), Image.LANCZOS)  # the latent is resized

    def free(self, size: tuple[int, int]) -> Tensor | None:
        """(B or 1, 1, h, w): what may change at the latents' (height, width); None for everything."""
        return None if self._free is None else to_latent_size(free_cells(self._free), size)

    def region(self, first_of_source: list[int], size: tuple[int, int]) -> Tensor | None:
        """Where attention control acts, at the latents' (height, width), for the image that is each source's first."""
        if self._mask is None:
            return None
        share = to_latent_size(self._mask, size)
        return share if len(share) == 1 else share[first_of_source]

    def finish(self, samples: Tensor, source_of: list[int], sources: Tensor) -> Any:
        """Latents (B, 4, h, w) with what is kept of the source: as they are, or decoded for the host."""
        # the host puts the background back itself
        params = replace(self.params, background="translate")
        if self._pictures is None:
            params = replace(params, details="model")
        coloured = params.colour != "off" and params.colour_strength
        if self._free is None and not coloured and not params.adds_to_render:
            return samples

        def decode_sources(_latents: Tensor) -> Tensor:
            return self._decode(sources.to(samples))[source_of]

        of_images = sources[source_of].to(samples)
        picture = finished_picture(
            params,
            samples,
            of_images,
            of_images if self._pictures is None else self._pictures.to(samples),
            self._colour_mask(samples),
            self._decode,
            decode_sources,
            self._free,
        )
        return processing.DecodedSamples(picture * 2 - 1)

    def _decode(self, latents: Tensor) -> Tensor:
        if shared.opts.sd_vae_decode_method != "Full":
            self.p.extra_generation_params["VAE Decoder"] = shared.opts.sd_vae_decode_method
        rows = processing.decode_latent_batch(self.p.sd_model, latents, target_device=devices.cpu, check_for_nans=True)
        return (torch.stack(rows).float() / 2 + 0.5).clamp(0, 1)

    def _colour_mask(self, samples: Tensor) -> Tensor | None:
        """(B or 1, 1, H, W): our own mask, else the part that the host repaints."""
        if self._mask is not None:
            return self._mask
        if self.p.nmask is None:
            return None
        repainted = self.p.nmask[:1].float().cpu()[None]
        size = (samples.shape[2] * 8, samples.shape[3] * 8)
        return interpolate(repainted, size=size, mode="bilinear", align_corners=False)


def _tensor(picture: Any) -> Tensor:
    """An RGB picture as (3, H, W) in [0, 1]."""
    data = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return data.reshape(picture.height, picture.width, 3).permute(2, 0, 1).float() / 255


def _find(image: Any, source: str) -> Found:
    try:
        return find_mask(picture_from_pil(image), source)
    except ImageError as error:
        raise TranslationRefused(f"The picture {error}") from error


def out_of_memory_refused(run: Callable[[], Any]) -> Any:
    """run(), with want of memory as a refusal in a sentence."""
    try:
        return run()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        refusal = TranslationRefused("This needs more memory than there is: choose a smaller width and height.")
    free_memory()
    raise refusal
