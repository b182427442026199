"""Checkpoints of a run side by side on one render, and one of them made an embedding."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lib_negtrans.embeddings.card import save
from lib_negtrans.embeddings.files import Embedding, EmbeddingError, read_embedding
from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.pictures.images import to_pil
from lib_negtrans.pictures.sheet import contact_sheet
from lib_negtrans.training.checkpoint import checkpoints, read_checkpoint
from lib_negtrans.training.errors import CheckpointError, TrainingError
from lib_negtrans.training.kinds.negative import NegativeEmbedding
from lib_negtrans.training.saving import BEST_FOLDER, RECOMMENDED_WEIGHT, RUN_FILE
from lib_negtrans.training.state import result_of
from lib_negtrans.translation.params import TranslationParams
from lib_negtrans.translation.pipeline import translate

from .preview import fitted_render

MAXIMUM = 12  # pictures of a comparison, beside the render
COLUMNS = 4
TRIGGER = "negtrans-candidate"
GRID_FILE = "comparison.png"


@dataclass(frozen=True)
class Candidate:
    """Vectors to compare. label: shown above the picture; key: what chooses it, such as "step 50", "best", a path."""

    key: str
    label: str
    embedding: Embedding


def candidates(run_folder: Path) -> list[Candidate]:
    """What a run folder offers, by step: its checkpoints and the best vectors. Raises TrainingError for none."""
    run_folder = Path(run_folder)
    found: list[Candidate] = []
    for step, path in reversed(checkpoints(run_folder)):
        try:
            payload = read_checkpoint(path)
        except (CheckpointError, OSError):
            continue  # a damaged one is no candidate; resuming says which it is
        if (kind := payload["identity"].get("kind", "negative")) != "negative":
            raise TrainingError(
                f"{run_folder} is a run of the kind {kind}, and only embeddings are compared: its previews show what "
                "the weights did at each step."
            )
        found.append(Candidate(f"step {step}", f"step {step}", _embedding(run_folder, payload)))
    for path in sorted((run_folder / BEST_FOLDER).glob("*.pt")):
        embedding = read_embedding(path)
        found.append(Candidate("best", f"best (step {embedding.step})", embedding))
    if not found:
        raise TrainingError(f"{run_folder} holds no checkpoints that can be read: name the folder of a training run.")
    return found


def _embedding(run_folder: Path, payload: dict) -> Embedding:
    """The vectors of a checkpoint with what its run knows."""
    identity = payload["identity"]
    try:
        dataset = json.loads((run_folder / RUN_FILE).read_text(encoding="utf-8"))["dataset"]
    except (OSError, ValueError, KeyError):
        dataset = {}  # of an older version, or removed: the vectors are whole
    metadata = {
        "kind": NegativeEmbedding.kind,
        "version": payload["version"],
        "images": dataset.get("images"),
        "dataset": identity.get("dataset"),
        "recommended_weight": RECOMMENDED_WEIGHT,
        **identity["params"],
    }
    vectors, step = result_of(payload)
    assert isinstance(vectors, Tensor)  # of this kind
    return Embedding(identity["name"], vectors, step, payload["model_name"], identity["model"], metadata)


def chosen(found: Sequence[Candidate], keys: Sequence[str]) -> list[Candidate]:
    """Those of the keys, in the order of `found`; all, spread to at most MAXIMUM, for no keys. Raises TrainingError."""
    if keys:
        wanted = {f"step {key}" if key.isdigit() else key for key in keys}
        if missing := sorted(wanted - {candidate.key for candidate in found}):
            offered = ", ".join(candidate.key for candidate in found)
            raise TrainingError(f"There is no {missing[0]} in this run: there are {offered}.")
        found = [candidate for candidate in found if candidate.key in wanted]
    if len(found) > MAXIMUM:
        found = [found[round(i * (len(found) - 1) / (MAXIMUM - 1))] for i in range(MAXIMUM)]
    return list(found)


def compare(
    host: ModelHost, found: Sequence[Candidate], render: Path, size: int, params: TranslationParams
) -> Iterator[tuple[str, Image.Image]]:
    """(label, picture): the render, then its translation with each candidate as the negative prompt.

    The render is brought to `size` by its short side, as previews are. Raises EmbeddingError for vectors of another
    width than the model's, ImageError for a render that cannot be read.
    """
    for candidate in found:
        if candidate.embedding.width != host.embedding_width:
            raise EmbeddingError(
                f"{candidate.label} has width {candidate.embedding.width}, the model needs {host.embedding_width}: "
                "choose the model that it was trained on."
            )
    rgb = fitted_render(render, size)
    yield "render", to_pil(rgb)
    with_negative = TranslationParams.from_dict(params.to_dict() | {"negative_prompt": TRIGGER})
    for candidate in found:
        with torch.inference_mode(False), torch.no_grad():
            vectors: dict[str, Tensor] = {TRIGGER: candidate.embedding.vectors.to(host.device)}
            result = translate(host, rgb[None], with_negative, vectors).image[0]
        yield candidate.label, to_pil(result)


def grid(pictures: Sequence[tuple[str, Image.Image]], title: str = "") -> Image.Image:
    """The pictures of a comparison on one sheet, COLUMNS in a row, each under its label."""
    rows: list[Image.Image] = []
    cell = max(max(image.size) for _, image in pictures)
    columns = min(COLUMNS, len(pictures))
    for begin in range(0, len(pictures), columns):
        some = pictures[begin : begin + columns]
        labels = [label for label, _ in some] + [""] * (columns - len(some))
        images = [image for _, image in some] + [None] * (columns - len(some))
        rows.append(contact_sheet([images], labels, cell=cell, title="" if rows else title))
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), (255, 255, 255))
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def pick(candidate: Candidate, path: Path, overwrite: bool = False, preview: Path | None = None) -> list[str]:
    """Write a candidate as the embedding `path`, named after it, with its card; returns complaints about the card.

    Raises EmbeddingError for a name that cannot be one, FileExistsError, OSError.
    """
    return save(path, replace(candidate.embedding, name=path.stem), overwrite, preview=preview)
