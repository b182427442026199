"""A training's state as HTML: progress, numbers, loss curve, log. Pure functions of plain data, no gradio."""

from __future__ import annotations

import html
from collections.abc import Sequence

from lib_negtrans.jobs.training import FAILED, FINISHED, IDLE, READING, STOPPED, TRAINING, WAITING, TrainingSnapshot
from lib_negtrans.training.data.dataset import DatasetReport

from .validation_view import gain_curve, verdict_html

SHOWN_LINES = 200
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 200, 52, 24, 12, 12  # of the curve, in its own pixels

STYLE = """
.negtrans_hidden {display: none !important}
.negtrans-headline {font-size: 1.1em; margin: 0 0 .5em}
.negtrans-error, .negtrans-warning {color: #c2410c}
.negtrans-bar {position: relative; height: 1.9em; border-radius: .4em; overflow: hidden; margin-bottom: .7em;
  background: rgba(127, 127, 127, .18)}
.negtrans-bar > div {height: 100%; background: #e8833a; opacity: .75; transition: width .4s}
.negtrans-bar > span {position: absolute; inset: 0; text-align: center; line-height: 1.9em}
.negtrans-numbers {display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5em, 1fr)); gap: .4em 1em;
  margin: .4em 0 .8em}
.negtrans-numbers span {display: block; opacity: .7; font-size: .85em}
.negtrans-numbers b {font-variant-numeric: tabular-nums}
.negtrans-curve {width: 100%; height: auto; margin: .3em 0}
.negtrans-curves {display: grid; grid-template-columns: repeat(auto-fit, minmax(16em, 1fr)); gap: 0 1em}
.negtrans-curves span {opacity: .7; font-size: .85em}
.negtrans-log {display: flex; flex-direction: column-reverse; max-height: 13em; overflow: auto; padding: .5em .7em;
  border-radius: .4em; background: rgba(127, 127, 127, .1)}
.negtrans-log pre {white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8em; margin: 0}
.negtrans-dataset ul {margin: .2em 0 .6em 1.2em; list-style: disc}
#negtrans_train_thumbnails .grid-wrap {max-height: 15em; min-height: 0; overflow: auto}
#negtrans_train_thumbnails .grid-container {grid-template-columns: repeat(auto-fill, minmax(5em, 1fr))}
#negtrans_train_thumbnails, #negtrans_train_previews {min-height: 0 !important; height: auto !important}
#negtrans_train_previews .grid-wrap {min-height: 12em}
"""

HEADLINES = {
    IDLE: "No training is under way.",
    WAITING: "Waiting for its turn: another job is using the model.",
    READING: "Reading and encoding the pictures.",
    TRAINING: "Training.",
    FINISHED: "Finished.",
    STOPPED: "Stopped. What was learnt so far is saved.",
    FAILED: "Failed.",
}


def duration(seconds: float) -> str:
    """E.g. 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def status_html(state: TrainingSnapshot) -> str:
    """The whole panel. Its root carries data-phase and data-busy for the page's script and for tests."""
    parts = [
        f"<div class='negtrans-training' data-phase='{state.phase}' data-busy='{int(state.busy)}' "
        f"data-step='{state.step}'>",
        _headline(state),
        _bar(state),
        _queue(state),
        verdict_html(state),
        _numbers(state),
        _curves(state),
        _log(state),
        "</div>",
    ]
    return "".join(parts)


def _headline(state: TrainingSnapshot) -> str:
    text = HEADLINES[state.phase]
    if state.stopping:
        text = "Stopping after this step."
    elif state.phase == TRAINING and state.step == state.steps:
        text = "Writing the embedding and its preview."
    name = f"<b>{html.escape(state.name)}</b>: " if state.name else ""
    # an element of its own: the webui translates texts that are whole
    line = f"<p class='negtrans-headline'>{name}<span>{text}</span></p>"
    if state.error:
        line += f"<p class='negtrans-error'>{html.escape(state.error)}</p>"
    return line


def _bar(state: TrainingSnapshot) -> str:
    if state.phase == IDLE:
        return ""
    if state.phase == READING and state.to_read:
        fraction, text = state.read / state.to_read, f"picture {state.read} of {state.to_read}"
    else:
        fraction, text = state.fraction, f"step {state.step} of {state.steps}"
        if state.eta is not None:
            text += f", {duration(state.eta)} left"
    percent = f"{100 * fraction:.1f}%"
    return (
        f"<div class='negtrans-bar' role='progressbar' aria-valuenow='{100 * fraction:.0f}' aria-valuemin='0' "
        f"aria-valuemax='100'><div style='width:{percent}'></div><span>{percent} ({text})</span></div>"
    )


def _queue(state: TrainingSnapshot) -> str:
    if not state.queue:
        return ""
    return f"<p class='negtrans-queue'><span>Waiting for their turn:</span> {html.escape(', '.join(state.queue))}</p>"


