"""The extension's section on the webui's settings page."""

from __future__ import annotations

from typing import Any

import gradio as gr
from modules import script_callbacks, shared

from lib_negtrans import TITLE

from .registration import register_once

DEFAULTS = {
    "negtrans_mean_latent": True,
    "negtrans_controlnet_in_inversion": False,
    "negtrans_cache_mb": 2048,
    "negtrans_feature_mb": 0,
}
SECTION = ("negtrans", "Negative translation")
MEAN_LATENT_KEY = "NegTrans mean latent"  # in the infotext, so that a picture brings its setting along


def register() -> None:
    """Add the section when the webui asks for settings."""
    register_once(script_callbacks.on_ui_settings, add_settings)


def add_settings() -> None:
    """The options, each with its default and one sentence."""
    # an OptionInfo without a component is a check box for True and False
    shared.opts.add_option(
        "negtrans_mean_latent",
        shared.OptionInfo(
            DEFAULTS["negtrans_mean_latent"],
            f"{TITLE} uses the mean of what the VAE gives for a picture",
            section=SECTION,
            infotext=MEAN_LATENT_KEY,
        ).info("this keeps texture; if it is off, a random sample is used, as in plain img2img"),
    )
    shared.opts.add_option(
        "negtrans_controlnet_in_inversion",
        shared.OptionInfo(
            DEFAULTS["negtrans_controlnet_in_inversion"], "ControlNet acts in the inversion too", section=SECTION
        ).info("if it is off, ControlNet guides the photograph only, and the render is inverted without it"),
    )
    for name, label, info in (
        (
            "negtrans_cache_mb", "Memory for earlier inversions (MB)",
            "a picture need not be inverted again when you change only the embedding, CFG scale or seed; 0 always "
            "inverts it again",
        ),
        (
            "negtrans_feature_mb", "Memory for a picture's captured attention (MB)",
            "0 uses half of the free memory, first the GPU's; what does not fit is computed again",
        ),
    ):  # fmt: skip
        shared.opts.add_option(
            name,
            shared.OptionInfo(
                DEFAULTS[name], label, gr.Slider, {"minimum": 0, "maximum": 16384, "step": 256}, section=SECTION
            ).info(info),
        )


def option(name: str) -> Any:
    """An option's value; its default before the settings were built."""
    return getattr(shared.opts, name, DEFAULTS[name])
