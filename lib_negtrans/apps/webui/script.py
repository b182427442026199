"""The script "Realistic Translation" in img2img's Script dropdown."""

from __future__ import annotations

import functools
from typing import Any

import torch
from modules import errors, processing, scripts

from lib_negtrans.options import ParamError
from lib_negtrans.translation import arguments
from lib_negtrans.translation.arguments import TITLE

# the host's sliders that the panel reads for its summary, and that a preset sets
HOST_CONTROLS = {
    "img2img_steps": "steps",
    "img2img_cfg_scale": "cfg_scale",
    "img2img_denoising_strength": "strength",
}


class RealisticTranslation(scripts.Script):
    """Thin: a panel, and a job for what it says."""

    def __init__(self) -> None:
        self._host_controls: dict[str, Any] = {}
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
            from . import embedding_list
            from .panel import script_panel

            panel = script_panel(embedding_list.choices, embedding_list.rescanned_choices, self._host_controls)
        except Exception:
            errors.report("negtrans: the panel could not be built", exc_info=True)
            return []
        self.infotext_fields = panel.infotext_fields
        self.paste_field_names = panel.paste_field_names
        return panel.inputs

    def run(self, p: Any, *args: Any) -> processing.Processed:
        from .job import TranslationJob

        @functools.cache
        def values() -> arguments.PanelValues:
            refuse_shifted_arguments(p)
            return arguments.parse(args)

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


def refuse_shifted_arguments(p: Any) -> None:
    """Raise ParamError when a request's `script_args` were too many or too few, which moved all scripts' arguments."""
    if p.scripts is None or p.script_args is None:
        return
    expected = max((script.args_to or 1 for script in p.scripts.scripts), default=1)
    difference = len(p.script_args) - expected
    if difference:
        raise ParamError(arguments.wrong_length(len(arguments.NAMES) + difference))
