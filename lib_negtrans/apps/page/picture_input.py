"""A gradio picture field that gives the file as it is."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import gradio as gr


class PictureInput(gr.Image):
    """gr.Image that hands the uploaded file's own bytes to events, as a stream, or None.

    gradio would convert it: to one colour mode without alpha, without profile or 16 bits, and with an error of its own
    for what is no picture.
    """

    is_template = True  # the browser sees an ordinary picture field

    def preprocess(self, payload: Any) -> io.BytesIO | None:
        return io.BytesIO(Path(payload.path).read_bytes()) if payload and payload.path else None
