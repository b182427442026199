"""AUTOMATIC1111's webui, as the shared part of the extension asks for it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence, Sized
from contextlib import contextmanager
from typing import Any

from modules import sd_hijack

from lib_negtrans.apps.webui.host import Host
from lib_negtrans.apps.webui.refusal import TranslationRefused
from lib_negtrans.models.a1111 import WebuiHost, current_host, is_replaced, loaded_host, plain_networks
from lib_negtrans.models.protocol import ModelHost

from .combining import neutral_prompt_acts
from .denoiser import A1111Denoiser


class A1111(Host):
    """Version 1.10."""

    def embeddings(self) -> Any | None:
        return getattr(sd_hijack.model_hijack, "embedding_db", None)

    def rescan_embeddings(self, everything: bool = True) -> None:
        # without force the host looks at the time of the top folder
        sd_hijack.model_hijack.embedding_db.load_textual_inversion_embeddings(force_reload=everything)

    def refuse_model(self, model: Any) -> None:
        WebuiHost(model)

    @contextmanager
    def mean_encoding(self, model: Any) -> Generator[None, None, None]:
        original = model.get_first_stage_encoding
        patched_before = "get_first_stage_encoding" in vars(model)

        def mean(posterior: Any) -> Any:
            sampled = hasattr(posterior, "mode") and hasattr(posterior, "sample")
            return original(posterior.mode() if sampled else posterior)

        model.get_first_stage_encoding = mean
        try:
            yield
        finally:
            if patched_before:
                model.get_first_stage_encoding = original
            else:
                del model.get_first_stage_encoding

    def refuse_sampler(self, p: Any) -> None:
        denoiser = p.sampler.model_wrap_cfg
        way = ((denoiser, "forward"), (denoiser.inner_model, "forward"), (p.sd_model, "apply_model"))
        if any(is_replaced(owner, method) for owner, method in way):
            raise TranslationRefused(
                "Another extension cuts the picture into tiles (Tiled Diffusion, DemoFusion): switch it off here."
            )

    def denoiser(
        self, p: Any, params: Any, conditioning: Any, unconditional_conditioning: Any, keeper: Any, asked: Any
    ) -> A1111Denoiser:
        return A1111Denoiser(p, params, conditioning, unconditional_conditioning, keeper, asked)

    @contextmanager
    def training(self) -> Generator[ModelHost, None, None]:
        model = current_host()
        model.refuse_training()
        with plain_networks():
            yield model

    def tokenizer(self) -> Callable[[str], Sized] | None:
        model = loaded_host()
        return None if model is None else model.tokenize

    def guided_by_others(self, prompts: Sequence[str]) -> bool:
        return neutral_prompt_acts(prompts)


def make() -> Host:
    return A1111()
