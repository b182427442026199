"""The script beside the others instead of in the dropdown, where a setting says so: other scripts then combine with it.

The host swallows what such a script raises and goes on, so nothing is refused here: the job refuses in `p.init`.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from modules import script_callbacks

from lib_negtrans import TITLE

from .infotext_fields import SCRIPT_KEY
from .job import TranslationJob
from .registration import register_once
from .settings import ALWAYS_ON, option


def register() -> None:
    """Have pasted pictures switch the panel on."""
    register_once(script_callbacks.on_infotext_pasted, not_from_the_dropdown)


def not_from_the_dropdown(_infotext: str, fields: dict[str, Any]) -> None:
    """A picture of ours names us as the chosen script, but where we are not in the dropdown none is to be chosen."""
    if option(ALWAYS_ON) and fields.get("Script") == TITLE:
        fields[SCRIPT_KEY] = fields.pop("Script")


def begin(p: Any, job: TranslationJob) -> None:
    """Make the processing object a translation until `end`; the host closes it where a job fails on the way."""
    running = ExitStack()
    running.enter_context(job.attached())
    running.callback(p.__dict__.pop, "close", None)
    p._negtrans_running = running
    close = p.close

    def end_and_close() -> None:
        end(p)
        close()

    p.close = end_and_close


def end(p: Any, finished: bool = False) -> None:
    """Everything is taken off again. Loops and the Batch tab go on with the same object.

    finished: what the job wrote for the pictures' text stays, because a grid writes its own text afterwards.
    """
    running = vars(p).pop("_negtrans_running", None)
    if running is not None:
        written = p.extra_generation_params
        running.close()
        if finished:
            p.extra_generation_params = written
