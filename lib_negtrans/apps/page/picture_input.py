"""A gradio picture field that gives the file as it is."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import gradio as gr


def picture_input(**options: Any) -> gr.Image:
    """gr.Image that hands the uploaded file's own bytes to events, as a stream, or None.

    gradio would convert it: to one colour mode without alpha, without profile or 16 bits, and with an error of its own
    for what is no picture.
    """
    field = gr.Image(sources=["upload"], buttons=[], **options)
    # beside the source of a class of our own gradio would write a .pyi file
    vars(field)["preprocess"] = _content
    return field


def _content(payload: Any) -> io.BytesIO | None:
    return io.BytesIO(Path(payload.path).read_bytes()) if payload and payload.path else None
