"""Pictures as latents: encoded once, kept in memory or in a folder where the next training finds them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib_negtrans.files import sha256_of, write_bytes_atomic
from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.pictures.images import MULTIPLE, ImageError, Picture, flatten_alpha, mask_beside
from lib_negtrans.pictures.masks import find_mask, load_mask
from lib_negtrans.pictures.sizes import bucket_for, cover
from lib_negtrans.training.checkpoint import decode, encode
from lib_negtrans.training.common_params import CommonParams
from lib_negtrans.training.errors import CheckpointError, DatasetError
from lib_negtrans.training.events import Caching, Event, Notice

from .captions import WordsOf, filewords
from .dataset import BACKGROUNDS, DatasetReport, Entry, examine, listed_files, refuse_empty

SUFFIX = ".latents"  # no ending that a program takes for an embedding: the folder may lie among those


@dataclass(frozen=True)
class Encoded:
    """A picture for training: the posterior's mean and standard deviation, (4, h, w) float32 on the CPU, both scaled.

    weight: (1, h, w) >= 0, what each latent counts in the loss; None: all the same.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor | None = None


@dataclass(frozen=True)
class Dataset:
    """Pictures ready for training, in the order of report.entries.

    shapes: (h, w) of each one's latents. kept: each one's [as it is, mirrored] `Encoded`, or the file that holds them.
    """

    report: DatasetReport
    shapes: list[tuple[int, int]] = field(default_factory=list)
    kept: list[list[Encoded] | Path] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.kept)

    def encoded(self, index: int, flipped: bool = False) -> Encoded:
        """One picture. Raises DatasetError when its file has gone meanwhile."""
        kept = self.kept[index]
        if isinstance(kept, Path):
            found = _read(kept)
            if found is None:
                raise DatasetError(f"{kept} has gone or is damaged: resume, and it is made anew.")
            kept = found[1]
        return kept[1 if flipped else 0]

    @property
    def latents(self) -> list[Tensor]:
        """The means of all pictures, (4, h, w) each."""
        return [self.encoded(index).mean for index in range(len(self))]

    def subset(self, indices: Iterable[int]) -> Dataset:
        """Some of the pictures, as a dataset of their own."""
        chosen = list(indices)
        report = dataclasses.replace(self.report, entries=[self.report.entries[i] for i in chosen])
        return Dataset(report, [self.shapes[i] for i in chosen], [self.kept[i] for i in chosen])


def build_dataset(
    host: ModelHost,
    folder: Path,
    params: CommonParams,
    cache: Path | None = None,
    words_of: WordsOf = filewords,
) -> Generator[Event, None, Dataset]:
    """Read a folder and encode each picture once. Yields progress and notices, returns the Dataset.

    params: size, aspect, pattern, background, flip and alpha_weight apply. cache: folder that keeps the latents instead
    of the memory; what it holds already is not even decoded again. words_of: gives a picture's caption. Raises
    DatasetError, CaptionError, HostError.
    """
    folder = Path(folder)
    files = listed_files(folder, params.pattern)
    dataset = Dataset(DatasetReport(folder, params.size, aspect=params.aspect))
    identity = vae_identity(host) if cache is not None else ""
    for number, path in enumerate(files, 1):
        try:
            file = None if cache is None else cache / f"{_key(path, params, identity)}{SUFFIX}"
            found = None if file is None else _read(file)
            if found is None:
                entry, picture = examine(path, folder, words_of)
                kept = _encode(host, picture, params, path)
            else:
                # one file may be in the folder twice, or have another caption by now
                words, captioned = words_of(path)
                name = path.relative_to(folder).as_posix()
                entry, kept = dataclasses.replace(found[0], path=name, words=words, captioned=captioned), found[1]
        except ImageError as error:
            dataset.report.skipped.append((path.relative_to(folder).as_posix(), str(error)))
            continue
        dataset.report.entries.append(entry)
        _channels, height, width = kept[0].mean.shape
        dataset.shapes.append((height, width))
        if file is not None and found is None:
            try:
                write_bytes_atomic(file, _content(entry, kept))
            except OSError as error:
                yield Notice(
                    f"Latents cannot be kept in {cache} ({error.strerror or error}): the memory is used.", "warning"
                )
                cache = file = None
        dataset.kept.append(kept if file is None else file)
        yield Caching(number, len(files))
    refuse_empty(dataset.report, files)
    return dataset


def vae_identity(host: ModelHost) -> str:
    """What distinguishes VAEs, whatever they are called and run in: sha256 of how they encode a pattern."""
    ramp = torch.linspace(0, 1, 64)
    pattern = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), ramp.outer(ramp)])
    with torch.inference_mode(False), torch.no_grad():
        mean, std = host.encode_image_distribution(pattern[None].to(host.device))
    return hashlib.sha256(mean.float().cpu().numpy().tobytes() + std.float().cpu().numpy().tobytes()).hexdigest()


def _key(path: Path, params: CommonParams, identity: str) -> str:
    """sha256 over the file's bytes and all that its latents depend on. Raises ImageError."""
    options = [params.size, params.aspect, params.background, params.flip, params.alpha_weight]
    mask = None
    if params.outside_weight < 1.0:
        options.append(params.outside_weight)
        mask = mask_beside(path)
    try:
        return sha256_of([path] if mask is None else [path, mask], repr([identity, *options]).encode())
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror}): check its permissions.") from error


def _encode(host: ModelHost, picture: Picture, params: CommonParams, path: Path) -> list[Encoded]:
    """[as it is] or [as it is, mirrored]: a mirrored latent is not the latent of the mirrored picture."""
    size = bucket_for(params.size, picture.size, params.aspect)
    image = cover(flatten_alpha(picture, BACKGROUNDS[params.background]), size)
    counts, weight = _counts(picture, params, path), None
    if counts is not None:
        weight = torch.nn.functional.avg_pool2d(cover(counts[None], size)[None], MULTIPLE)[0]
    found = []
    for flip in (False, True) if params.flip else (False,):
        # one at a time: the result does not depend on what a batch would hold, and it fits an 8 GB card
        with torch.inference_mode(False), torch.no_grad():
            shown = image.flip(2) if flip else image
            mean, std = host.encode_image_distribution(shown[None].to(host.device))
        turned = weight.flip(2) if flip and weight is not None else weight
        found.append(Encoded(mean[0].float().cpu(), std[0].float().cpu(), turned))
    return found


def _counts(picture: Picture, params: CommonParams, path: Path) -> Tensor | None:
    """What each pixel (H, W) counts in the loss; None: all the same. Raises ImageError for a mask that is none."""
    if params.outside_weight >= 1.0:
        return picture.alpha if params.alpha_weight else None
    beside = mask_beside(path)
    mask = find_mask(picture, "auto").mask if beside is None else load_mask(beside, picture.size)
    return None if mask is None else params.outside_weight + (1.0 - params.outside_weight) * mask


def _content(entry: Entry, encoded: Sequence[Encoded]) -> bytes:
    pictures = [{"mean": e.mean, "std": e.std, "weight": e.weight} for e in encoded]
    return encode({"entry": dataclasses.asdict(entry), "pictures": pictures})


def _read(file: Path) -> tuple[Entry, list[Encoded]] | None:
    """What a file of the cache holds; None if it is missing or damaged."""
    try:
        content: dict[str, Any] = decode(file.read_bytes())
        values = content["entry"] | {"size": tuple(content["entry"]["size"])}
        return Entry(**values), [Encoded(**picture) for picture in content["pictures"]]
    except (OSError, CheckpointError, KeyError, TypeError):
        return None
