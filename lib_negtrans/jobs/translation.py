"""One translation at a time, in a thread of its own, for the standalone page. No gradio in here.

    runner = TranslationRunner(workplace)
    runner.start(TranslationRequest(picture, params))
    runner.snapshot()          # whenever somebody looks, also after the page was reloaded
    runner.request_stop()

It takes the workplace's lock, so that a translation and a training on the same model wait for each other.
"""

from __future__ import annotations

import io
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from torch import Tensor

from lib_negtrans.pictures.images import Picture, to_pil, write_png
from lib_negtrans.pictures.masks import mask_from_picture
from lib_negtrans.translation.cache import TrajectoryCache
from lib_negtrans.translation.infotext import EMBEDDING_KEY, WEIGHT_KEY, format_infotext
from lib_negtrans.translation.item import prepared
from lib_negtrans.translation.negatives import Negative, with_negatives
from lib_negtrans.translation.params import TranslationParams
from lib_negtrans.translation.pipeline import Progress, Translation, translate_image
from lib_negtrans.translation.plan import guided_rows, inversion_rows

from .background import FINISHED, STOPPED, WAITING, BackgroundJob, JobSnapshot
from .workplace import LocalWorkplace

INVERTING, TRANSLATING = "inverting", "translating"
_PHASES = {"inversion": INVERTING, "translation": TRANSLATING}

_PREVIEW = "preview-"
KEPT_JOBS = 4  # whose pictures stay in memory, for pages that still show them
PREVIEW_SHARE = 5  # a preview is decoded when the steps since the last one took this many times as long as it took
FIRST_PREVIEW = 0.5  # seconds that the first one is thought to take


