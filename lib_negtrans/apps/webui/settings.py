"""The extension's section on the webui's settings page."""

from __future__ import annotations

from typing import Any

import gradio as gr
from modules import script_callbacks, shared

from lib_negtrans import TITLE

from .registration import register_once

SECTION = ("negtrans", "Negative translation")
MEAN_LATENT_KEY = "NegTrans mean latent"  # in the infotext, so that a picture brings its setting along

ALWAYS_ON = "negtrans_always_on"

_MEGABYTES = (gr.Slider, {"minimum": 0, "maximum": 16384, "step": 256})
# name -> default, label, hint, component; the host shows a check box for True and False
OPTIONS: dict[str, tuple[Any, str, str, tuple]] = {
    ALWAYS_ON: (
        False, f"{TITLE} is a panel of its own in img2img, not a choice of the Script dropdown",
        "it can then be used together with scripts such as X/Y/Z plot; press Reload UI after a change", (),
    ),
    "negtrans_mean_latent": (
        True, f"{TITLE} uses the mean of what the VAE gives for a picture",
        "this keeps texture; if it is off, a random sample is used, as in plain img2img", (),
    ),
    "negtrans_controlnet_in_inversion": (
        False, "ControlNet acts in the inversion too",
        "if it is off, ControlNet guides the photograph only, and the render is inverted without it", (),
    ),
    "negtrans_cache_mb": (
        2048, "Memory for earlier inversions (MB)",
        "a picture need not be inverted again when you change only the embedding, CFG scale or seed; 0 always "
        "inverts it again", _MEGABYTES,
    ),
    "negtrans_feature_mb": (
        0, "Memory for a picture's captured attention (MB)",
        "0 uses half of the free memory, first the GPU's; what does not fit is computed again", _MEGABYTES,
    ),
}  # fmt: skip


def register() -> None:
    """Add the section when the webui asks for settings."""
    register_once(script_callbacks.on_ui_settings, add_settings)


def add_settings() -> None:
    """The options, each with its default and one sentence."""
    for name, (default, label, hint, component) in OPTIONS.items():
        key = {"infotext": MEAN_LATENT_KEY} if name == "negtrans_mean_latent" else {}
        info = shared.OptionInfo(default, label, *component, section=SECTION, **key)
        info = info.info(hint)
        shared.opts.add_option(name, info.needs_reload_ui() if name == ALWAYS_ON else info)


def option(name: str) -> Any:
    """An option's value; its default before the settings were built."""
    return getattr(shared.opts, name, OPTIONS[name][0])
