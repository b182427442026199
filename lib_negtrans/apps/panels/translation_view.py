"""A translation's state as HTML: progress, preview, comparison, what was used. Pure functions, no gradio."""

from __future__ import annotations

import html
from collections.abc import Callable

from lib_negtrans.jobs.background import FAILED, FINISHED, IDLE, STOPPED, WAITING
from lib_negtrans.jobs.translation import INVERTING, TRANSLATING, TranslationSnapshot

from .before_after import before_after_html
from .markup import bar_html, duration, message_html

HEADLINES = {
    IDLE: "Choose a render and press Translate.",
    WAITING: "Waiting for its turn: a training is using the model.",
    INVERTING: "Inverting the render.",
    TRANSLATING: "Translating.",
    FINISHED: "Finished.",
    STOPPED: "Interrupted. There is no result.",
    FAILED: "Failed.",
}

Url = Callable[[int, str], str]


def progress_html(state: TranslationSnapshot) -> str:
    """Headline, error and bar. Its root carries data-phase, data-busy and data-job for script and tests."""
    headline = "Stopping after this step." if state.stopping else HEADLINES[state.phase]
    if state.phase == FINISHED:
        headline += f" It took {duration(state.seconds)}."
    step = f"step {state.step} of {state.total}" if state.total else "begins"
    return (
        f"<div class='negtrans-translation' role='status' data-phase='{state.phase}' "
        f"data-busy='{int(state.busy)}' data-job='{state.number}'>"
        f"<p class='negtrans-headline'>{headline}</p>"
        + (message_html(state.error, good=False) if state.error else "")
        + (bar_html(state.fraction, step, state.remaining) if state.busy else "")
        + "</div>"
    )


def stage_html(state: TranslationSnapshot, url: Url) -> str:
    """The render, its preview while it is translated, the comparison at the end."""
    if state.source is None:
        return "<div class='negtrans-empty'>Here you will compare the render with its translation.</div>"
    source = url(state.number, state.source)
    if state.result is None:
        if not state.busy:
            return _figure(source, state.size, "the render")
        if state.preview is None:
            return _figure(source, state.size, "the render, which is being inverted")
        return _figure(url(state.number, state.preview), state.size, f"preview at step {state.step} of {state.total}")
    return before_after_html(source, url(state.number, state.result), state.size)


def _figure(source: str, size: tuple[int, int], caption: str) -> str:
    width, height = size
    return (
        "<figure class='negtrans-figure'>"
        f"<img src='{html.escape(source, quote=True)}' alt='{html.escape(caption, quote=True)}' "
        f"style='aspect-ratio:{width}/{height};max-width:min(100%, calc(70vh * {width} / {height}))'>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def result_html(state: TranslationSnapshot, url: Url) -> str:
    """The download and what was used; empty while there is no result."""
    if state.result is None:
        return ""
    name, (width, height) = html.escape(state.result, quote=True), state.size
    return (
        f"<p class='negtrans-download'><a href='{url(state.number, name)}' download='{name}'>Download PNG</a> "
        f"<span>{width} x {height}, with its settings inside the file</span></p>"
        f"<details class='negtrans-used'><summary>What was used</summary><pre>{html.escape(state.infotext)}</pre>"
        f"<p>{html.escape(state.cost)}</p></details>"
    )