class RequestRefused(Exception):
    """A request that cannot be started now; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class TranslationRequest:
    """What a user asks for.

    negative: the chosen embedding, put before what was typed. embeddings: those whose trigger words are in the prompts.
    longest: the side in pixels that larger pictures are made smaller to; 0 keeps the size. mask: painted, white is
    translated.
    """

    picture: Picture
    params: TranslationParams
    negative: Negative | None = None
    embeddings: Mapping[str, Tensor] = field(default_factory=dict)
    longest: int = 0
    mask: Picture | None = None


@dataclass(frozen=True)
class TranslationSnapshot(JobSnapshot):
    """How a translation stands. `pictures` are names for `TranslationRunner.picture`; size is (width, height)."""

    step: int = 0
    total: int = 0
    fraction: float = 0.0
    remaining: float | None = None
    size: tuple[int, int] = (1, 1)
    source: str | None = None
    preview: str | None = None
    result: str | None = None
    infotext: str = ""
    cost: str = ""
    seconds: float = 0.0


class TranslationRunner(BackgroundJob[TranslationSnapshot]):
    """Runs translations on a workplace's model."""

    too_large = "This needs more memory than there is: choose a smaller longest side."

    def __init__(self, workplace: LocalWorkplace):
        super().__init__(TranslationSnapshot())
        self.workplace = workplace
        self._pictures: dict[int, dict[str, bytes]] = {}
        self.cache = TrajectoryCache()  # of the same picture with another embedding or setting

    def picture(self, number: int, name: str) -> bytes | None:
        """The PNG or JPEG of a job, while it is kept."""
        return self._pictures.get(number, {}).get(name)

    def start(self, request: TranslationRequest) -> TranslationSnapshot:
        """Start one. Raises RequestRefused while another is under way, ParamError for bad parameters."""
        request.params.validate()
        with self._lock:
            if self._state.busy:
                raise RequestRefused("A translation is under way: wait for its end, or interrupt it.")
            number = self._state.number + 1
            self._pictures[number] = {}
            for old in sorted(self._pictures)[:-KEPT_JOBS]:
                del self._pictures[old]
            return self._begin(TranslationSnapshot(number, WAITING), self._work, request)

    def _keep(self, name: str, content: bytes) -> str:
        self._pictures[self._state.number][name] = content
        return name

    def _work(self, request: TranslationRequest) -> None:
        while not self.workplace.lock.acquire(timeout=0.2):
            if self._stop.is_set():
                return self._end(STOPPED)
        try:
            finished = self._translate(request)
        finally:
            self.workplace.lock.release()
        return self._end(FINISHED if finished else STOPPED, remaining=None)

    def _translate(self, request: TranslationRequest) -> bool:
        """False when it was interrupted."""
        host = self.workplace.host
        negatives = [request.negative] if request.negative else []
        params, embeddings = with_negatives(request.params, negatives)
        shrinks = request.longest and max(request.picture.size) > request.longest
        painted = None
        if request.mask is not None:
            painted = mask_from_picture(request.mask, request.picture.size, "as dropped")
        loaded = prepared(request.picture, params, painted, (request.longest, request.longest) if shrinks else None)
        rgb, alpha, (width, height) = loaded.rgb, loaded.alpha, loaded.size
        source = self._keep("source.png", _png(rgb, alpha))
        self._note(phase=INVERTING, size=(width, height), source=source)
        mask = None if loaded.mask is None else loaded.mask[None, None]
        vectors = {**request.embeddings, **embeddings}
        steps = translate_image(host, rgb[None], params, vectors, self.cache, mask=mask)
        result = self._run(steps, params, (width, height))
        if result is None:
            return False
        extra: dict[str, object] = {"Model": host.checkpoint_name, "Model hash": host.checkpoint_hash[:10]}
        if request.negative:
            extra |= {EMBEDDING_KEY: request.negative.name, WEIGHT_KEY: request.negative.weight}
        infotext = format_infotext(request.params, (width, height), extra, host.loras)
        content = _png(result.image[0], alpha, {"parameters": infotext})
        name = self._keep(f"translated-{datetime.now():%Y%m%d-%H%M%S}.png", content)
        self._note(
            result=name, infotext=infotext, seconds=result.seconds, fraction=1.0,
            cost="; ".join(filter(None, (str(result.forwards), loaded.note))),
        )  # fmt: skip
        return True

    def _run(
        self, steps: Generator[Progress, None, Translation], params: TranslationParams, size: tuple[int, int]
    ) -> Translation | None:
        """The generator to its end, noting every step; None when it was interrupted."""
        began = last_preview = time.perf_counter()
        cost = FIRST_PREVIEW
        known = None  # what the cache had, and took no time
        rows = _rows(params)
        while not self._stop.is_set():
            try:
                progress = next(steps)
            except StopIteration as stop:
                return stop.value
            done = _work_done(rows, progress)
            if known is None:
                known = done if progress.index else 0.0
            now = time.perf_counter()
            self._note(
                phase=_PHASES[progress.phase], step=progress.index + 1, total=progress.total, fraction=done,
                remaining=(now - began) * (1 - done) / (done - known) if done > known else None,
            )  # fmt: skip
            if progress.clean is not None and now - last_preview >= PREVIEW_SHARE * cost:
                self._preview(progress.index, progress.clean, size)
                last_preview = time.perf_counter()
                cost = last_preview - now
        steps.close()
        return None

    def _preview(self, step: int, latent: Tensor, size: tuple[int, int]) -> None:
        width, height = size
        image = to_pil(self.workplace.host.decode_latent(latent)[0, :, :height, :width])
        image.thumbnail((768, 768))
        stream = io.BytesIO()
        image.save(stream, format="JPEG", quality=85)
        self._note(preview=self._keep(f"{_PREVIEW}{step + 1}.jpg", stream.getvalue()))
        pictures = self._pictures[self._state.number]
        for old in [name for name in pictures if name.startswith(_PREVIEW)][:-3]:  # a page may still ask for the last
            del pictures[old]


def _rows(params: TranslationParams) -> list[int]:
    """The rows that the UNet evaluates in each step of both phases."""
    return inversion_rows(params) + [guided_rows(params)] * len(params.timesteps)


def _work_done(rows: list[int], progress: Progress) -> float:
    """The share of the whole after a step."""
    return sum(rows[: progress.index + 1]) / sum(rows)


def _png(rgb: Tensor, alpha: Tensor | None, text: dict[str, str] | None = None) -> bytes:
    stream = io.BytesIO()
    write_png(stream, to_pil(rgb, alpha), text)
    return stream.getvalue()
