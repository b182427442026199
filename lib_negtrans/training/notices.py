"""What a user should know before the first step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lib_negtrans.training.data.captions import Captions
from lib_negtrans.training.data.dataset import DatasetReport

from .events import Notice
from .params import TrainingParams


def starting_notices(
    params: TrainingParams, steps: int, report: DatasetReport, captions: Captions, about_weights: Iterable[str]
) -> Iterator[Notice]:
    """Notices about the pictures, the captions, the start and the schedule.

    steps: how many the schedule allows; about_weights: what the trainable warns of.
    """
    for level, sentence in report.sentences():
        yield Notice(sentence, level)
    if captions.uses_filewords and not any(entry.captioned for entry in report.entries):
        words = report.entries[0].words
        yield Notice(f"No picture has a .txt: captions come from file names, such as {words!r}.", "warning")
    for text in about_weights:
        yield Notice(text, "warning")
    low, high = params.timesteps
    used = f"those that a translation at strength {params.strength:g} uses"
    if params.min_timestep >= 0 or params.max_timestep >= 0:
        used = "the options name them, whatever the strength is"
    yield Notice(f"Timesteps {low} to {high} are trained: {used}.")
    if params.optimizer == "prodigy" and params.lr.strip() not in ("1", "1.0"):
        text = f"Prodigy finds the step size by itself and multiplies it by the learning rate {params.lr}: use 1."
        yield Notice(text, "warning")
    if params.weight_decay:
        yield Notice("Weight decay pulls the vectors towards zero; Norm decay keeps them as long as real tokens.")
    if steps < params.steps:
        text = f"The learning-rate schedule ends at step {steps}: training stops there, not at {params.steps}."
        yield Notice(text, "warning")
