"""The extension's section on the webui's settings page."""

from __future__ import annotations

from typing import Any

from modules import script_callbacks, shared

from lib_negtrans.hosts.webui.registration import register_once

DEFAULTS = {"negtrans_mean_latent": True, "negtrans_controlnet_in_inversion": False}
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
            "Realistic Translation encodes the mean of the VAE's distribution",
            section=SECTION,
            infotext=MEAN_LATENT_KEY,
        ).info("keeps texture; off: a random sample of it, as plain img2img does"),
    )
    shared.opts.add_option(
        "negtrans_controlnet_in_inversion",
        shared.OptionInfo(
            DEFAULTS["negtrans_controlnet_in_inversion"], "ControlNet acts in the inversion too", section=SECTION
        ).info("off: it guides the photograph only, and the render is inverted by the plain model"),
    )


def option(name: str) -> Any:
    """An option's value; its default before the settings were built."""
    return getattr(shared.opts, name, DEFAULTS[name])
