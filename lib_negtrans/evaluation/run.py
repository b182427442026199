"""Evaluation: renders through configurations, each judged against photographs and against the VAE's own round trip."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.pictures.images import Picture, pad_to_multiple
from lib_negtrans.pictures.masks import find_mask
from lib_negtrans.translation.pipeline import translate

from .configurations import Configuration
from .crops import Render, cut, cut_mask, same_background
from .metrics import Kid, PhotoProbe, kid, kid_floor, masked_delta_e, masked_ssim

FeatureNetwork = Callable[[Tensor], np.ndarray]


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

    crops: row name -> (N, 3, size, size); masks (N, size, size); sources: the crops of the files themselves.
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


def _batches(pictures: Sequence[Tensor], batch: int) -> Iterator[list[int]]:
    """Indices in runs of at most `batch` pictures of one shape."""
    for _, run in groupby(range(len(pictures)), key=lambda i: pictures[i].shape):
        indices = list(run)
        yield from (indices[i : i + batch] for i in range(0, len(indices), batch))


def round_trip(host: ModelHost, pictures: Sequence[Tensor], batch: int = 8) -> list[Tensor]:
    """Pictures (3, H, W) through the VAE and back, what no translation can be better than; on the CPU."""
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
) -> tuple[list[Tensor], Cost]:
    """Pictures (3, H, W) in [0, 1] translated, on the CPU, and the mean cost. on_picture gets how many are done.

    masks (H, W) of the garments, for a configuration with mask "file"; other masks are found in the pictures.
    Raises ParamError, HostError and AttentionShapeError as `pipeline.translate` does.
    """
    results: list[Tensor] = []
    forwards, began = 0, time.perf_counter()
    for indices in _batches(pictures, batch):
        stack = torch.stack([pictures[i] for i in indices])
        found = _found_masks([pictures[i] for i in indices], masks and [masks[i] for i in indices], configuration)
        done = translate(host, stack, configuration.params, configuration.embeddings, mask=found)
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
    found = [find_mask(Picture(picture, None), configuration.params.mask).mask for picture in pictures]
    return torch.stack([torch.ones_like(p[0]) if m is None else m for p, m in zip(pictures, found, strict=True)])[
        :, None
    ]


class Scorer:
    """Turns crops into rows, against photo features (M, 1280) and the crops of row 0, "base" (N, 3, S, S)."""

    def __init__(
        self, network: FeatureNetwork, photos: np.ndarray, base: Tensor, masks: Tensor, background: str = "same"
    ):
        self.network, self.photos, self.base, self.masks = network, photos, base, masks
        self.background = background
        self.base_features = network(base)
        self.base_kid = kid(self.base_features, photos)
        self.probe = PhotoProbe(photos, self.base_features)

    def base_row(self, name: str) -> TableRow:
        """Row 0; its garment column only differs from the plain one where backgrounds are replaced by their mean."""
        share = self.probe.photo_share(self.base_features)
        return TableRow(name, self.base_kid, self._garment_kid(self.base), photo_share=share, ssim=1.0, delta_e=0.0,
                   colour_drift=0.0)  # fmt: skip

    def row(self, name: str, crops: Tensor, cost: Cost | None = None) -> TableRow:
        """The numbers of translated crops (N, 3, S, S), in the order of the base."""
        features = self.network(crops)
        value = kid(features, self.photos)
        pairs = list(zip(_pixels(crops), _pixels(self.base), self.masks.numpy(), strict=True))
        colours = np.array([masked_delta_e(*pair) for pair in pairs]).mean(0)
        return TableRow(
            name,
            value,
            self._garment_kid(crops),
            value.minus(self.base_kid),
            self.probe.photo_share(features),
            float(np.mean([masked_ssim(*pair) for pair in pairs])),
            float(colours[0]),
            float(colours[1]),
            cost,
        )

    def _garment_kid(self, crops: Tensor) -> Kid:
        features = self.network(same_background(crops, self.masks, self.base, self.background))
        return kid(features, self.photos)


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
) -> Evaluation:
    """Translate renders under every configuration and judge their garment crops.

    photos: centre squares (M, 3, size, size), or features (M, 1280) made of them earlier. region "crop": garment crops
    of size x size are translated; "full": the whole render at its own size, cropped afterwards. Row 0 is the renders
    through the VAE; with photo pixels, row 1 is the first half of the photos through the VAE against the other half,
    the best that this VAE allows. Raises ValueError for too few pictures, and what `translate` raises.
    """
    if region not in ("crop", "full"):
        raise ValueError(f"region must be 'crop' or 'full', not {region!r}.")
    sources = torch.stack([cut(r.rgb, r.box, size) for r in renders])
    masks = torch.stack([cut_mask(r.mask, r.box, size) for r in renders])
    pictures = list(sources) if region == "crop" else [r.rgb for r in renders]

    def crops_of(results: list[Tensor]) -> Tensor:
        return torch.stack(results) if region == "crop" else cut_all(results, renders, size)

    base = crops_of(round_trip(host, pictures, batch))
    features = photos if isinstance(photos, np.ndarray) else network(photos)
    judge = Scorer(network, features, base, masks, background)
    rows = [judge.base_row("renders through the VAE")]
    if not isinstance(photos, np.ndarray) and len(photos) >= 6:
        # every other one: files sorted by class would put whole classes into one half
        through = torch.stack(round_trip(host, list(photos[::2]), batch))
        rows.append(TableRow("photos through the VAE", kid(network(through), features[1::2])))
    crops = {rows[0].name: base}
    for row in rows if on_row is not None else ():
        on_row(row)
    for configuration in configurations:

        def on_picture(done: int, name: str = configuration.name) -> None:
            if on_progress is not None:
                on_progress(name, done, len(pictures))

        own = list(masks) if region == "crop" else [r.mask for r in renders]
        results, cost = translate_pictures(host, pictures, configuration, batch, on_picture, own)
        crops[configuration.name] = crops_of(results)
        rows.append(judge.row(configuration.name, crops[configuration.name], cost))
        if on_row is not None:
            on_row(rows[-1])
    floor = kid_floor(features, len(renders))
    names = [r.name for r in renders]
    return Evaluation(rows, floor, judge.probe.accuracy, len(features), sources, crops, masks, names)


def judge_pictures(
    renders: Sequence[Render],
    base: tuple[str, Sequence[Tensor]],
    sets: Mapping[str, Sequence[Tensor]],
    photos: Tensor | np.ndarray,
    network: FeatureNetwork,
    *,
    size: int = 128,
    background: str = "same",
    costs: Mapping[str, Cost] | None = None,
) -> Evaluation:
    """Judge the garment crops of pictures that are there already: whole ones (3, H, W), in the renders' order.

    base: name and pictures of the row that SSIM and CIEDE2000 refer to, best the renders through the VAE; sets: row
    name -> pictures, of any size of the same shape; photos as in `evaluate`.
    """
    sources = torch.stack([cut(r.rgb, r.box, size) for r in renders])
    masks = torch.stack([cut_mask(r.mask, r.box, size) for r in renders])
    features = photos if isinstance(photos, np.ndarray) else network(photos)
    crops = {base[0]: cut_all(base[1], renders, size)}
    judge = Scorer(network, features, crops[base[0]], masks, background)
    rows = [judge.base_row(base[0])]
    for name, pictures in sets.items():
        crops[name] = cut_all(pictures, renders, size)
        rows.append(judge.row(name, crops[name], (costs or {}).get(name)))
    floor = kid_floor(features, len(renders))
    names = [r.name for r in renders]
    return Evaluation(rows, floor, judge.probe.accuracy, len(features), sources, crops, masks, names)
