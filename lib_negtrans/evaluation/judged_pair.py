"""A render with its translation, one pair of many: what is measured of it is kept, and none of its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from lib_negtrans.errors import UserError
from lib_negtrans.files import stem_and_suffix, store_errors
from lib_negtrans.models import standalone
from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.pictures.feature_network import Lite0, missing_packages
from lib_negtrans.pictures.images import ImageError, flatten_alpha, load_picture
from lib_negtrans.pictures.tree import look_through
from lib_negtrans.runners.runner import FileItem, Items, Job, OnStep, Worker

from .crops import Render, load_render
from .run import FeatureNetwork, Measures, cut_all, measure, round_trip, source_crops


@dataclass(frozen=True)
class PairItem(FileItem):
    """A render and its translation; name: the render's path below its folder."""

    name: str


@dataclass(frozen=True)
class Pairs(Items[PairItem]):
    """Renders below `source`, and translations below `out`. names: where both are there, on a line each."""

    names: Sequence[str]
    source: Path
    out: Path

    def target_name(self, name: str) -> str:
        return name.partition("\n")[2]

    def item(self, name: str) -> PairItem:
        render, _, target = name.partition("\n")
        return PairItem(self.source / render, self.out / target, render)


def pairs_of(renders: Sequence[str], source: Path, out: Path) -> tuple[Pairs, list[str]]:
    """Renders by their names below `source` with the pictures of the same places below `out`, of any suffix.

    Also the names of those that have none. Raises OSError for a store.
    """
    with store_errors(out):
        there = look_through(out).pictures if out.is_dir() else ()
    found = {stem_and_suffix(name)[0]: name for name in there}
    stems = {name: stem_and_suffix(name)[0] for name in renders}
    names = [f"{name}\n{found[stems[name]]}" for name in renders if stems[name] in found]
    return Pairs(names, source, out), [name for name in renders if stems[name] not in found]


@dataclass(frozen=True)
class PairMeasures:
    """base: of the render, as it is or through the VAE; output: of its translation, against that."""

    base: Measures
    output: Measures


@dataclass(frozen=True)
class PairJob(Job[PairItem, PairMeasures]):
    """How pairs are judged: the crops' side in pixels, and the background as in `same_background`.

    model: whose VAE the renders pass first; without it SSIM and CIEDE2000 contain the VAE's own loss, where the details
    are the model's. device: of both networks, by default what the runner says, else cuda where there is one.
    """

    size: int = 128
    background: str = "same"
    model: standalone.ModelChoice | None = None
    device: str | None = None
    writes = False  # the targets are there: they are what is judged

    def start(self, device: str | None = None) -> PairWorker:
        """With the networks loaded. Raises UserError."""
        if (missing := missing_packages()) is not None:
            raise UserError(missing)
        place = standalone.usable_device(self.device or device)
        host = standalone.load_model(replace(self.model, device=place)) if self.model else None
        return PairWorker(self, Lite0(place), host)


class PairWorker(Worker[PairItem, PairMeasures]):
    """A job's measuring with a feature network and perhaps a model. It writes nothing."""

    def __init__(self, job: PairJob, network: FeatureNetwork, host: ModelHost | None = None) -> None:
        self.job, self.network, self.host = job, network, host

    def read(self, item: PairItem) -> tuple[Render, Tensor]:
        """The render, and its translation (3, H, W). Raises ImageError, also for two of different shapes."""
        render, picture = load_render(item.source, item.name), flatten_alpha(load_picture(item.target))
        shape, own = picture.shape[1:], render.rgb.shape[1:]
        if abs(shape[0] * own[1] - shape[1] * own[0]) > max(own) * 2:
            raise ImageError(f"is {own[1]}x{own[0]} but its translation {shape[1]}x{shape[0]}: another shape.")
        return render, picture

    def crops(self, render: Render, picture: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the render, its base and its translation (1, 3, size, size), and of the mask (1, size, size)."""
        source, mask = source_crops([render], self.job.size)
        base = source if self.host is None else cut_all(round_trip(self.host, [render.rgb]), [render], self.job.size)
        return source, base, cut_all([picture], [render], self.job.size), mask

    def make(self, item: PairItem, content: tuple[Render, Tensor], on_step: OnStep | None = None) -> PairMeasures:
        _, base, output, mask = self.crops(*content)
        if not mask.any():
            raise ImageError(f"has a garment mask too thin for a crop of {self.job.size} pixels.")
        how = mask, self.network, self.job.background
        return PairMeasures(*measure(base, base, *how), *measure(output, base, *how))

    def write(self, item: PairItem, result: PairMeasures) -> PairMeasures:
        return result
