"""What a positive training learns from: photographs, held-out photographs and renders, and what is to be preserved."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from pathlib import Path

from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.pictures.images import save_png, to_pil
from lib_negtrans.training.errors import DatasetError
from lib_negtrans.training.events import Event, MakingClass, Notice
from lib_negtrans.training.positive_params import PositiveParams
from lib_negtrans.translation.sampling import sample_picture

from .captions import PhotoWords
from .dataset import training_files
from .latents import Dataset, build_dataset
from .sets import Folders, TrainingData, spare


def read_photographs(
    host: ModelHost, folders: Folders, params: PositiveParams, cache: Path | None = None
) -> Generator[Event, None, TrainingData]:
    """Read and encode all of them, and make class pictures that are missing. Yields events; raises as `build_dataset`.

    Held-out renders are those of the folder for validation, else of the renders' folder, of which then some are kept
    apart from the prior's rows.
    """
    # the pattern is for the training pictures
    others = dataclasses.replace(params, pattern="")
    photos_folder = folders.photos
    assert photos_folder is not None

    def read(folder: Path, used: PositiveParams = others) -> Generator[Event, None, Dataset]:
        words = PhotoWords(folder, params.instance_prompt, params.folder_prompt)
        return (yield from build_dataset(host, folder, used, cache, words))

    photos = yield from read(photos_folder, params)
    held_photos = held_renders = renders = prior = None
    if params.validate_every:
        if folders.validation_photos is not None:
            held_photos = yield from read(folders.validation_photos)
        else:
            photos, held_photos = yield from spare(photos, params, "photos")
    if folders.renders is not None and (params.validate_every or _preserves_renders(folders, params)):
        renders = yield from read(folders.renders)
    if params.validate_every:
        if folders.validation is not None:
            held_renders = yield from read(folders.validation)
        elif renders is not None and _preserves_renders(folders, params):
            renders, held_renders = yield from spare(renders, params, "renders")
        else:
            held_renders = renders
    if params.prior != "none" and params.prior_weight:
        if params.prior == "class":
            yield from fill_class_folder(host, folders, params)
        if folders.class_images is not None:
            class_words = PhotoWords(folders.class_images, params.class_prompt)
            prior = yield from build_dataset(host, folders.class_images, others, cache, class_words)
        else:
            prior = renders if renders is not None else _with_caption(photos, params.class_prompt)
    return TrainingData(None, photos, held_renders, held_photos, prior, "photos")


def _preserves_renders(folders: Folders, params: PositiveParams) -> bool:
    return params.prior == "base" and params.prior_weight > 0 and folders.class_images is None


def _with_caption(data: Dataset, caption: str) -> Dataset:
    entries = [dataclasses.replace(entry, words=caption) for entry in data.report.entries]
    return dataclasses.replace(data, report=dataclasses.replace(data.report, entries=entries))


def fill_class_folder(host: ModelHost, folders: Folders, params: PositiveParams) -> Generator[Event, None, None]:
    """Sample the class prompt until the folder has `class_count` pictures; what lies there is kept.

    Picture number n has the seed class_seed + n, so that a run that was interrupted goes on with the same ones.
    Raises DatasetError where the folder cannot be used.
    """
    folder = folders.class_images
    if folder is None:
        raise DatasetError("Prior preservation by class pictures needs a folder for them: name one, or use base.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        next(folder.iterdir(), None)
    except OSError as error:
        raise DatasetError(f"The class folder {folder} cannot be used ({error.strerror}): name another one.") from error
    there = len(training_files(folder))
    missing = range(there, params.class_count)
    if there:
        yield Notice(f"{there} class pictures are in {folder}; {len(missing)} are made.")
    for done, number in enumerate(missing):
        picture = sample_picture(
            host, params.class_prompt, params.class_negative_prompt, params.class_seed + number,
            (params.size, params.size), params.class_steps, params.class_cfg_scale,
        )  # fmt: skip
        try:
            save_png(folder / f"class-{params.class_seed + number:08d}.png", to_pil(picture))
        except OSError as error:
            raise DatasetError(
                f"Class picture {number} cannot be written into {folder} ({error.strerror}): the others are kept."
            ) from error
        yield MakingClass(done + 1, len(missing))
