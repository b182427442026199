"""The tab "Train Negative Embedding" in the webui."""

from __future__ import annotations

from typing import Any

import gradio as gr
from modules import infotext_utils, script_callbacks, scripts, shared

from lib_negtrans import TITLE as SCRIPT_TITLE
from lib_negtrans.apps.panels.components import QUIET, TAB_ID
from lib_negtrans.apps.panels.training_panel import TITLE, TabOptions, build_train_tab
from lib_negtrans.embeddings.files import stands_in

from .registration import register_once
from .webui_workplace import manager


def register() -> None:
    """Add the tab whenever the webui builds its page."""
    register_once(script_callbacks.on_ui_tabs, add_tab)


def add_tab() -> list[tuple[Any, str, str]]:
    """The tab as the host wants it: (blocks, title, element id)."""
    options = TabOptions(typed_folders=not shared.cmd_opts.hide_ui_dir_config, connect_use=connect_use)
    with gr.Blocks(analytics_enabled=False) as blocks:
        build_train_tab(manager(), options)
    return [(blocks, TITLE, TAB_ID)]


def connect_use(button: Any) -> None:
    """ "Use in img2img": the negative prompt gets the trigger word, the script is chosen, the page changes the tab."""
    negative, choice = _negative_prompt(), _script_choice()
    if negative is None or choice is None:
        return

    def fill(text: str) -> list[Any]:
        name = manager().snapshot().name
        if name and not stands_in(name, text or ""):
            text = ", ".join(filter(None, [(text or "").rstrip(", "), name]))
        return [text, gr.update(value=SCRIPT_TITLE)]

    button.click(fill, [negative], [negative, choice], _js="negtransShowImg2img", **QUIET)


def _negative_prompt() -> Any | None:
    """img2img's negative prompt, from the list that pasting an infotext uses."""
    fields = infotext_utils.paste_fields.get("img2img", {}).get("fields") or []
    return next((field[0] for field in fields if field[1] == "Negative prompt"), None)


def _script_choice() -> Any | None:
    """img2img's Script dropdown, if our script is in it."""
    runner = scripts.scripts_img2img
    if SCRIPT_TITLE not in getattr(runner, "titles", []) or not runner.inputs:
        return None
    return runner.inputs[0]
