"""A gradio picture field that gives the file as it is."""

from __future__ import annotations

import base64
import binascii
import io

import gradio as gr


class PictureInput(gr.Image):
    """gr.Image that hands the uploaded file's own bytes to events, as a stream, or None.

    gradio would convert it: to one colour mode without alpha, without profile or 16 bits, and with an error of its own
    for what is no picture.
    """

    is_template = True  # the browser sees an ordinary picture field

    def preprocess(self, x: str | None) -> io.BytesIO | None:
        if not x:
            return None
        try:
            return io.BytesIO(base64.b64decode(x.partition(",")[2] or x, validate=True))
        except (binascii.Error, ValueError):
            return io.BytesIO()  # is told from a picture, and refused in words, where it is read
