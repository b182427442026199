"""What every panel's components have in common: ids, quiet events, and the component for one option."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import gradio as gr

from lib_negtrans.options import Option, Params

TAB_ID, PHOTOS_TAB_ID = "negtrans_train", "negtrans_finetune"
# by a plain request: one that waits in gradio's queue when the webui reloads its page keeps the server from closing
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden"}


def in_browser(script: str) -> dict[str, str]:
    """What has an event run this JavaScript before its function: gradio 3 calls it _js."""
    return {"js" if hasattr(gr, "on") else "_js": script}


def elem_ids(tab: str) -> Callable[[str], str]:
    """Name -> element id, for the components of a tab: that of renders is TAB_ID, so negtrans_train_folder."""
    return f"{tab}_{{}}".format


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
        return gr.Textbox(lines=option.lines, **common)
    low, high, step = option.minimum, option.maximum, option.step
    if low is None or high is None or step is None or high - low > widest_slider:
        return gr.Number(**common)
    return gr.Slider(minimum=low, maximum=high, step=step, **common)


# the panels of training and preparation have more options on less room
_training_component = partial(option_component, choice=gr.Dropdown, widest_slider=100)


def option_rows(
    params: Params, names: Iterable[str], ids: Callable[[str], str], prefix: str = "", columns: int = 2
) -> dict[str, Any]:
    """Rows of components for these options of a training tab, with the values of `params`: name -> component."""
    left, described, components = list(names), params.options(), {}
    while left:
        row, left = left[:columns], left[columns:]
        with gr.Row():
            for name in row:
                components[name] = _training_component(described[name], getattr(params, name), ids(prefix + name))
    return components


def typed_path(text: Any) -> str:
    """A path as it was typed or pasted, without blanks and quotes around it."""
    return str(text or "").strip().strip('"')
