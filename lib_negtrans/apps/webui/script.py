"""The script "Realistic Translation" in img2img's Script dropdown."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from modules import errors, processing, scripts

from lib_negtrans import TITLE
from lib_negtrans.options import ParamError
from lib_negtrans.translation import arguments

# what the panel reads for its summary; a preset sets the sliders
HOST_CONTROLS = {
    "img2img_steps": "steps",
    "img2img_cfg_scale": "cfg_scale",
    "img2img_denoising_strength": "strength",
    "img2img_prompt": "prompt",
    "img2img_neg_prompt": "negative_prompt",
}


class RealisticTranslation(scripts.Script):
    """Thin: a panel, and a job for what it says."""

    def __init__(self) -> None:
        self._host_controls: dict[str, Any] = {}
        self.panel: Any | None = None  # the TranslationPanel of the webui's own page
        for elem_id, name in HOST_CONTROLS.items():
            self.on_after_component(lambda event, name=name: self._remember(name, event.component), elem_id=elem_id)

    def title(self) -> str:
        return TITLE

    def show(self, is_img2img: bool) -> bool:
        return is_img2img

    def ui(self, is_img2img: bool) -> list[Any]:
        """The panel. Called several times by the host (HOST.md fact 10).

        Never raises: with --api the host calls it unprotected, and an exception would leave everybody without an API.
        """
        try:
            # here, as it fails on a host of another kind
            from . import embedding_list
            from .panel import script_panel

            panel = script_panel(embedding_list.choices, embedding_list.rescanned_choices, self._host_controls)
        except Exception:
            errors.report("negtrans: the panel could not be built", exc_info=True)
            return []
        self.panel = panel.panel or self.panel
        self.infotext_fields = panel.infotext_fields
        self.paste_field_names = panel.paste_field_names
        return panel.inputs

    def run(self, p: Any, *args: Any) -> processing.Processed:
        from .job import TranslationJob  # here, as a host of another kind lacks what it imports

        @functools.cache
        def values() -> arguments.PanelValues:
            return arguments.parse(own_arguments(self, p, args))

        job = TranslationJob(p, values)
        job.check()  # before the host and its other scripts begin
        # the host's VAE draws from torch's global generator: the next picture must not depend on this one
        with job.attached(), preserved_generators():
            return processing.process_images(p)

    def _remember(self, name: str, component: Any) -> None:
        self._host_controls[name] = component


def preserved_generators() -> Any:
    """torch's global generators of the CPU and the device in use go on afterwards as if nothing had been drawn."""
    used = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    return torch.random.fork_rng(devices=used)


def own_arguments(script: scripts.Script, p: Any, args: Sequence[Any]) -> Sequence[Any]:
    """What a request's `script_args` were. The host puts them into all scripts' list by slice, whatever their length.

    Where they were fewer than the panel's, what lies behind is moved back into its place. Raises ParamError.
    """
    if p.scripts is None or p.script_args is None:
        return args
    difference = len(p.script_args) - max((other.args_to or 1 for other in p.scripts.scripts), default=1)
    if not difference:
        return args
    count = len(arguments.NAMES) + difference
    end = script.args_from + count
    own = list(p.script_args[script.args_from : end])
    arguments.named(own)  # a list of another length is refused
    if any(other.args_to > other.args_from >= script.args_to for other in p.scripts.alwayson_scripts):
        # such a script has read its arguments already, or has got new ones at their former places
        raise ParamError(f"script_args must have {len(arguments.NAMES)} values here: put nulls behind the object.")
    filled = (own + [None] * len(arguments.NAMES))[: len(arguments.NAMES)]
    p.script_args = [*p.script_args[: script.args_from], *filled, *p.script_args[end:]]
    return own
