"""The tabs "Train Negative Embedding" and "Finetune on Photos" in the webui."""

from __future__ import annotations

from typing import Any

import gradio as gr
from modules import infotext_utils, script_callbacks, scripts, shared

from lib_negtrans import TITLE as SCRIPT_TITLE
from lib_negtrans.apps.panels.components import QUIET, in_browser
from lib_negtrans.apps.panels.tab_kinds import PHOTOS_TAB, RENDERS_TAB
from lib_negtrans.apps.panels.training_panel import TabOptions, TrainingPanel, build_train_tab
from lib_negtrans.apps.panels.translation_panel import preset_updates
from lib_negtrans.embeddings import NO_EMBEDDING

from . import embedding_list
from .registration import register_once
from .webui_workplace import manager


def register() -> None:
    """Add the tabs whenever the webui builds its page."""
    register_once(script_callbacks.on_ui_tabs, add_tabs)


def add_tabs() -> list[tuple[Any, str, str]]:
    """The tabs as the host wants them: (blocks, title, element id)."""
    typed = not shared.cmd_opts.hide_ui_dir_config
    with gr.Blocks(analytics_enabled=False) as renders:
        negative = build_train_tab(manager(), TabOptions(typed, connect_use), RENDERS_TAB)
    options = TabOptions(typed, connect_use_trained, "Use it", lambda button: connect_next(button, negative))
    with gr.Blocks(analytics_enabled=False) as photos:
        build_train_tab(manager(), options, PHOTOS_TAB)
    return [(renders, RENDERS_TAB.title, RENDERS_TAB.tab), (photos, PHOTOS_TAB.title, PHOTOS_TAB.tab)]


def connect_next(button: Any, negative: TrainingPanel) -> None:
    """ "Then train the negative on it": a LoRA is named in the other tab, a checkpoint is chosen by the page."""

    def fill() -> str:
        state = manager().snapshot()
        return f"{state.name}:1" if state.kind == "lora" else ""

    button.click(fill, None, [negative.loras], **in_browser("negtransShowTrain"), **QUIET)


def connect_use_trained(button: Any) -> None:
    """ "Use it": img2img's prompt gets the LoRA, or the page chooses the checkpoint."""
    if (prompt := _field("Prompt")) is None:
        return

    def fill(text: str) -> str:
        state = manager().snapshot()
        if state.kind != "lora" or f"<lora:{state.name}:" in (text or ""):
            return text
        return f"{text or ''} <lora:{state.name}:1>".strip()

    button.click(fill, [prompt], [prompt], **in_browser("negtransUseTrained"), **QUIET)


def connect_use(button: Any) -> None:
    """ "Use in img2img": script and embedding are chosen, the preset's sliders set, and the page changes the tab."""
    runner = scripts.scripts_img2img
    script = next((s for s in getattr(runner, "scripts", ()) if s.title() == SCRIPT_TITLE), None)
    panel = getattr(script, "panel", None)
    if script is None or panel is None:
        return
    switch = script.switch

    def fill(preset: str) -> list[Any]:
        name = manager().snapshot().name
        chosen = gr.update(choices=[*dict.fromkeys([*embedding_list.choices(), name or NO_EMBEDDING])], value=name)
        on = [gr.update(open=True), gr.update(value=True)] if switch else [gr.update(value=SCRIPT_TITLE)]
        return [*on, chosen, *preset_updates(list(panel.host), preset)]

    outputs = [*(switch or [runner.inputs[0]]), panel.embedding, *panel.host.values()]
    button.click(fill, [panel.preset], outputs, **in_browser("negtransShowImg2img"), **QUIET)


def _field(name: str) -> Any | None:
    """A field of img2img, from the list that pasting an infotext uses."""
    fields = infotext_utils.paste_fields.get("img2img", {}).get("fields") or []
    return next((field[0] for field in fields if field[1] == name), None)
