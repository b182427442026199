"""Evaluation: renders through configurations, each judged against photographs and against the renders themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from lib_negtrans.lora.merge import merged
from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.pictures.images import Picture, pad_to_multiple
from lib_negtrans.pictures.masks import find_mask
from lib_negtrans.translation.cache import TrajectoryCache
from lib_negtrans.translation.pipeline import translate

from .configurations import Configuration
from .crops import Render, cut, cut_mask, same_background
from .metrics import Kid, PhotoProbe, kid, kid_floor, masked_delta_e, masked_ssim

FeatureNetwork = Callable[[Tensor], np.ndarray]
Translator = Callable[[Sequence[Tensor]], list[Tensor]]  # of pictures (3, H, W) in [0, 1]
RENDERS, THROUGH_VAE = "renders", "renders through the VAE"


@dataclass(frozen=True)
class Cost:
    """Of one picture, on average: seconds, and UNet sample-forwards (rows evaluated)."""

    seconds: float
    forwards: float


@dataclass(frozen=True)
class TableRow:
    """One line of the table. None: not measured. error of a difference: paired, see `Kid.minus`.

    kid: of the crops as they are; kid_garment: with the background of row 0; photo_share in [0, 1]: taken for photos by
    the probe; ssim, delta_e, colour_drift: means over renders, inside the mask, against row 0.
    """

    name: str
    kid: Kid
    kid_garment: Kid | None = None
    kid_change: tuple[float, float] | None = None
    photo_share: float | None = None
    ssim: float | None = None
    delta_e: float | None = None
    colour_drift: float | None = None
    cost: Cost | None = None


@dataclass(frozen=True)
class Evaluation:
    """rows[0] is what the others are compared with. floor: KID of photos to photos, mean and deviation over splits.

    crops: row name -> (N, 3, size, size); masks (N, size, size); sources: the crops of the files themselves. Of many
    renders only those that a sheet shows, or none, are kept; names has all.
    """

    rows: list[TableRow]
    floor: tuple[float, float]
    probe_accuracy: float
    photos: int
    sources: Tensor
    crops: dict[str, Tensor]
    masks: Tensor
    names: list[str]


def cut_all(pictures: Sequence[Tensor], renders: Sequence[Render], size: int) -> Tensor:
    """The garment boxes (N, 3, size, size) of whole pictures (3, H, W), which may differ from the renders in scale."""
    crops = []
    for picture, render in zip(pictures, renders, strict=True):
        scale_x = picture.shape[2] / render.rgb.shape[2]
        scale_y = picture.shape[1] / render.rgb.shape[1]
        left, top, right, bottom = render.box
        box = (round(left * scale_x), round(top * scale_y), round(right * scale_x), round(bottom * scale_y))
        crops.append(cut(picture, box, size))
    return torch.stack(crops)


def source_crops(renders: Sequence[Render], size: int) -> tuple[Tensor, Tensor]:
    """Crops of the renders (N, 3, size, size), and of their masks (N, size, size)."""
    masks = torch.stack([cut_mask(r.mask, r.box, size) for r in renders])
    return cut_all([r.rgb for r in renders], renders, size), masks


def _batches(pictures: Sequence[Tensor], batch: int) -> Iterator[list[int]]:
    """Indices in runs of at most `batch` pictures of one shape."""
    for _, run in groupby(range(len(pictures)), key=lambda i: pictures[i].shape):
        indices = list(run)
        yield from (indices[i : i + batch] for i in range(0, len(indices), batch))


def round_trip(host: ModelHost, pictures: Sequence[Tensor], batch: int = 8) -> list[Tensor]:
    """Pictures (3, H, W) through the VAE and back, on the CPU."""
    results: list[Tensor] = []
    for indices in _batches(pictures, batch):
        stack = torch.stack([pictures[i] for i in indices])
        decoded = host.decode_latent(host.encode_image(pad_to_multiple(stack).to(host.device)))
        results += list(decoded[..., : stack.shape[2], : stack.shape[3]].float().cpu())
    return results


def translate_pictures(
    host: ModelHost,
    pictures: Sequence[Tensor],
    configuration: Configuration,
    batch: int = 8,
    on_picture: Callable[[int], None] | None = None,
    masks: Sequence[Tensor] | None = None,
    cache: TrajectoryCache | None = None,
) -> tuple[list[Tensor], Cost]:
    """Pictures (3, H, W) in [0, 1] translated, on the CPU, and the mean cost. on_picture gets how many are done.

    masks (H, W) of the garments, for a configuration with mask "file"; other masks are found in the pictures. cache: of
    inversions, which then are no part of the cost.
    Raises ParamError and HostError as `pipeline.translate` does, and LoraError.
    """
    results: list[Tensor] = []
    forwards, began = 0, time.perf_counter()
    with merged(host, configuration.loras):
        for indices in _batches(pictures, batch):
            stack = torch.stack([pictures[i] for i in indices])
            found = _found_masks([pictures[i] for i in indices], masks and [masks[i] for i in indices], configuration)
            done = translate(host, stack, configuration.params, configuration.embeddings, cache, found)
            results += list(done.image.float().cpu())
            forwards += done.forwards.total
            if on_picture is not None:
                on_picture(len(results))
    seconds = time.perf_counter() - began
    return results, Cost(seconds / len(pictures), forwards / len(pictures))


def _found_masks(
    pictures: Sequence[Tensor], masks: Sequence[Tensor] | None, configuration: Configuration
) -> Tensor | None:
    """(B, 1, H, W); all of a picture where none is found in it."""
    if configuration.params.mask == "none":
        return None
    if configuration.params.mask == "file":
        if masks is None:
            raise ValueError("the configuration needs the renders' masks.")
        return torch.stack(list(masks))[:, None].float()
    found = [(find_mask(Picture(picture, None), configuration.params.mask).mask, picture) for picture in pictures]
    return torch.stack([torch.ones_like(picture[0]) if mask is None else mask for mask, picture in found])[:, None]


@dataclass(frozen=True)
class Measures:
    """What is kept of a crop, none of its pixels. features (D,): of it; garment (D,): with its base's background.

    ssim, delta_e (mean over pixels, and of the mean colours): inside the mask, against the base.
    """

    features: np.ndarray
    garment: np.ndarray
    ssim: float = 1.0
    delta_e: tuple[float, float] = (0.0, 0.0)


def measure(crops: Tensor, base: Tensor, masks: Tensor, network: FeatureNetwork, background: str) -> list[Measures]:
    """Crops (N, 3, size, size) against their base, which they may be themselves; masks (N, size, size) bool."""
    features = network(crops)
    if crops is base and background == "same":  # it has that background already
        return [Measures(one, one) for one in features]
    garments = network(same_background(crops, masks, base, background))
    if crops is base:
        return [Measures(one, garment) for one, garment in zip(features, garments, strict=True)]
    pairs = zip(_pixels(crops), _pixels(base), masks.numpy(), strict=True)
    changes = [(masked_ssim(*pair), masked_delta_e(*pair)) for pair in pairs]
    rows = zip(features, garments, changes, strict=True)
    return [Measures(one, garment, *change) for one, garment, change in rows]


class Judge:
    """Fills an evaluation's table: first row 0, the base, which the others are compared with, then row by row.

    photos: features (M, D); on_row gets each row. All measures are in the renders' order, at least 3 of them.
    """

    def __init__(self, photos: np.ndarray, on_row: Callable[[TableRow], None] | None = None) -> None:
        self.photos, self.on_row = photos, on_row
        self.rows: list[TableRow] = []

    def add(self, name: str, measures: Sequence[Measures], cost: Cost | None = None) -> None:
        """The row of measured crops."""
        features = np.stack([m.features for m in measures])
        value, change = kid(features, self.photos), None
        if self.rows:
            change = value.minus(self.rows[0].kid)
        else:
            self.probe = PhotoProbe(self.photos, features)
        garment = kid(np.stack([m.garment for m in measures]), self.photos)
        ssim, colours = np.mean([m.ssim for m in measures]), np.mean([m.delta_e for m in measures], 0)
        means = float(ssim), float(colours[0]), float(colours[1])
        self.add_row(TableRow(name, value, garment, change, self.probe.photo_share(features), *means, cost))

    def add_row(self, row: TableRow) -> None:
        """A row of other pictures."""
        self.rows.append(row)
        if self.on_row is not None:
            self.on_row(row)

    def evaluation(self, names: Sequence[str], sources: Tensor, crops: dict[str, Tensor], masks: Tensor) -> Evaluation:
        """The table so far."""
        floor, accuracy = kid_floor(self.photos, len(names)), self.probe.accuracy
        return Evaluation(self.rows, floor, accuracy, len(self.photos), sources, crops, masks, list(names))


def _pixels(crops: Tensor) -> np.ndarray:
    return crops.permute(0, 2, 3, 1).numpy().astype(np.float64)


def evaluate(
    host: ModelHost,
    renders: Sequence[Render],
    photos: Tensor | np.ndarray,
    configurations: Sequence[Configuration],
    network: FeatureNetwork,
    *,
    region: str = "crop",
    size: int = 128,
    batch: int = 8,
    background: str = "same",
    on_progress: Callable[[str, int, int], None] | None = None,
    on_row: Callable[[TableRow], None] | None = None,
    others: Mapping[str, Translator] | None = None,
) -> Evaluation:
    """Translate renders under every configuration and judge their garment crops.

    photos: centre squares (M, 3, size, size), or features (M, 1280) made of them earlier. region "crop": garment crops
    of size x size are translated; "full": the whole render at its own size, cropped afterwards. Row 0 is the renders,
    row 1 these through the VAE; with photo pixels, row 2 is the first half of the photos through the VAE against the
    other half, the best that this VAE allows. others: row name -> another program, which gets the same pictures. Raises
    ValueError for too few pictures, and what `translate` raises.
    """
    if region not in ("crop", "full"):
        raise ValueError(f"region must be 'crop' or 'full', not {region!r}.")
    sources, masks = source_crops(renders, size)
    pictures = list(sources) if region == "crop" else [r.rgb for r in renders]
    own = list(masks) if region == "crop" else [r.mask for r in renders]
    judge = Judge(photos if isinstance(photos, np.ndarray) else network(photos), on_row)
    crops: dict[str, Tensor] = {}

    def add(name: str, results: list[Tensor], cost: Cost | None = None) -> None:
        crops[name] = torch.stack(results) if region == "crop" else cut_all(results, renders, size)
        judge.add(name, measure(crops[name], crops[RENDERS], masks, network, background), cost)

    add(RENDERS, pictures)
    add(THROUGH_VAE, round_trip(host, pictures, batch))
    if not isinstance(photos, np.ndarray) and len(photos) >= 6:
        # every other one: files sorted by class would put whole classes into one half
        through = torch.stack(round_trip(host, list(photos[::2]), batch))
        judge.add_row(TableRow("photos through the VAE", kid(network(through), judge.photos[1::2])))
    for configuration in configurations:

        def on_picture(done: int, name: str = configuration.name) -> None:
            if on_progress is not None:
                on_progress(name, done, len(pictures))

        add(configuration.name, *translate_pictures(host, pictures, configuration, batch, on_picture, own))
    for name, translator in (others or {}).items():
        add(name, translator(pictures))
    return judge.evaluation([r.name for r in renders], sources, crops, masks)


def judge_pictures(
    renders: Sequence[Render],
    base: tuple[str, Sequence[Tensor]],
    sets: Mapping[str, Sequence[Tensor]],
    photos: Tensor | np.ndarray,
    network: FeatureNetwork,
    *,
    size: int = 128,
    background: str = "same",
) -> Evaluation:
    """Judge the garment crops of pictures that are there already: whole ones (3, H, W), in the renders' order.

    base: name and pictures of the row that SSIM and CIEDE2000 refer to; sets: row name -> pictures, of any size of
    the same shape; photos as in `evaluate`.
    """
    sources, masks = source_crops(renders, size)
    judge = Judge(photos if isinstance(photos, np.ndarray) else network(photos))
    crops = {name: cut_all(pictures, renders, size) for name, pictures in (base, *sets.items())}
    for name, cropped in crops.items():
        measures = measure(cropped, crops[base[0]], masks, network, background)
        judge.add(name, measures)
    return judge.evaluation([r.name for r in renders], sources, crops, masks)
