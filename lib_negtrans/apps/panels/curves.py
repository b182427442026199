"""A training's curves over its steps as SVG: the loss, and what validations found. Pure functions, no gradio."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

# In the picture's own pixels; the page shows it at least 420 wide, so that its texts are never below 11.
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT, FONT = 480, 240, 58, 26, 22, 12, 13
MAXIMUM_HOVERS = 80
RENDERS, PHOTOS = "#e8833a", "#3b82f6"


class _Chart:
    """Values in [low, high] over steps; values outside are drawn at the edge."""

    def __init__(self, steps: Sequence[int], low: float, high: float):
        self.steps, self.low, self.high = steps, low, high
        self.parts: list[str] = []

    def y(self, value: float) -> float:
        share = (self.high - min(max(value, self.low), self.high)) / (self.high - self.low)
        return TOP + (HEIGHT - TOP - BOTTOM) * share

    def x(self, step: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (step - self.steps[0]) / max(1, self.steps[-1] - self.steps[0])

    def path(self, values: Sequence[float]) -> list[str]:
        return [f"{self.x(step):.1f},{self.y(value):.1f}" for step, value in zip(self.steps, values, strict=True)]

    def hover(self, texts: Sequence[str]) -> None:
        """A text for each step, shown above the chart while the pointer is near it."""
        shown = range(len(texts) - 1, -1, -max(1, -(-len(texts) // MAXIMUM_HOVERS)))[::-1]
        places = [self.x(self.steps[index]) for index in shown]
        edges = [LEFT, *((a + b) / 2 for a, b in itertools.pairwise(places)), WIDTH - RIGHT]
        for index, place, left, right in zip(shown, places, edges, edges[1:], strict=False):
            self.parts.append(
                f"<g class='negtrans-hover'><rect x='{left:.1f}' y='0' width='{right - left:.1f}' height='{HEIGHT}' "
                f"fill='transparent'/><g><line x1='{place:.1f}' x2='{place:.1f}' y1='{TOP}' y2='{HEIGHT - BOTTOM}' "
                f"stroke='currentColor' stroke-opacity='.5'/><text x='{WIDTH - RIGHT}' y='{TOP - 8}' text-anchor='end'>"
                f"step {self.steps[index]}: {texts[index]}</text></g></g>"
            )

    def level(self, value: float, style: str) -> None:
        y = f"{self.y(value):.1f}"
        self.parts.append(f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{y}' y2='{y}' stroke='currentColor' {style}/>")

    def line(self, values: Sequence[float], style: str) -> None:
        self.parts.append(f"<polyline points='{' '.join(self.path(values))}' fill='none' {style}/>")

    def text(self, x: float, y: float, text: str, style: str) -> None:
        self.parts.append(f"<text x='{x:.1f}' y='{y:.1f}' {style}>{text}</text>")

    def svg(self, label: str, marks: Mapping[float, str], kind: str = "") -> str:
        """marks: value -> its text at the left edge."""
        for value, text in marks.items():
            self.text(LEFT - 6, self.y(value) + 4, text, "text-anchor='end'")
        self.text(LEFT, HEIGHT - 7, f"step {self.steps[0]}", "text-anchor='start'")
        self.text(WIDTH - RIGHT, HEIGHT - 7, f"step {self.steps[-1]}", "text-anchor='end'")
        return (
            f"<svg class='negtrans-curve{kind}' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{label}' "
            f"data-points='{len(self.steps)}' font-size='{FONT}' fill='currentColor'>{''.join(self.parts)}</svg>"
        )


def loss_curve(points: Sequence[tuple[int, float, float]], prior: Sequence[tuple[int, float]] = ()) -> str:
    """(step, loss, smoothed loss) of at least two steps: the losses faint, the smoothed curve strong.

    prior: (step, loss of prior preservation) for the same steps, smoothed here, as a curve of its own.

    All of the smoothed loss is shown, and of the single steps all but the outermost tenth.
    """
    steps, losses, averages = zip(*points, strict=True)
    ordered, cut = sorted(losses), len(losses) // 10
    kept = _smoothed([value for _, value in prior]) if len(prior) == len(points) else []
    low, high = min(*averages, ordered[cut], *kept), max(*averages, ordered[-1 - cut], *kept)
    margin = 0.05 * (high - low) or max(abs(high), 1e-6) * 0.05
    chart = _Chart(steps, low - margin, high + margin)
    marks = (chart.low, (chart.low + chart.high) / 2, chart.high)
    for value in marks:
        chart.level(value, "stroke-opacity='.15'")
    chart.line(losses, "stroke='currentColor' stroke-opacity='.25' stroke-width='1'")
    chart.line(averages, f"stroke='{RENDERS}' stroke-width='2'")
    if kept:
        chart.line(kept, f"stroke='{PHOTOS}' stroke-width='2'")
        for name, colour, down in (("all", RENDERS, 12), ("prior", PHOTOS, 28)):
            chart.text(WIDTH - RIGHT - 60, TOP + down, name, f"style='fill:{colour}'")
    texts = [f"loss {loss:.4g}, smoothed {average:.4g}" for loss, average in zip(losses, averages, strict=True)]
    chart.hover([f"{text}, prior {value:.4g}" for text, value in zip(texts, kept, strict=True)] if kept else texts)
    return chart.svg("Loss over steps", {value: f"{value:.3g}" for value in marks})


def _smoothed(values: Sequence[float]) -> list[float]:
    """The exponential average over about 50 of them, as that of the loss."""
    found: list[float] = []
    for value in values:
        share = max(1 / 50, 1 / (len(found) + 1))
        found.append(value if not found else (1 - share) * found[-1] + share * value)
    return found


def gain_curve(points: Sequence[tuple[int, float, float | None]], learnt: str = "renders") -> str:
    """(step, gain on the learnt kind, gain on the other or None) of at least two validations; gains are shares.

    learnt: "renders" or "photos". The area between the two curves is the gap: what has been learnt about the look.
    """
    names = ("renders", "photos") if learnt == "renders" else ("photos", "renders")
    colours = {"renders": RENDERS, "photos": PHOTOS}
    own = [100 * gain for _, gain, _ in points]
    other = [100 * gain for *_, gain in points if gain is not None]
    curves = [(names[0], own, colours[names[0]], 12)]
    if len(other) == len(points):
        curves.insert(0, (names[1], other, colours[names[1]], 28))
    values = [0.0, *(value for _, curve, *_ in curves for value in curve)]
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.1
    chart = _Chart([step for step, *_ in points], low - margin, high + margin)
    chart.level(0, "stroke-opacity='.4' stroke-dasharray='4 3'")
    if len(curves) == 2:
        area = " ".join(chart.path(own) + chart.path(other)[::-1])
        chart.parts.append(f"<polygon points='{area}' fill='{colours[names[0]]}' fill-opacity='.15'/>")
    for name, curve, colour, down in curves:
        chart.line(curve, f"stroke='{colour}' stroke-width='2'")
        chart.text(LEFT + 4, TOP + down, name, f"style='fill:{colour}'")
    chart.hover([", ".join(f"{name} {curve[i]:.3g} %" for name, curve, *_ in curves) for i in range(len(points))])
    marks = (low, (low + high) / 2, high)
    label = "Gain on pictures held out"
    return chart.svg(label, {value: f"{value:.2g} %" for value in marks}, " negtrans-gains")
