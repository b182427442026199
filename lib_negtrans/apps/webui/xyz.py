"""Axes for the host's X/Y/Z plot: one for each of our options; any of them makes its cells translations.

The plot is itself the chosen script, so ours does not run: an axis attaches the translation to the cell, with the
values of our panel as it stands and those of the axes on top.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modules import script_callbacks, scripts

from lib_negtrans import TITLE
from lib_negtrans.options import Option
from lib_negtrans.translation import arguments
from lib_negtrans.translation.arguments import HOST_OPTIONS, PANEL_OPTIONS, WEIGHT_RANGE, PanelValues
from lib_negtrans.translation.concepts import MAXIMUM_WEIGHT, with_weight
from lib_negtrans.translation.params import TRANSLATION_PRESETS, TranslationParams

from . import embedding_list
from .job import TranslationJob
from .registration import register_once

PREFIX = "[NegTrans] "
CONCEPT_AXES = (1, 2, 3)  # the first lines of Concepts; a weight in the prompt varies with the host's own "Prompt S/R"
_CONCEPT = "concept "


def register() -> Callable[[], None]:
    """Add the axes whenever the webui builds its page."""
    register_once(script_callbacks.on_before_ui, add_axes)
    return remove_axes


def add_axes() -> None:
    """Add our axes to the plot's list, once."""
    grid = _grid_module()
    if grid is None:
        return
    remove_axes()
    grid.axis_options.extend(_axes(grid))


def remove_axes() -> None:
    """Take our axes out of the plot's list."""
    grid = _grid_module()
    if grid is not None:
        grid.axis_options[:] = [axis for axis in grid.axis_options if not axis.label.startswith(PREFIX)]


def _grid_module() -> Any:
    names = ("xyz_grid.py", "scripts.xyz_grid")
    return next((data.module for data in scripts.scripts_data if data.script_class.__module__ in names), None)


def _axes(grid: Any) -> list[Any]:
    def axis(label: str, kind: type, name: str, **more: Any) -> Any:
        return grid.AxisOptionImg2Img(f"{PREFIX}{label}", kind, _setter(name), **more)

    on_off = _limits(Option(TITLE, "", choices=("on", "off")))
    axes = [
        axis(TITLE, str, "enabled", **on_off),
        axis("Preset", str, "preset", choices=lambda: list(TRANSLATION_PRESETS)),
        axis("Negative embedding", str, "embedding", choices=embedding_list.choices),
        axis("Embedding weight", float, "embedding_weight", **_limits(Option("Embedding weight", "", *WEIGHT_RANGE))),
    ]
    options, defaults = TranslationParams.options(), TranslationParams()
    for name in ("strength", *PANEL_OPTIONS):
        axes.append(axis(options[name].label, type(getattr(defaults, name)), name, **_limits(options[name])))
    weight = Option("A concept's weight", "", -MAXIMUM_WEIGHT, MAXIMUM_WEIGHT)
    axes += [axis(f"Weight of concept {n}", float, f"{_CONCEPT}{n}", **_limits(weight)) for n in CONCEPT_AXES]
    return axes


def _limits(option: Option) -> dict[str, Any]:
    """The axis's choices, and a check of its values before the first picture is made."""
    low, high, choices = option.minimum, option.maximum, option.choices

    def confirm(_p: Any, values: list[Any]) -> None:
        for value in values:
            if choices is not None and value not in choices:
                raise ValueError(f"{option.label} must be one of {', '.join(choices)}, not {value!r}.")
            if low is not None and high is not None and not low <= value <= high:
                raise ValueError(f"{option.label} must lie between {low:g} and {high:g}, not {value}.")

    return {"confirm": confirm} if choices is None else {"confirm": confirm, "choices": lambda: list(choices)}


def _setter(name: str) -> Callable[[Any, Any, list[Any]], None]:
    def apply(p: Any, value: Any, _values: list[Any]) -> None:
        job = vars(p).get("_negtrans_job")
        if job is None:
            job = _attach(p)
        if name == "enabled":
            job.enabled = value == "on"
        elif name == "strength":
            p.denoising_strength = value
        else:
            p._negtrans_xyz[name] = value
            if name == "preset":  # as "Apply preset" sets the host's sliders
                for option in HOST_OPTIONS.keys() & TRANSLATION_PRESETS[value][1].keys():
                    setattr(p, HOST_OPTIONS[option], TRANSLATION_PRESETS[value][1][option])

    return apply


def _attach(p: Any) -> Any:
    """The translation on one cell's own processing object, a copy that the plot throws away."""
    script = next((s for s in p.scripts.scripts if s.title() == TITLE), None)
    panel = list(p.script_args[script.args_from : script.args_to]) if script else [{}]
    if script and script.alwayson:
        _enabled, panel = arguments.switched(panel)
    p._negtrans_xyz = {}
    job = TranslationJob(p, lambda: _values(panel, p._negtrans_xyz))
    job.attach()
    return job


def _values(panel: list[Any], axes: dict[str, Any]) -> PanelValues:
    values = arguments.named(panel)
    if "preset" in axes:
        kept = ("embedding", "embedding_weight", "source_prompt", "concepts")
        values = {name: value for name, value in values.items() if name in kept}
    weights = {int(name[len(_CONCEPT) :]): value for name, value in axes.items() if name.startswith(_CONCEPT)}
    values |= {name: value for name, value in axes.items() if not name.startswith(_CONCEPT)}
    for number, weight in weights.items():
        values["concepts"] = with_weight(values.get("concepts", ""), number, weight)
    return arguments.parse([values])
