"""Translating a file or a folder tree: what is to do, what is done already, and one failure never stops the rest.

Pictures are read ahead and written behind by a thread each while the model works on one; several processes share a
folder by `claims`.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from lib_negtrans import __version__
from lib_negtrans.core.attention import AttentionShapeError
from lib_negtrans.memory import SENTENCE as OUT_OF_MEMORY
from lib_negtrans.memory import free_memory, is_out_of_memory
from lib_negtrans.models.protocol import HostError, ModelHost
from lib_negtrans.options import ParamError
from lib_negtrans.pictures.images import (
    EXTENSIONS,
    ImageError,
    Picture,
    fit_within,
    flatten_alpha,
    load_picture,
    save_png,
    to_pil,
)
from lib_negtrans.pictures.masks import find_mask, load_mask, mask_file
from lib_negtrans.pictures.tree import iter_image_files
from lib_negtrans.runners.claims import Claims
from lib_negtrans.steps import finish

from .infotext import format_infotext
from .params import TranslationParams
from .pipeline import Forwards, Progress, translate_image

WRITTEN_BEHIND = 2  # finished pictures that may wait for their file
WAIT = 0.2  # seconds between looks at what other processes still work on


@dataclass(frozen=True)
class Item:
    """One picture to translate: source file, where its PNG goes, and its painted mask if it has one."""

    source: Path
    target: Path
    mask: Path | None = None


@dataclass(frozen=True)
class ItemDone:
    """A finished item: `index` of `total`; error is a sentence or None.

    skipped: its output was there already, or with `elsewhere` another process made it meanwhile. note: about its mask.
    """

    item: Item
    index: int
    total: int
    skipped: bool = False
    error: str | None = None
    forwards: Forwards | None = None
    seconds: float = 0.0
    elsewhere: bool = False
    note: str = ""


def plan(source: Path, out: Path, masks: Path | None = None) -> list[Item]:
    """Items for a file or a folder tree; the tree is mirrored, two files of one stem keep their suffix in the name.

    masks: a mask for all, or a folder that mirrors the tree by names. Raises ParamError when there is nothing at
    `source` or `masks`, or no picture in it.
    """
    if masks is not None and not masks.exists():
        raise ParamError(f"there is no mask file or folder {masks}.")
    if source.is_file():
        return [Item(source, out / f"{source.stem}.png", _mask_of(masks, source, None))]
    if not source.is_dir():
        raise ParamError(f"there is no file or folder {source}.")
    files = [f for f in iter_image_files(source, exclude=out) if masks is None or not f.is_relative_to(masks)]
    if not files:
        raise ParamError(f"no pictures were found in {source}: it takes {', '.join(sorted(EXTENSIONS))} files.")
    # compared without case, as Windows and macOS do
    stems = Counter(str(path.with_suffix("")).casefold() for path in files)
    items = []
    for path in files:
        relative = path.relative_to(source)
        shared = stems[str(path.with_suffix("")).casefold()] > 1
        name = f"{path.name}.png" if shared and path.suffix != ".png" else f"{path.stem}.png"
        items.append(Item(path, out / relative.parent / name, _mask_of(masks, path, source)))
    return items


def _mask_of(masks: Path | None, picture: Path, root: Path | None) -> Path | None:
    """Where the mask is, or would have to be: a missing one is that picture's failure, not the call's."""
    if masks is None:
        return None
    try:
        return mask_file(masks, picture, root)
    except ImageError:
        return masks / (picture.parent.relative_to(root) if root is not None else "") / picture.name


@dataclass(frozen=True)
class Loaded:
    """A picture as it is translated: rgb (3, H, W), alpha and mask (H, W) or None; what was found of a mask."""

    rgb: Tensor
    alpha: Tensor | None
    mask: Tensor | None
    note: str

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.rgb.shape[2], self.rgb.shape[1]


def load_item(item: Item, params: TranslationParams, size: tuple[int, int] | None = None) -> Loaded:
    """Read an item's picture and mask, fitted into size (width, height). Raises ImageError."""
    picture = load_picture(item.source)
    if item.mask is None:
        return prepared(picture, params, None, size)
    if not item.mask.exists():
        raise ImageError(f"has no mask: {item.mask} is missing, and so are its other usual names.")
    return prepared(picture, params, load_mask(item.mask, picture.size), size)


def prepared(
    picture: Picture, params: TranslationParams, painted: Tensor | None, size: tuple[int, int] | None
) -> Loaded:
    """A picture with its painted mask (H, W), or the one that the parameters ask to find in it, fitted into size."""
    mask, note = painted, ""
    if painted is None:
        found = find_mask(picture, params.mask)
        mask, note = found.mask, found.how if params.mask != "none" else ""
    rgb, alpha = flatten_alpha(picture), picture.alpha
    if size is not None:
        rgb = fit_within(rgb, size)
        alpha, mask = (fit_within(plane[None], size)[0] if plane is not None else None for plane in (alpha, mask))
    return Loaded(rgb, alpha, mask, note)


