"""Saying no: one sentence that the webui shows under the picture and its API answers with status 422."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from modules import sd_unet, shared

from lib_negtrans.errors import shortened
from lib_negtrans.models.protocol import HostError

from .host import host

T = TypeVar("T")


class TranslationRefused(Exception):
    """The job cannot be done as asked. The host's API takes `status_code` and `detail` from the exception."""

    def __init__(self, sentence: str) -> None:
        super().__init__(shortened(sentence))
        self.status_code = 422
        self.detail = str(self)


def refused(call: Callable[[], T]) -> T:
    """call(), with a HostError as a refusal."""
    try:
        return call()
    except HostError as error:
        raise TranslationRefused(str(error)) from error


def refuse_host() -> None:
    """Refuse hosts whose sampling is another (HOST.md 3)."""
    refused(host)


def refuse_job(p: Any, inverts: bool) -> None:
    """Raise TranslationRefused for what this job's settings make impossible, by the name it has on the page."""
    refused(lambda: host().refuse_model(p.sd_model))
    if p.refiner_checkpoint not in (None, "", "None", "none"):
        raise TranslationRefused(
            "The refiner would change the model during the translation: switch Refiner off for this script."
        )
    if getattr(shared.opts, "hypertile_enable_unet", False):
        raise TranslationRefused(
            "Hypertile cuts the attention into tiles: switch Settings > Hypertile > Enable Hypertile U-Net off."
        )
    if sd_unet.current_unet is not None:
        raise TranslationRefused("Another UNet engine is active: set Settings > Stable Diffusion > SD Unet to None.")
    if inverts and p.image_mask is not None and p.inpainting_fill in (2, 3):
        raise TranslationRefused(
            "Masked content is latent noise or latent nothing, which cannot be inverted: choose original or fill."
        )
