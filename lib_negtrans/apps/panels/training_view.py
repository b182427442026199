"""A training's state as HTML: progress, verdict, numbers, curves, log. Pure functions of plain data, no gradio."""

from __future__ import annotations

import html
from collections import Counter

from lib_negtrans.jobs.background import FAILED, FINISHED, IDLE, STOPPED, WAITING
from lib_negtrans.jobs.training_snapshot import READING, TRAINING, TrainingSnapshot
from lib_negtrans.training.data.dataset import DatasetReport
from lib_negtrans.training.judging.verdict import DIVERGING
from lib_negtrans.training.kinds import KINDS

from .curves import gain_curve, loss_curve
from .markup import bar_html, message_html, numbers_html

SHOWN_LINES = 200

HEADLINES = {
    IDLE: "No training is under way.",
    WAITING: "Waiting for its turn: another job is using the model.",
    READING: "Reading and encoding the pictures.",
    TRAINING: "Training.",
    FINISHED: "Finished.",
    STOPPED: "Stopped. What was learnt so far is saved.",
    FAILED: "Failed.",
}


def status_html(state: TrainingSnapshot) -> str:
    """The whole panel. Its root carries data-phase and data-busy for the page's script and for tests."""
    parts = [
        f"<div class='negtrans-training' data-phase='{state.phase}' data-busy='{int(state.busy)}' "
        f"data-step='{state.step}' data-kind='{state.kind}' data-name='{html.escape(state.name, quote=True)}'>",
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
        text = "Writing the result and its preview."
    name = f"<b>{html.escape(state.name)}</b>: " if state.name else ""
    # an element of its own: the webui translates texts that are whole
    line = f"<p class='negtrans-headline'>{name}<span>{text}</span></p>"
    return line + (message_html(state.error, good=False) if state.error else "")


def _bar(state: TrainingSnapshot) -> str:
    if state.phase == IDLE:
        return ""
    if state.phase == READING and state.to_read:
        text = f"picture {state.read} of {state.to_read}"
        if state.making:
            text = f"class picture {state.read} of {state.to_read}"
        return bar_html(state.read / state.to_read, text)
    return bar_html(state.fraction, f"step {state.step} of {state.steps}", state.eta)


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
        ("vector norm" if state.kind == "negative" else "size of the weights", f"{state.vector_norm:.3f}"),
        ("moved from start", f"{state.change:.3f}"),
        ("gradient norm", f"{state.grad_norm:.2e}"),
        ("learning rate", f"{state.learning_rate:g}"),
        ("steps per second", f"{state.rate:.2f}"),
        ("pictures", str(state.images)),
    ]
    if state.prior_curve:
        cells.insert(2, ("loss of the prior", f"{state.prior_curve[-1][1]:.4f}"))
    return numbers_html(cells)


def _curves(state: TrainingSnapshot) -> str:
    loss = loss_curve(state.curve, state.prior_curve) if len(state.curve) > 1 else ""
    learnt = KINDS[state.kind].domain
    gains = gain_curve(state.validations, learnt) if len(state.validations) > 1 else ""
    if not gains:
        return loss
    captions = "<span>loss</span>", "<span>gain on pictures held out</span>"
    figures = "".join(f"<div>{c}{s}</div>" for c, s in zip(captions, (loss, gains), strict=True) if s)
    return f"<div class='negtrans-curves'>{figures}</div>"


def _log(state: TrainingSnapshot) -> str:
    if not state.log:
        return ""
    lines = [html.escape(line) for line in state.log[-SHOWN_LINES:]]
    # laid out from the bottom up, so that the newest line stays in sight when the content is replaced
    return f"<div class='negtrans-log'><pre>{chr(10).join(lines)}</pre></div>"


def verdict_html(state: TrainingSnapshot) -> str:
    """The last verdict, "" before there is one."""
    if not state.verdict:
        return ""
    kind = "negtrans-error" if state.verdict == DIVERGING else "negtrans-message"
    head, mark, rest = html.escape(state.verdict_text or "").partition(": ")
    return (
        f"<p class='{kind} negtrans-verdict' data-verdict='{html.escape(state.verdict)}'>"
        f"<b>{head}{mark.strip()}</b> <span>{rest}</span></p>"
    )


def dataset_html(report: DatasetReport, suggested_size: int) -> str:
    """What a check of a folder found."""
    common = Counter(f"{entry.size[0]}x{entry.size[1]}" for entry in report.entries).most_common()
    shown = ", ".join(f"{size} ({count})" for size, count in common[:5]) + (", ..." if len(common) > 5 else "")
    cells = [
        ("pictures", str(len(report.entries))),
        ("unreadable", str(len(report.skipped))),
        ("duplicates", str(sum(len(group) - 1 for group in report.duplicates))),
        ("with transparency", str(sum(entry.has_alpha for entry in report.entries))),
        ("with a caption file", str(sum(entry.captioned for entry in report.entries))),
        ("sizes", shown),
    ]
    sentences = report.sentences()
    if suggested_size < report.size:
        sentences.append(("info", f"Most are smaller than {report.size}: Size {suggested_size} would suit them."))
    items = "".join(f"<li class='negtrans-{level}'>{html.escape(sentence)}</li>" for level, sentence in sentences[:20])
    if len(sentences) > 20:
        more = f"and {len(sentences) - 20} more."
        items += f"<li>{more}</li>"
    return f"<div class='negtrans-dataset'>{numbers_html(cells)}<ul>{items}</ul></div>"
