"""A stand-in for the webui's `modules`: callbacks, settings, script loading as the real ones, the rest empty."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

REPOSITORY = Path(__file__).resolve().parents[2]
# made anew for each fake host
OWN_PACKAGES = ("lib_negtrans.apps.webui", "lib_negtrans.models.a1111", "lib_negtrans.models.forge")


class OptionInfo(SimpleNamespace):
    def __init__(self, default=None, label="", component=None, component_args=None, section=None, infotext=None, **_):
        super().__init__(default=default, label=label, section=section, infotext=infotext)

    def info(self, _text):
        return self

    def needs_reload_ui(self):
        return self


class Script:
    """The host's base class, as far as ours uses it."""

    filename = args_from = args_to = None
    infotext_fields = paste_field_names = None
    alwayson = False

    def on_after_component(self, callback, *, elem_id):
        pass

    def on_before_component(self, callback, *, elem_id):
        self.before = {**getattr(self, "before", {}), elem_id: callback}

    def elem_id(self, name):
        return f"script_{name}"


class AxisOption:
    def __init__(self, label, type, apply, format_value=None, confirm=None, cost=0.0, choices=None, prepare=None):
        self.label, self.type, self.apply, self.confirm, self.choices = label, type, apply, confirm, choices


class FakeHost:
    """`load_scripts()` runs scripts/negtrans.py as the webui does; `reload_ui()` unloads and loads again."""

    def __init__(self) -> None:
        self.callbacks: dict[str, list] = defaultdict(list)
        self.options: dict[str, OptionInfo] = {}
        self.opts = SimpleNamespace(add_option=self.options.__setitem__, img2img_fix_steps=False, img2img_extra_noise=0)
        self.embeddings: dict[str, Any] = {}
        self.scripts_data: list = []
        self.modules = self._modules()

    def _modules(self) -> dict[str, types.ModuleType]:
        def module(name: str, **members: Any) -> types.ModuleType:
            made = types.ModuleType(f"modules.{name}")
            made.__getattr__ = lambda key: MagicMock(name=f"{name}.{key}") if not key.startswith("__") else None
            vars(made).update(members)
            return made

        callbacks = module("script_callbacks", remove_callbacks_for_function=self._remove)
        callbacks.__getattr__ = lambda key: (
            (lambda callback, name=None: self.callbacks[key].append(callback)) if key.startswith("on_") else MagicMock()
        )
        database = SimpleNamespace(
            word_embeddings=self.embeddings, skipped_embeddings={}, embedding_dirs={},
            load_textual_inversion_embeddings=lambda **_: None,
        )  # fmt: skip
        parts = {
            "script_callbacks": callbacks,
            "scripts": module("scripts", Script=Script, scripts_data=self.scripts_data, AlwaysVisible=object()),
            "shared": module(
                "shared", opts=self.opts, OptionInfo=OptionInfo, cmd_opts=SimpleNamespace(embeddings_dir="")
            ),
            "errors": module("errors", report=self._report),
            "sd_unet": module("sd_unet", current_unet=None),
            "sd_hijack": module("sd_hijack", model_hijack=SimpleNamespace(embedding_db=database)),
            "sd_samplers_common": module("sd_samplers_common", InterruptedException=type("Stop", (BaseException,), {})),
        }
        names = (
            "devices extra_networks processing prompt_parser sd_hijack_checkpoint sd_hijack_optimizations sd_models "
            "sd_samplers sd_samplers_cfg_denoiser infotext_utils paths_internal call_queue images textual_inversion "
            "textual_inversion.textual_inversion ui_extra_networks_textual_inversion"
        )
        parts.update({name: module(name) for name in names.split() if name not in parts})
        package = types.ModuleType("modules")
        package.__path__ = []
        vars(package).update(parts)
        return {"modules": package, **{f"modules.{name}": part for name, part in parts.items()}}

    def _remove(self, callback) -> None:
        for registered in self.callbacks.values():
            registered[:] = [c for c in registered if c != callback]

    def _report(self, message, exc_info=False) -> None:
        raise AssertionError(message) from sys.exc_info()[1]

    def load_scripts(self) -> None:
        """The host's own XYZ plot, then our script: executed, not put into sys.modules."""
        self.scripts_data.clear()
        grid = types.ModuleType("xyz_grid.py")
        grid.axis_options, grid.AxisOptionImg2Img = [AxisOption("Nothing", str, None)], AxisOption
        plot = type("Script", (Script,), {"__module__": "xyz_grid.py"})
        self.scripts_data.append(SimpleNamespace(script_class=plot, module=grid))
        spec = importlib.util.spec_from_file_location("negtrans.py", REPOSITORY / "scripts" / "negtrans.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for member in vars(module).values():
            if isinstance(member, type) and issubclass(member, Script):
                self.scripts_data.append(SimpleNamespace(script_class=member, module=module))

    def call(self, event: str) -> list:
        """Run the callbacks of an event."""
        return [callback() for callback in list(self.callbacks[event])]

    def reload_ui(self) -> None:
        """As the webui does it: unloaded callbacks, all forgotten, scripts again; modules of the package stay."""
        for callback in reversed(self.callbacks["on_script_unloaded"]):
            callback()
        for registered in self.callbacks.values():
            registered.clear()
        self.load_scripts()

    @property
    def axes(self) -> list[str]:
        return [axis.label for axis in self.scripts_data[0].module.axis_options]

    def counts(self) -> dict[str, int]:
        return {event: len(registered) for event, registered in self.callbacks.items() if registered}
