"""The tab "Train Negative Embedding" in the webui."""

from __future__ import annotations

from typing import Any

import gradio as gr
from modules import script_callbacks, scripts, shared

from lib_negtrans import TITLE as SCRIPT_TITLE
from lib_negtrans.apps.panels.components import QUIET, TAB_ID
from lib_negtrans.apps.panels.training_panel import TITLE, TabOptions, build_train_tab
from lib_negtrans.apps.panels.translation_panel import preset_updates
from lib_negtrans.embeddings import NO_EMBEDDING

from . import embedding_list
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
    """ "Use in img2img": script and embedding are chosen, the preset's sliders set, and the page changes the tab."""
    runner = scripts.scripts_img2img
    script = next((s for s in getattr(runner, "selectable_scripts", ()) if s.title() == SCRIPT_TITLE), None)
    panel = getattr(script, "panel", None)
    if panel is None:
        return

    def fill(preset: str) -> list[Any]:
        name = manager().snapshot().name
        chosen = gr.update(choices=[*dict.fromkeys([*embedding_list.choices(), name or NO_EMBEDDING])], value=name)
        return [gr.update(value=SCRIPT_TITLE), chosen, *preset_updates(list(panel.host), preset)]

    outputs = [runner.inputs[0], panel.embedding, *panel.host.values()]
    button.click(fill, [panel.preset], outputs, _js="negtransShowImg2img", **QUIET)
