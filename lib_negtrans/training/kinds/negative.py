"""A negative embedding: vectors that stand in the text encoder's input where their trigger word stands in a prompt."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib_negtrans.embeddings.card import write_card
from lib_negtrans.embeddings.files import Embedding, EmbeddingError, read_embedding, validate_name, write_embedding
from lib_negtrans.embeddings.inspection import nearest_tokens
from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.training.data.batch import RowSource
from lib_negtrans.training.data.captions import Captions, load_captions
from lib_negtrans.training.data.sets import Folders, TrainingData, read_data
from lib_negtrans.training.errors import DatasetError, TrainingError
from lib_negtrans.training.events import Event, Notice
from lib_negtrans.training.objective import LossOptions, Objective, contrast, reconstruct
from lib_negtrans.training.optimizers import MovingAverage
from lib_negtrans.training.params import TrainingParams


class NegativeEmbedding:
    """A `Trainable`; its weights are vectors (n, width)."""

    options, source = TrainingParams, RowSource
    kind, noun, suffix, domain = "negative embedding", "vectors", ".pt", "renders"
    copied, counted, masters = True, False, False

    def __init__(self, host: ModelHost, params: TrainingParams, name: str):
        self.host, self.params, self.trigger = host, params, name
        with torch.inference_mode(False), torch.no_grad():
            self.weights = initial_vectors(host, params.init_text, params.vectors).requires_grad_()

    @staticmethod
    def check(host: ModelHost, params: TrainingParams, folders: Folders, name: str, out: Path) -> None:
        load_captions(params.template)
        if params.objective == "contrastive" and folders.photos is None:
            raise DatasetError("The contrastive objective learns from real photos too: give a folder of them.")
        validate_name(name, host.token_vectors)
        if out.stem != name or out.suffix not in (".pt", ".safetensors"):
            raise TrainingError(
                f"{out} must be called {name}.pt or {name}.safetensors: the file's name is the trigger word."
            )

    def read(self, folders: Folders, cache: Path | None) -> Generator[Event, None, TrainingData]:
        return read_data(self.host, folders, self.params, cache)

    def captions(self, data: TrainingData) -> dict[str, Captions]:
        own = load_captions(self.params.template, data.main.report.captioned)
        # a translation's negative prompt is the trigger word alone, and that is what photos are guided away from
        return {"renders": own, "photos": load_captions("name")}

    def terms(self) -> dict[str, tuple[Objective, float]]:
        params, options = self.params, LossOptions(self.params.huber, self.params.min_snr_gamma)
        terms: dict[str, tuple[Objective, float]] = {"renders": (partial(reconstruct, options=options), 1.0)}
        if params.objective == "contrastive":
            loss = partial(contrast, guidance=params.photo_guidance, options=options)
            terms["photos"] = (loss, params.photo_weight)
        return terms

    def average(self) -> MovingAverage | None:
        return MovingAverage(self.weights, self.params.ema) if self.params.ema else None

    def notices(self) -> Iterator[Notice]:
        text, vectors = self.params.init_text, self.params.vectors
        tokens = len(self.host.token_vectors(text)) if text.strip() else 0
        if tokens > vectors:
            yield Notice(
                f"The initialisation text has {tokens} tokens, but the embedding has {vectors} vectors: some of the "
                "tokens are not used.", "warning"
            )  # fmt: skip
        if self.params.weight_decay:
            yield Notice("Weight decay pulls the vectors towards zero; Norm decay keeps them as long as real tokens.")

    def groups(self) -> list[tuple[list[Tensor], float]]:
        return [([self.weights], 1.0)]

    @contextmanager
    def applied(self, weights: Tensor | None) -> Iterator[Mapping[str, Tensor]]:
        yield {} if weights is None else {self.trigger: weights}

    def make_room(self, folder: Path) -> None:
        pass

    def constrain(self) -> None:
        if self.params.norm_decay:
            shorten(self.weights, self.usual_size, self.params.norm_decay)

    @torch.no_grad()
    def measure(self, initial: Tensor) -> tuple[float, float]:
        """The mean L2 norm of a vector, and the mean L2 distance from where it began."""
        return float(self.weights.norm(dim=1).mean()), float((self.weights - initial).norm(dim=1).mean())

    @cached_property
    def tokens(self) -> tuple[Tensor, list[str]]:
        """The model's token table: the tensor is the model's own, the texts take a second to make."""
        return self.host.token_table()

    @cached_property
    def usual_size(self) -> float:
        """The median L2 norm of the model's token vectors: about .39 in SD1.5."""
        return float(self.tokens[0].float().norm(dim=1).median())

    def inspect(self, weights: Tensor) -> tuple[list[float], list[str]]:
        """The length of each vector, and the real token nearest to it."""
        nearest = nearest_tokens(weights.cpu(), *self.tokens, count=1)
        return weights.norm(dim=1).tolist(), [row[0]["token"] for row in nearest]

    def save(self, path: Path, weights: Tensor, step: int, facts: dict[str, Any], overwrite: bool) -> None:
        host = self.host
        embedding = Embedding(self.trigger, weights, step, host.checkpoint_name, host.checkpoint_hash, facts)
        write_embedding(path, embedding, overwrite)

    def is_saved(self, path: Path, weights: Tensor) -> bool:
        try:
            return torch.equal(read_embedding(path).vectors, weights.cpu())
        except EmbeddingError:
            return False

    def write_card(self, path: Path, preview: Path | None) -> list[str]:
        return write_card(path, read_embedding(path), preview)


def initial_vectors(host: ModelHost, text: str, count: int) -> Tensor:
    """(count, width) float32 on the host's device: the text's token vectors spread over the rows, else zeros.

    Row i is token floor(i*m/count) of m, as in the webui's create_embedding.
    """
    vectors = torch.zeros(count, host.embedding_width, device=host.device)
    tokens = host.token_vectors(text).to(vectors) if text.strip() else vectors[:0]
    if len(tokens):
        vectors = tokens[[i * len(tokens) // count for i in range(count)]]
    return vectors.clone()


@torch.no_grad()
def shorten(vectors: Tensor, norm: float, share: float) -> None:
    """Norm decay, in place: a vector longer than `norm` loses this share of the excess; its direction stays."""
    lengths = vectors.norm(dim=1, keepdim=True)
    excess = (lengths - norm).clamp_min(0.0)
    vectors.mul_(1.0 - share * excess / lengths.clamp_min(1e-12))
