"""One translation at a time, in a thread of its own, for the standalone page. No gradio in here.

    runner = TranslationRunner(workplace)
    runner.start(TranslationRequest(picture, params))
    runner.snapshot()          # whenever somebody looks, also after the page was reloaded
    runner.request_stop()

It takes the workplace's lock, so that a translation and a training on the same model wait for each other.
"""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from torch import Tensor

from lib_negtrans.errors import UserError
from lib_negtrans.memory import is_out_of_memory
from lib_negtrans.pictures.images import ImageError, Picture, to_pil, write_png
from lib_negtrans.pictures.masks import mask_from_picture
from lib_negtrans.translation.cache import TrajectoryCache
from lib_negtrans.translation.infotext import EMBEDDING_KEY, WEIGHT_KEY, format_infotext
from lib_negtrans.translation.item import prepared
from lib_negtrans.translation.negatives import Negative, with_negatives
from lib_negtrans.translation.params import TranslationParams
from lib_negtrans.translation.pipeline import Progress, Translation, translate_image
from lib_negtrans.translation.plan import guided_rows, inversion_rows

from .training import LocalWorkplace

logger = logging.getLogger(__name__)

IDLE, WAITING, INVERTING, TRANSLATING, FINISHED, INTERRUPTED, FAILED = (
    "idle", "waiting", "inverting", "translating", "finished", "interrupted", "failed",
)  # fmt: skip
BUSY = (WAITING, INVERTING, TRANSLATING)
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
class TranslationSnapshot:
    """How a translation stands. `pictures` are names for `TranslationRunner.picture`; size is (width, height)."""

    number: int = 0
    phase: str = IDLE
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
    stopping: bool = False
    error: str | None = None

    @property
    def busy(self) -> bool:
        return self.phase in BUSY


class TranslationRunner:
    """Runs translations on a workplace's model. Every method may be called from any thread."""

    def __init__(self, workplace: LocalWorkplace):
        self.workplace = workplace
        self._lock = threading.Lock()
        self._state = TranslationSnapshot()
        self._pictures: dict[int, dict[str, bytes]] = {}
        self._thread: threading.Thread | None = None
        self.cache = TrajectoryCache()  # of the same picture with another embedding or setting

    def snapshot(self) -> TranslationSnapshot:
        """The state of the translation under way, or else of the last one."""
        return self._state

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
            self._state = TranslationSnapshot(number, WAITING)
        self._thread = threading.Thread(target=self._work, args=(request,), name="negtrans-translation", daemon=True)
        self._thread.start()
        return self._state

    def request_stop(self) -> bool:
        """Stop after the step under way. False when nothing is running."""
        with self._lock:
            if not self._state.busy:
                return False
            self._state = replace(self._state, stopping=True)
            return True

    def wait(self, timeout: float | None = None) -> TranslationSnapshot:
        """Until the translation under way has ended: for tests and for the program's end."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self._state

    def _set(self, **values: object) -> None:
        with self._lock:
            self._state = replace(self._state, **values)

    def _keep(self, name: str, content: bytes) -> str:
        self._pictures[self._state.number][name] = content
        return name

    def _work(self, request: TranslationRequest) -> None:
        """The thread: never raises, because nobody would see it."""
        try:
            with self._turn() as got_it:
                ended = self._translate(request) if got_it else False
            self._set(phase=FINISHED if ended else INTERRUPTED, stopping=False, remaining=None)
        except ImageError as error:
            self._set(phase=FAILED, error=f"The render {error}")
        except UserError as error:
            self._set(phase=FAILED, error=str(error))
        except Exception as error:
            if is_out_of_memory(error):
                self._set(phase=FAILED, error="This needs more memory than there is: choose a smaller longest side.")
                return
            logger.exception("translation failed")
            self._set(phase=FAILED, error=f"{type(error).__name__}: {error}")

    @contextlib.contextmanager
    def _turn(self) -> Iterator[bool]:
        """Waits for the model; gives False when the user does not want to wait any longer."""
        got_it = False
        try:
            while not got_it and not self._state.stopping:
                got_it = self.workplace.lock.acquire(timeout=0.2)
            yield got_it
        finally:
            if got_it:
                self.workplace.lock.release()

    def _translate(self, request: TranslationRequest) -> bool:
        """False when it was interrupted."""
        host = self.workplace.host
        negatives = [request.negative] if request.negative else []
        params, embeddings = with_negatives(request.params, negatives)
        shrinks = request.longest and max(request.picture.size) > request.longest
        painted = request.mask and mask_from_picture(request.mask, request.picture.size, "as dropped")
        loaded = prepared(request.picture, params, painted, (request.longest, request.longest) if shrinks else None)
        rgb, alpha, (width, height) = loaded.rgb, loaded.alpha, loaded.size
        source = self._keep("source.png", _png(rgb, alpha))
        self._set(phase=INVERTING, size=(width, height), source=source)
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
        self._set(
            result=name, infotext=infotext, seconds=result.seconds, fraction=1.0,
            cost="; ".join(filter(None, (str(result.forwards), loaded.note))),
        )  # fmt: skip
        return True

    def _run(self, steps: Iterator[Progress], params: TranslationParams, size: tuple[int, int]) -> Translation | None:
        """The generator to its end, noting every step; None when it was interrupted."""
        began = last_preview = time.perf_counter()
        cost = FIRST_PREVIEW
        known = None  # what the cache had, and took no time
        rows = _rows(params)
        while not self._state.stopping:
            try:
                progress = next(steps)
            except StopIteration as stop:
                return stop.value
            done = _work_done(rows, progress)
            if known is None:
                known = done if progress.index else 0.0
            now = time.perf_counter()
            self._set(
                phase=_PHASES[progress.phase], step=progress.index + 1, total=progress.total, fraction=done,
                remaining=(now - began) * (1 - done) / (done - known) if done > known else None,
            )  # fmt: skip
            if progress.clean is not None and now - last_preview >= PREVIEW_SHARE * cost:
                self._preview(progress, size)
                last_preview = time.perf_counter()
                cost = last_preview - now
        steps.close()
        return None

    def _preview(self, progress: Progress, size: tuple[int, int]) -> None:
        width, height = size
        image = to_pil(self.workplace.host.decode_latent(progress.clean)[0, :, :height, :width])
        image.thumbnail((768, 768))
        stream = io.BytesIO()
        image.save(stream, format="JPEG", quality=85)
        self._set(preview=self._keep(f"{_PREVIEW}{progress.index + 1}.jpg", stream.getvalue()))
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