def _numbers(state: TrainingSnapshot) -> str:
    if state.loss is None:
        return ""
    cells = [
        ("loss, smoothed", f"{state.loss_average:.4f}"),
        ("loss, last step", f"{state.loss:.4f}"),
        ("vector norm", f"{state.vector_norm:.3f}"),
        ("moved from start", f"{state.change:.3f}"),
        ("gradient norm", f"{state.grad_norm:.2e}"),
        ("learning rate", f"{state.learning_rate:g}"),
        ("steps per second", f"{state.rate:.2f}"),
        ("pictures", str(state.images)),
    ]
    rows = "".join(f"<div><span>{label}</span><b>{value}</b></div>" for label, value in cells)
    return f"<div class='negtrans-numbers'>{rows}</div>"


def _curves(state: TrainingSnapshot) -> str:
    loss = loss_curve(state.curve) if len(state.curve) > 1 else ""
    gains = gain_curve(state.validations) if len(state.validations) > 1 else ""
    if not gains:
        return loss
    captions = "<span>loss</span>", "<span>gain of the vectors on pictures held out</span>"
    figures = "".join(f"<div>{c}{s}</div>" for c, s in zip(captions, (loss, gains), strict=True) if s)
    return f"<div class='negtrans-curves'>{figures}</div>"


def _log(state: TrainingSnapshot) -> str:
    if not state.log:
        return ""
    lines = [html.escape(line) for line in state.log[-SHOWN_LINES:]]
    # laid out from the bottom up, so that the newest line stays in sight when the content is replaced
    return f"<div class='negtrans-log'><pre>{chr(10).join(lines)}</pre></div>"


def loss_curve(points: Sequence[tuple[int, float, float]]) -> str:
    """(step, loss, smoothed loss) of at least two steps as an SVG: the losses faint, the smoothed curve strong."""
    steps = [point[0] for point in points]
    losses, averages = [point[1] for point in points], [point[2] for point in points]
    low, high = _range(losses, averages)
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(step: float) -> float:
        return LEFT + width * (step - steps[0]) / max(1, steps[-1] - steps[0])

    def y(loss: float) -> float:
        return TOP + height * (high - min(max(loss, low), high)) / (high - low)

    def line(values: Sequence[float], style: str) -> str:
        path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in zip(steps, values, strict=True))
        return f"<polyline points='{path}' fill='none' {style}/>"

    marks = []
    for value in (low, (low + high) / 2, high):
        marks.append(
            f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{y(value):.1f}' y2='{y(value):.1f}' stroke='currentColor' "
            f"stroke-opacity='.15'/><text x='{LEFT - 6}' y='{y(value) + 4:.1f}' text-anchor='end'>{value:.3g}</text>"
        )
    for step, anchor in ((steps[0], "start"), (steps[-1], "end")):
        marks.append(f"<text x='{x(step):.1f}' y='{HEIGHT - 6}' text-anchor='{anchor}'>step {step}</text>")
    return (
        f"<svg class='negtrans-curve' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='Loss over steps' "
        f"data-points='{len(points)}' font-size='11' fill='currentColor'>{''.join(marks)}"
        + line(losses, "stroke='currentColor' stroke-opacity='.25' stroke-width='1'")
        + line(averages, "stroke='#e8833a' stroke-width='2'")
        + "</svg>"
    )


def _range(losses: Sequence[float], averages: Sequence[float]) -> tuple[float, float]:
    """What the curve shows: all of the smoothed loss, and of the single steps all but the outermost tenth."""
    ordered = sorted(losses)
    cut = len(ordered) // 10
    low = min(*averages, ordered[cut])
    high = max(*averages, ordered[-1 - cut])
    margin = 0.05 * (high - low) or max(abs(high), 1e-6) * 0.05
    return low - margin, high + margin


def message_html(sentence: str, good: bool = True) -> str:
    """One sentence for the user, as an error if it is not good news."""
    return f"<p class='{'negtrans-message' if good else 'negtrans-error'}'>{html.escape(sentence)}</p>"


def dataset_html(report: DatasetReport, suggested_size: int) -> str:
    """What a check of a folder found."""
    sizes: dict[str, int] = {}
    for entry in report.entries:
        sizes[f"{entry.size[0]}x{entry.size[1]}"] = sizes.get(f"{entry.size[0]}x{entry.size[1]}", 0) + 1
    common = sorted(sizes.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{size} ({count})" for size, count in common[:5]) + (", ..." if len(common) > 5 else "")
    cells = [
        ("pictures", str(len(report.entries))),
        ("unreadable", str(len(report.skipped))),
        ("duplicates", str(sum(len(group) - 1 for group in report.duplicates))),
        ("with transparency", str(sum(entry.has_alpha for entry in report.entries))),
        ("with a caption file", str(sum(entry.captioned for entry in report.entries))),
        ("sizes", shown),
    ]
    table = "".join(f"<div><span>{label}</span><b>{html.escape(value)}</b></div>" for label, value in cells)
    sentences = report.sentences()
    if suggested_size < report.size:
        sentences.append(("info", f"Most are smaller than {report.size}: Size {suggested_size} would suit them."))
    items = "".join(f"<li class='negtrans-{level}'>{html.escape(sentence)}</li>" for level, sentence in sentences[:20])
    if len(sentences) > 20:
        items += f"<li>and {len(sentences) - 20} more.</li>"
    return f"<div class='negtrans-dataset'><div class='negtrans-numbers'>{table}</div><ul>{items}</ul></div>"
