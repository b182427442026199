"""Pieces of HTML that several panels show. Pure functions, no gradio; whatever comes from outside is escaped."""

from __future__ import annotations

import html
import time
from collections.abc import Iterable


def duration(seconds: float) -> str:
    """E.g. 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def message_html(sentence: str, good: bool = True, about: str = "") -> str:
    """One sentence for the user, as an error if it is not good news.

    about: the id of the element that it is about, beside which the page's script puts it.
    """
    kind = "class='negtrans-message'" if good else "class='negtrans-error' role='alert'"
    # the number makes the same sentence said again another one
    field = f" data-negtrans-about='{html.escape(about, quote=True)}' data-said='{time.time_ns()}'" if about else ""
    return f"<p {kind}{field}>{html.escape(sentence)}</p>"


def picked_html(lines: Iterable[str]) -> str:
    """What was said of a new embedding; the page's script has the host make its cards again for each."""
    said = "".join(message_html(line) for line in lines)
    return f"<div data-kind='negative' data-picked='{time.time_ns()}'>{said}</div>"


def bar_html(fraction: float, text: str, remaining: float | None = None) -> str:
    """A progress bar; fraction in [0, 1], remaining in seconds."""
    percent = f"{100 * fraction:.1f}%"
    if remaining is not None:
        text = f"{text}, {duration(remaining)} left"
    return (
        f"<div class='negtrans-bar' role='progressbar' aria-valuenow='{100 * fraction:.0f}' aria-valuemin='0' "
        f"aria-valuemax='100'><div style='width:{percent}'></div><span>{percent} (<span>{html.escape(text)}</span>)"
        "</span></div>"
    )


def numbers_html(cells: Iterable[tuple[str, str]]) -> str:
    """A grid of (label, value)."""
    rows = "".join(f"<div><span>{label}</span><b>{html.escape(value)}</b></div>" for label, value in cells)
    return f"<div class='negtrans-numbers'>{rows}</div>"
