"""A training job as most tests want it: its request from keywords."""

from __future__ import annotations

from pathlib import Path

from lib_negtrans.training.data.sets import Folders
from lib_negtrans.training.request import TrainingRequest
from lib_negtrans.training.run import Training


def training_job(host, params, *, images, name, run_folder, out, resume=False, overwrite=False, **options):
    """A `Training`; images: a folder, or `Folders`."""
    others = images if isinstance(images, Folders) else Folders(Path(images))
    request = TrainingRequest(
        name, others.renders, params, None, resume, overwrite, others.photos, others.validation,
        others.validation_photos,
    )  # fmt: skip
    return Training(request, host, run_folder, out, **options)
