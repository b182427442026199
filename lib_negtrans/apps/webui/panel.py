"""The script's panel in the webui: the shared builder, the version argument, and how a picture's text fills it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.context import Context

from lib_negtrans.apps.panels.translation_panel import build_translation_panel
from lib_negtrans.translation import arguments

from . import infotext_fields as infotext

ELEM_PREFIX = "negtrans_img2img_"


@dataclass
class ScriptPanel:
    """What `Script.ui` gives the host: inputs in the order of `arguments.NAMES`, and the paste fields."""

    inputs: list[Any]
    infotext_fields: list[tuple[Any, Callable[[dict[str, str]], Any]]]
    paste_field_names: list[str]


def script_panel(
    embeddings: Callable[[], list[str]], rescan_embeddings: Callable[[], list[str]], host_controls: Mapping[str, Any]
) -> ScriptPanel:
    """Build the panel. host_controls of another page (the API asks for the panel on its own) are left alone."""
    version = gr.Number(
        label="NegTrans argument list version", value=arguments.LIST_VERSION, precision=0, visible=False,
        elem_id=f"{ELEM_PREFIX}version",
    )  # fmt: skip
    version.do_not_save_to_config = True  # an old ui-config.json must not hide a newer version
    blocks = getattr(Context.root_block, "blocks", {})
    on_this_page = {name: c for name, c in host_controls.items() if blocks.get(c._id) is c}
    panel = build_translation_panel(
        arguments.PANEL_OPTIONS, embeddings, rescan_embeddings, ELEM_PREFIX, on_this_page, arguments.WEIGHT_RANGE
    )
    components = {
        "version": version,
        "preset": panel.preset,
        "embedding": panel.embedding,
        "embedding_weight": panel.embedding_weight,
        **panel.controls,
    }
    fields = [(components[name], _reader(name, embeddings)) for name in arguments.NAMES if name != "version"]
    return ScriptPanel([components[name] for name in arguments.NAMES], fields, infotext.field_names())


def _reader(name: str, embeddings: Callable[[], list[str]]) -> Callable[[dict[str, str]], Any]:
    read = infotext.reader(name)
    if name != "embedding":
        return read

    def read_embedding(fields: dict[str, str]) -> Any:
        value = read(fields)
        return None if value is None else gr.update(value=value, choices=embeddings())

    return read_embedding
