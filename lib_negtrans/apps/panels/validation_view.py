"""What the validations of a training found, as HTML: the gains over the steps, and the verdict. Pure functions."""

from __future__ import annotations

import html
from collections.abc import Sequence

from lib_negtrans.jobs.training import TrainingSnapshot
from lib_negtrans.training.judging.verdict import CONTENT, DIVERGING, LEARNING, NO_EFFECT, SETTLED

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 200, 52, 24, 12, 12  # as the loss curve's
RENDERS, PHOTOS = "#e8833a", "#3b82f6"

# shown before the sentence, whole, so that the webui translates them
VERDICTS = {
    NO_EFFECT: "No effect yet.",
    LEARNING: "Learning.",
    SETTLED: "Settled.",
    CONTENT: "Content only so far.",
    DIVERGING: "Diverging.",
}


def verdict_html(state: TrainingSnapshot) -> str:
    """The last verdict, "" before there is one."""
    if not state.verdict:
        return ""
    kind = "negtrans-error" if state.verdict == DIVERGING else "negtrans-message"
    _, _, rest = (state.verdict_text or "").partition(": ")
    sentence = rest or state.verdict_text or ""
    return (
        f"<p class='{kind} negtrans-verdict' data-verdict='{html.escape(state.verdict)}'>"
        f"<b>{VERDICTS[state.verdict]}</b> <span>{html.escape(sentence[:1].upper() + sentence[1:])}</span></p>"
    )


def gain_curve(points: Sequence[tuple[int, float, float | None]]) -> str:
    """(step, gain on renders, gain on photos or None) of at least two validations as an SVG; gains are shares.

    The area between the two curves is the gap: what has been learnt about the rendered look.
    """
    steps = [point[0] for point in points]
    renders = [100 * point[1] for point in points]
    photos = [100 * point[2] for point in points if point[2] is not None]
    photos = photos if len(photos) == len(points) else []
    low, high = min(0.0, *renders, *photos), max(0.0, *renders, *photos)
    margin = 0.08 * (high - low) or 0.1
    low, high = low - margin, high + margin
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(step: float) -> float:
        return LEFT + width * (step - steps[0]) / max(1, steps[-1] - steps[0])

    def y(gain: float) -> float:
        return TOP + height * (high - gain) / (high - low)

    def path(values: Sequence[float]) -> list[str]:
        return [f"{x(step):.1f},{y(value):.1f}" for step, value in zip(steps, values, strict=True)]

    parts = []
    for value in (low + margin, (low + high) / 2, high - margin):
        parts.append(f"<text x='{LEFT - 6}' y='{y(value) + 4:.1f}' text-anchor='end'>{value:.2g} %</text>")
    parts.append(
        f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{y(0):.1f}' y2='{y(0):.1f}' stroke='currentColor' "
        "stroke-opacity='.4' stroke-dasharray='4 3'/>"
    )
    for step, anchor in ((steps[0], "start"), (steps[-1], "end")):
        parts.append(f"<text x='{x(step):.1f}' y='{HEIGHT - 6}' text-anchor='{anchor}'>step {step}</text>")
    if photos:
        area = " ".join(path(renders) + path(photos)[::-1] if photos else [])
        parts.append(f"<polygon points='{area}' fill='{RENDERS}' fill-opacity='.15'/>")
        parts.append(f"<polyline points='{' '.join(path(photos))}' fill='none' stroke='{PHOTOS}' stroke-width='2'/>")
        parts.append(f"<text x='{LEFT + 4}' y='{TOP + 24}' style='fill:{PHOTOS}'>photos</text>")
    parts.append(f"<polyline points='{' '.join(path(renders))}' fill='none' stroke='{RENDERS}' stroke-width='2'/>")
    parts.append(f"<text x='{LEFT + 4}' y='{TOP + 10}' style='fill:{RENDERS}'>renders</text>")
    return (
        f"<svg class='negtrans-curve negtrans-gains' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' "
        f"aria-label='Gain of the vectors on pictures held out' data-points='{len(points)}' font-size='11' "
        f"fill='currentColor'>{''.join(parts)}</svg>"
    )
