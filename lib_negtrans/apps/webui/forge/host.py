"""Forge, as the shared part of the extension asks for it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sized
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from modules import sd_models, shared, ui_extra_networks_textual_inversion

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
        if (database := self.embeddings()) is not None:
            database.load_textual_inversion_embeddings()
        if everything:
            for database in _listings():
                database.load_textual_inversion_embeddings(force_reload=True, sync_with_sd_model=False)

    def refuse_model(self, model: Any) -> None:
        forge.refuse_model(model)

    def mean_encoding(self, model: Any) -> AbstractContextManager[None]:
        return forge.mean_encoding(model)

    def denoiser(
        self, p: Any, params: Any, conditioning: Any, unconditional_conditioning: Any, keeper: Any, asked: Any
    ) -> ForgeDenoiser:
        return ForgeDenoiser(p, params, conditioning, unconditional_conditioning, keeper, asked)

    @contextmanager
    def training(self) -> Generator[ModelHost, None, None]:
        chosen = sd_models.model_data.forge_loading_parameters
        info = chosen.get("checkpoint_info")
        if info is None:
            raise HostError("No checkpoint is chosen: choose a Stable Diffusion 1.x checkpoint at the top left.")
        with forge.own_copy(info.filename, shared.opts.CLIP_stop_at_last_layers) as model:
            yield model

    def training_notes(self) -> list[str]:
        if not sd_models.model_data.forge_loading_parameters.get("additional_modules"):
            return []
        return ["It was trained on the checkpoint itself: the VAE and text encoder chosen at the top were not used."]

    def tokenizer(self) -> Callable[[str], Sized] | None:
        engine = getattr(shared.sd_model, "text_processing_engine", None)
        if engine is None:
            return None
        return lambda text: engine.tokenizer([text], truncation=False, add_special_tokens=False)["input_ids"][0]


def _listings() -> list[Any]:
    """The databases that only list: the Textual Inversion page's, and that of /sdapi/v1/embeddings."""
    routes = getattr(getattr(getattr(shared, "demo", None), "app", None), "routes", [])
    ends = [route.endpoint for route in routes if getattr(route, "path", None) == "/sdapi/v1/refresh-embeddings"]
    apis = [end.__self__ for end in ends if hasattr(getattr(end, "__self__", None), "embedding_db")]
    return [ui_extra_networks_textual_inversion.embedding_db, *(api.embedding_db for api in apis)]


def make() -> Host:
    return Forge()
