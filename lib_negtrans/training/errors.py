"""What training raises when something is wrong with the call, the files or the run."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from lib_negtrans.errors import UserError
from lib_negtrans.memory import is_out_of_memory
from lib_negtrans.options import ParamError


class TrainingError(UserError):
    """Training cannot start or go on; the message says in one or two sentences what to do and where the vectors are."""


class ScheduleError(ParamError):
    """The text is not a learning-rate schedule."""


class CaptionError(TrainingError):
    """A caption template or a caption file cannot be used."""


class DatasetError(TrainingError):
    """The folder of pictures cannot be trained on."""


class CheckpointError(TrainingError):
    """A checkpoint is damaged, or belongs to another run."""


def sentence(error: Exception) -> str:
    """An error for a user: our own as they are, memory or disk that ran out with what helps, others with their kind."""
    if is_out_of_memory(error):
        return "Memory ran out: lower the batch size or the picture size, or turn on gradient checkpointing."
    if isinstance(error, OSError) and error.strerror:
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return f"{what}: free some space, then go on." if full else f"{what}."
    return str(error) if isinstance(error, UserError | ParamError) else f"{type(error).__name__}: {error}"


@contextmanager
def told_memory() -> Iterator[None]:
    """Memory that runs out inside becomes a TrainingError: before the first step nothing else says where it was."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(sentence(error)) from error
