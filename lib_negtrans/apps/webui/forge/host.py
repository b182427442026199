"""Forge, as the shared part of the extension asks for it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sized
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from modules import shared, ui_extra_networks_textual_inversion

from lib_negtrans.apps.webui.host import Host
from lib_negtrans.models import forge
from lib_negtrans.models.protocol import HostError, ModelHost

from .denoiser import ForgeDenoiser


class Forge(Host):
    """lllyasviel's stable-diffusion-webui-forge as of 2025."""

    def embeddings(self) -> Any | None:
        engine = getattr(shared.sd_model, "text_processing_engine", None)  # of Stable Diffusion 1.x alone
        return getattr(engine, "embeddings", None)

    def rescan_embeddings(self, everything: bool = True) -> None:
        self.embeddings().load_textual_inversion_embeddings()
        if everything:  # the Textual Inversion page has a database of its own
            ui_extra_networks_textual_inversion.embedding_db.load_textual_inversion_embeddings(
                force_reload=True, sync_with_sd_model=False
            )

    def refuse_model(self, model: Any) -> None:
        forge.refuse_model(model)

    def mean_encoding(self, model: Any) -> AbstractContextManager[None]:
        return forge.mean_encoding(model)

    def denoiser(
        self, p: Any, params: Any, conditioning: Any, unconditional_conditioning: Any, keeper: Any
    ) -> ForgeDenoiser:
        return ForgeDenoiser(p, params, conditioning, unconditional_conditioning, keeper)

    @contextmanager
    def training(self) -> Generator[ModelHost, None, None]:
        raise HostError("Training does not work on Forge yet: train with python -m lib_negtrans train-negative.")
        yield

    def tokenizer(self) -> Callable[[str], Sized] | None:
        engine = getattr(shared.sd_model, "text_processing_engine", None)
        if engine is None:
            return None
        return lambda text: engine.tokenizer([text], truncation=False, add_special_tokens=False)["input_ids"][0]


def make() -> Host:
    return Forge()