@dataclass
class _Run:
    """One pass over the items, with its threads and claims."""

    host: ModelHost
    items: list[Item]
    params: TranslationParams
    embeddings: Mapping[str, Tensor]
    size: tuple[int, int] | None
    overwrite: bool
    on_progress: Callable[[Progress], None] | None
    claims: Claims
    reader: ThreadPoolExecutor
    writer: ThreadPoolExecutor
    began: float
    ahead: tuple[int, Future] | None = None
    behind: deque[tuple[int, Loaded, Forwards, float, Future]] = field(default_factory=deque)

    def results(self) -> Iterator[ItemDone]:
        todo, later = deque(range(len(self.items))), deque()
        while todo or later:
            if not todo:  # what others work on: they may fail to
                yield from self._written(0)
                time.sleep(WAIT)
                todo, later = later, todo
            index = todo.popleft()
            target = self.items[index].target
            if self._is_done(target):
                yield self._done(index, skipped=True, elsewhere=target.stat().st_mtime >= self.began)
            elif self.claims.failed_elsewhere(target):
                yield self._done(index, skipped=True, elsewhere=True)
            elif not self.claims.take(target):
                later.append(index)
            elif self._is_done(target):  # finished by another between the two looks
                self.claims.release(target)
                yield self._done(index, skipped=True, elsewhere=True)
            else:
                yield from self._work(index, todo)
        yield from self._written(0)

    def _work(self, index: int, todo: deque[int]) -> Iterator[ItemDone]:
        item = self.items[index]
        error = None
        try:
            loaded = self._load(index, todo)
            image, forwards, seconds = self._translate(loaded)
        except (ImageError, HostError, AttentionShapeError, OSError) as problem:
            error = str(problem)
        except (RuntimeError, MemoryError) as problem:
            if not is_out_of_memory(problem):
                raise
            error = OUT_OF_MEMORY
        if error is not None:
            free_memory()
            self.claims.fail(item.target)
            yield from self._written(0)  # in the order of the items
            yield self._done(index, error=error)
            return
        saving = self.writer.submit(self._save, item, loaded, image)
        self.behind.append((index, loaded, forwards, seconds, saving))
        yield from self._written(WRITTEN_BEHIND)

    def _load(self, index: int, todo: deque[int]) -> Loaded:
        """The picture, read ahead if it was; the next one's reading begins."""
        if self.ahead is not None and self.ahead[0] == index:
            reading = self.ahead[1]
        else:
            reading = self.reader.submit(load_item, self.items[index], self.params, self.size)
        self.ahead = None
        for number in todo:
            target = self.items[number].target
            if not self._is_done(target) and not self.claims.taken(target):
                self.ahead = number, self.reader.submit(load_item, self.items[number], self.params, self.size)
                break
        return reading.result()

    def _translate(self, loaded: Loaded) -> tuple[Tensor, Forwards, float]:
        mask = None if loaded.mask is None else loaded.mask[None, None]
        steps = translate_image(self.host, loaded.rgb[None], self.params, self.embeddings, mask=mask)
        result = finish(steps, self.on_progress)
        return result.image[0].float().cpu(), result.forwards, result.seconds

    def _save(self, item: Item, loaded: Loaded, image: Tensor) -> None:
        try:
            save_png(item.target, to_pil(image, loaded.alpha), self._text(item, loaded))
        except BaseException:
            self.claims.fail(item.target)
            raise
        self.claims.release(item.target)

    def _text(self, item: Item, loaded: Loaded) -> dict[str, str]:
        details = {"version": __version__, "source": item.source.name, "checkpoint": self.host.checkpoint_name}
        return {
            "parameters": format_infotext(self.params, loaded.size, {"Model": self.host.checkpoint_name}),
            "negtrans": json.dumps(details | {"params": self.params.to_dict()}, ensure_ascii=False),
        }

    def _written(self, may_wait: int) -> Iterator[ItemDone]:
        """The results of saved pictures, in order; waits until at most `may_wait` are left."""
        while self.behind and (len(self.behind) > may_wait or self.behind[0][-1].done()):
            index, loaded, forwards, seconds, saving = self.behind.popleft()
            try:
                saving.result()
            except OSError as error:
                yield self._done(index, error=str(error))
            else:
                yield self._done(index, forwards=forwards, seconds=seconds, note=loaded.note)

    def _is_done(self, target: Path) -> bool:
        """With `overwrite`, what was written since this run began was written by it."""
        try:
            written = target.stat().st_mtime
        except OSError:
            return False
        return not self.overwrite or written >= self.began

    def _done(self, index: int, **values: object) -> ItemDone:
        return ItemDone(self.items[index], index, len(self.items), **values)


def translate_items(
    host: ModelHost,
    items: list[Item],
    params: TranslationParams,
    embeddings: Mapping[str, Tensor],
    *,
    size: tuple[int, int] | None = None,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    claims: Claims | None = None,
    began: float | None = None,
) -> Iterator[ItemDone]:
    """Translate items; outputs that exist are skipped unless `overwrite`, failures are reported and the rest goes on.

    size (width, height): to fit in, aspect kept. Results come in the items' order, but for those that other processes
    had first. A caller that stops early, or is interrupted, loses nothing that was translated: it is written before the
    generator ends. claims: by default its own, for as long as it runs. began: with overwrite, outputs written since
    then (time.time) are this run's own.
    """
    with ExitStack() as stack:
        held = stack.enter_context(Claims()) if claims is None else claims
        # entered last, left first: what is translated is written while its claim is still held
        reader = ThreadPoolExecutor(1, "negtrans-read")
        stack.callback(reader.shutdown, wait=True, cancel_futures=True)
        writer = stack.enter_context(ThreadPoolExecutor(1, "negtrans-write"))
        began = time.time() if began is None else began
        run = _Run(host, items, params, embeddings, size, overwrite, on_progress, held, reader, writer, began)
        yield from run.results()
