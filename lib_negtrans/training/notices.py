"""What a user should know before the first step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lib_negtrans.training.data.captions import FILEWORDS, Captions
from lib_negtrans.training.data.dataset import DatasetReport

from .common_params import CommonParams
from .events import Notice


def starting_notices(
    params: CommonParams, steps: int, report: DatasetReport, captions: Captions, about_weights: Iterable[Notice]
) -> Iterator[Notice]:
    """Notices about the pictures, the captions, the start and the schedule.

    steps: how many the schedule allows; about_weights: what the trainable has to say.
    """
    for level, sentence in report.sentences():
        yield Notice(sentence, level)
    # file names, where captions are not whole sentences of their own
    if captions.lines != (FILEWORDS,) and captions.uses_filewords and not report.captioned:
        words = report.entries[0].words
        yield Notice(f"No picture has a .txt: captions come from file names, such as {words!r}.", "warning")
    yield from about_weights
    low, high = params.timesteps
    used = f"those that a translation at strength {params.strength:g} uses" if params.strength < 1 else "all"
    if params.min_timestep >= 0 or params.max_timestep >= 0:
        used = "the options name them, whatever the strength is"
    yield Notice(f"Timesteps {low} to {high} are trained: {used}.")
    if params.optimizer == "prodigy" and params.lr.strip() not in ("1", "1.0"):
        text = f"Prodigy finds the step size by itself and multiplies it by the learning rate {params.lr}: use 1."
        yield Notice(text, "warning")
    if steps < params.steps:
        text = f"The learning-rate schedule ends at step {steps}: training stops there, not at {params.steps}."
        yield Notice(text, "warning")
