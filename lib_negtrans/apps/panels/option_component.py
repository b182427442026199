"""The gradio component for one option of a parameter model, on every panel."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from lib_negtrans.options import Option


def option_component(
    option: Option, value: Any, elem_id: str, *, choice: type = gr.Radio, widest_slider: float = 1000
) -> Any:
    """A choice, check box, text, slider or number; numbers over a range wider than widest_slider have no slider.

    Whole numbers are not rounded here: what is typed is read by `Params.typed`.
    """
    common = {"label": option.label, "info": option.help, "value": value, "elem_id": elem_id}
    if option.choices is not None:
        return choice(choices=list(option.choices), **common)
    if isinstance(value, bool):
        return gr.Checkbox(**common)
    if isinstance(value, str):
        return gr.Textbox(lines=1, **common)
    low, high, step = option.minimum, option.maximum, option.step
    if low is None or high is None or step is None or high - low > widest_slider:
        return gr.Number(**common)
    return gr.Slider(minimum=low, maximum=high, step=step, **common)


# the panels of training and preparation have more options on less room
training_component = partial(option_component, choice=gr.Dropdown, widest_slider=100)
