"""A stand-in for Forge's `backend`: how its own conditions, batches and guidance call a model, and nothing else.

Written after backend/sampling of the real one, for latents of one area and models without memory limits.
"""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

SIGMAS = torch.linspace(0.03, 14.6, 1000)


class ConditionCrossAttn:
    def __init__(self, cond: Tensor) -> None:
        self.cond = cond


def compile_conditions(context: Tensor) -> list[dict[str, Any]]:
    return [{"cross_attn": context, "model_conds": {"c_crossattn": ConditionCrossAttn(context)}}]


def calc_cond_uncond_batch(model, cond, uncond, x, sigma, model_options):
    """All in one call, the last of the list first, as the real one takes them; weighted means of each kind."""
    entries = [(0, c) for c in cond] + [(1, c) for c in uncond or []]
    entries.reverse()
    kinds = [kind for kind, _ in entries]
    given = {
        "input": torch.cat([x] * len(entries)),
        "timestep": torch.cat([sigma] * len(entries)),
        "c": {"c_crossattn": torch.cat([c["model_conds"]["c_crossattn"].cond for _, c in entries])},
        "cond_or_uncond": kinds,
    }
    wrapper = model_options.get("model_function_wrapper")
    out = wrapper(model.apply_model, given) if wrapper else model.apply_model(x, sigma, **given["c"])
    means = []
    for wanted in (0, 1):
        pairs = [
            (o, c.get("strength", 1.0)) for o, (k, c) in zip(out.chunk(len(kinds)), entries, strict=True) if k == wanted
        ]
        total = sum(weight for _, weight in pairs)
        means.append(sum(o * weight for o, weight in pairs) / total if pairs else torch.zeros_like(x))
    return means


class CfgDenoiser:
    """Forge's for timesteps: gives the guided noise prediction."""

    def __init__(self, patchers, cond, uncond):
        self.patchers, self.cond, self.uncond = patchers, cond, uncond  # patchers: a list, the last is in force
        self.mask, self.step = "mask", 0

    def __call__(self, z, timestep, cond_scale=7.5, **_):
        assert self.mask is None, "the host would put noise into the kept part"
        patcher = self.patchers[-1]
        sigma = SIGMAS[timestep.long()]
        x = z * (sigma**2 + 1).sqrt()[:, None, None, None]
        options = patcher.model_options
        skips = cond_scale == 1 and not options.get("disable_cfg1_optimization")
        cond, uncond = calc_cond_uncond_batch(
            patcher.model, self.cond, None if skips else self.uncond, x, sigma, options
        )
        weight = sum(c.get("strength", 1.0) for c in self.cond)
        denoised = uncond + (cond - uncond) * cond_scale * weight
        for function in options.get("sampler_post_cfg_function", []):
            denoised = function({
                "denoised": denoised, "cond": self.cond, "uncond": self.uncond, "model": patcher.model, "sigma": sigma,
                "uncond_denoised": uncond, "cond_denoised": cond, "model_options": options, "input": x,
            })  # fmt: skip
        self.step += 1
        return (x - denoised) / sigma[:, None, None, None]


class Patcher:
    """UnetPatcher around noise(z, context), a function; every UNet call's rows are in `calls`."""

    controlnet_linked_list = None

    def __init__(self, noise) -> None:
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        self.calls: list[int] = []
        predictor = SimpleNamespace(sigmas=SIGMAS, prediction_type="epsilon")

        def apply_model(x, sigma, c_crossattn):
            self.calls.append(len(x))
            scale = sigma[:, None, None, None]
            return x - scale * noise(x / (scale**2 + 1).sqrt(), c_crossattn)

        self.model = SimpleNamespace(predictor=predictor, apply_model=apply_model)

    def set_model_unet_function_wrapper(self, wrapper) -> None:
        self.model_options["model_function_wrapper"] = wrapper


def modules(folder: Path) -> dict[str, types.ModuleType]:
    """What is to be in sys.modules for a Forge; folder: a place for what is looked for on disk."""
    (folder / "backend" / "sampling").mkdir(parents=True)
    names = ("modules_forge", "backend", "backend.memory_management", "backend.sampling", "backend.sampling.condition")
    made = {name: types.ModuleType(name) for name in (*names, "backend.sampling.sampling_function")}
    for name, module in made.items():
        module.__spec__ = ModuleSpec(name, None)
        module.__path__ = []
    made["backend"].__spec__.submodule_search_locations = [str(folder / "backend")]
    vars(made["backend.sampling.condition"]).update(
        compile_conditions=compile_conditions, ConditionCrossAttn=ConditionCrossAttn
    )
    vars(made["backend.sampling.sampling_function"]).update(
        calc_cond_uncond_batch=calc_cond_uncond_batch,
        sampling_prepare=lambda unet, x: None,
        sampling_cleanup=lambda unet: None,
    )
    return made


def install(monkeypatch, host, folder: Path) -> None:
    """Turn a `FakeHost` into a Forge."""
    del host.modules["modules.sd_hijack"].model_hijack.embedding_db
    for name, module in modules(folder).items():
        monkeypatch.setitem(sys.modules, name, module)
