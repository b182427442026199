"""The script "Realistic Translation": in img2img's Script dropdown, or by a setting a panel beside it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from modules import errors, processing, scripts

from lib_negtrans import TITLE
from lib_negtrans.options import ParamError
from lib_negtrans.translation import arguments

from .settings import ALWAYS_ON, option

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
        self.switch: list[Any] = []  # where the script is always on: what is to be open and ticked
        for elem_id, name in HOST_CONTROLS.items():
            self.on_after_component(lambda event, name=name: self._remember(name, event.component), elem_id=elem_id)
        self.on_before_component(_add_comparison, elem_id="html_info_img2img")  # which is under the gallery

    def title(self) -> str:
        return TITLE

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible if is_img2img and option(ALWAYS_ON) else is_img2img

    def ui(self, is_img2img: bool) -> list[Any]:
        """The panel. Called several times by the host (HOST.md fact 10).

        Never raises: with --api the host calls it unprotected, and an exception would leave everybody without an API.
        """
        try:
            # here, as it fails on a host of another kind
            from . import embedding_list
            from .panel import script_panel

            panel = script_panel(
                embedding_list.choices, embedding_list.rescanned_choices, self._host_controls, self.alwayson
            )
        except Exception:
            errors.report("negtrans: the panel could not be built", exc_info=True)
            return []
        if panel.panel is not None:
            self.panel, self.switch = panel.panel, panel.switch
        self.infotext_fields = panel.infotext_fields
        self.paste_field_names = panel.paste_field_names
        return panel.inputs

    # what the host calls where the script was chosen in the dropdown

    def run(self, p: Any, *args: Any) -> processing.Processed:
        job = self._job(p, lambda: own_arguments(self, p, args))
        job.check()  # before the host and its other scripts begin
        with job.attached():
            return processing.process_images(p)

    # what it calls where the script is always on

    def before_process(self, p: Any, *args: Any) -> None:
        from . import always_on

        always_on.end(p)  # of a job that failed
        enabled, panel = arguments.switched(args)
        if enabled and "_negtrans_job" not in vars(p):  # a grid's axis may have attached one
            always_on.begin(p, self._job(p, lambda: panel))

    def postprocess(self, p: Any, _processed: Any, *_args: Any) -> None:
        from . import always_on

        always_on.end(p, finished=True)

    def _job(self, p: Any, panel: Callable[[], Sequence[Any]]) -> Any:
        from .job import TranslationJob  # here, as a host of another kind lacks what it imports

        return TranslationJob(p, functools.cache(lambda: arguments.parse(panel())))

    def _remember(self, name: str, component: Any) -> None:
        self._host_controls[name] = component


def _add_comparison(_event: Any) -> None:
    from .panel import add_comparison  # here, as it fails on a host of another kind

    add_comparison()


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
