"""The parameters of a translation, and its presets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

from lib_negtrans.core.colour import WAYS as COLOUR_WAYS
from lib_negtrans.core.guidance import OPTIONS as GUIDANCE_OPTIONS
from lib_negtrans.core.guidance import VARIANTS
from lib_negtrans.core.schedule import thinned, timestep_grid
from lib_negtrans.core.translate import controlled_steps
from lib_negtrans.options import ParamError, Params, option

DEPTHS = 4  # resolutions of an SD1 UNet
_Class = TypeVar("_Class")


def _with_guidance_options(params: type[_Class]) -> type[_Class]:
    """The options of every guidance variant, which apply under it, as fields behind `guidance`."""
    annotations: dict[str, Any] = {}
    for name, kind in params.__annotations__.items():
        annotations[name] = kind
        if name == "guidance":
            for own, (variant, described) in GUIDANCE_OPTIONS.items():
                annotations[own] = described.type
                applies = ("guidance", (variant,))
                setattr(params, own, option(described.default, **described.metadata, advanced=True, applies=applies))
    params.__annotations__ = annotations
    return params


@dataclass
@_with_guidance_options
class TranslationParams(Params):
    """One translation. Defaults are ours; `preset("fashionr2r")` is the published code's behaviour."""

    prompt: str = option("", "Prompt", "What the photograph should show; empty follows the paper.")
    negative_prompt: str = option(
        "", "Negative prompt", "What to push away from; the negative embedding's trigger word goes here."
    )
    source_prompt: str = option(
        "", "Source prompt", "Describes the render during inversion; empty is right in most cases.",
        infotext="NegTrans source prompt",
    )  # fmt: skip
    strength: float = option(
        0.3, "Strength", "How far up the noise schedule the render is inverted: more changes more.",
        minimum=0.0, maximum=1.0, step=0.01, infotext="NegTrans strength",
    )  # fmt: skip
    steps: int = option(
        50, "Steps",
        "Grid points over the whole schedule; strength x steps of them are used, and step share of those taken.",
        minimum=1, maximum=999, step=1, infotext="NegTrans steps",
    )  # fmt: skip
    cfg_scale: float = option(
        7.5, "CFG scale", "How hard the result is pushed away from the negative prompt; 1 is not at all.",
        minimum=0.0, maximum=30.0, step=0.5, infotext="NegTrans CFG scale",
    )  # fmt: skip
    tac_layers: int = option(
        256, "TAC layers", "Self-attention layers with at least H*W/this tokens keep the source's attention.",
        minimum=1, maximum=4096, step=1, infotext="NegTrans TAC layers",
    )  # fmt: skip
    tac_ratio: float = option(
        0.9, "TAC ratio", "Share of the steps, from the first, under attention control; 0 turns it off.",
        minimum=0.0, maximum=1.0, step=0.05, infotext="NegTrans TAC ratio",
    )  # fmt: skip
    fixed_point: int = option(
        1, "Fixed-point iterations",
        "Extra UNet calls that make the inversion exact: up to this many times its steps, spent where they are needed; "
        "0 is plain inversion.",
        minimum=0, maximum=10, step=1, infotext="NegTrans fixed point", applies=("solver", ("ddim",)),
    )  # fmt: skip
    start: str = option(
        "inversion", "Start from", "The inverted latent (keeps the picture) or fresh noise added to it (img2img).",
        choices=("inversion", "noise"), infotext="NegTrans start",
    )  # fmt: skip
    guidance: str = option(
        "cfg", "Guidance",
        f"What of the negative is subtracted: {', '.join(f'{v.subtracts} ({name})' for name, v in VARIANTS.items())}.",
        choices=tuple(VARIANTS), infotext="NegTrans guidance",
    )  # fmt: skip
    cfg_rescale: float = option(
        0.0, "CFG rescale", "Brings the guided prediction's contrast back to the unguided one's: 0 is off, 1 wholly.",
        minimum=0.0, maximum=1.0, step=0.05, infotext="NegTrans CFG rescale", advanced=True,
    )  # fmt: skip
    tac_halves: str = option(
        "cond", "TAC halves", "Attention control of the prompt's prediction (cond), or of the negative's too (both).",
        choices=("cond", "both"), infotext="NegTrans TAC halves", advanced=True,
    )  # fmt: skip
    tac_blend: float = option(
        1.0, "TAC blend", "The source's share in controlled queries and keys: 1 replaces the picture's own, 0 is off.",
        minimum=0.0, maximum=1.0, step=0.05, infotext="NegTrans TAC blend", advanced=True,
    )  # fmt: skip
    tac_depths: str = option(
        "", "TAC depths",
        "A TAC ratio for each depth, full resolution first, such as 0.9 0.9 0.5; replaces TAC layers and TAC ratio.",
        infotext="NegTrans TAC depths", advanced=True,
    )  # fmt: skip
    features: str = option(
        "auto", "Source features", "Where Q and K come from: captured in the inversion, or recomputed at each step.",
        choices=("auto", "captured", "recomputed"), infotext="NegTrans features", advanced=True,
    )  # fmt: skip
    solver: str = option(
        "ddim", "Solver",
        "ddim runs the same exact steps up and down; difference adds what changes to the render's own path, for few "
        "steps.",
        choices=("ddim", "difference"), infotext="NegTrans solver", advanced=True,
    )  # fmt: skip
    step_share: float = option(
        0.8, "Step share",
        "Share of the grid's steps that are taken, spread evenly over the noise: 0.8 differs little from 1, which "
        "takes all; 0.4 suits the solver difference.",
        minimum=0.01, maximum=1.0, step=0.01, infotext="NegTrans step share", advanced=True,
    )  # fmt: skip
    order: str = option(
        "ascending", "Inversion order", "Ascending is right; published repeats the released code.",
        choices=("ascending", "published"), infotext="NegTrans order", advanced=True,
    )  # fmt: skip
    colour: str = option(
        "lowpass", "Colour",
        "Takes colour and tone back from the render: coarse colours and shading (lowpass), each colour channel's mean "
        "and contrast (statistics), or the latent's coarse part, which is free (latent).",
        choices=("off", *COLOUR_WAYS), infotext="NegTrans colour",
    )  # fmt: skip
    colour_strength: float = option(
        1.0, "Colour strength", "How much of the render's colour is taken back: 0 nothing, 1 all.",
        minimum=0.0, maximum=1.0, step=0.05, infotext="NegTrans colour strength", applies=("colour", COLOUR_WAYS),
    )  # fmt: skip
    mask: str = option(
        "none", "Mask",
        "What is garment: by transparency (alpha), by a uniform border colour (border), by what there is of the two "
        "(auto), or as painted (file). Colour and attention control then act on it alone.",
        choices=("none", "auto", "alpha", "border", "file"), infotext="NegTrans mask",
    )  # fmt: skip
    background: str = option(
        "translate", "Background", "With a mask: translate it apart from the garment, or keep the render's.",
        choices=("translate", "keep"), infotext="NegTrans background",
        applies=("mask", ("auto", "alpha", "border", "file")),
    )  # fmt: skip
    seed: int = option(0, "Seed", "Seed of the noise when starting from noise.", minimum=0, maximum=2**63 - 1)

    def validate(self) -> TranslationParams:
        super().validate()
        if self.strength <= 0:
            raise ParamError("Strength must be above 0: at 0 nothing is translated.")
        try:
            timestep_grid(self.steps, self.strength)
        except ValueError as error:
            raise ParamError(str(error)) from error
        self.depth_ratios()
        if self.order == "published" and (self.fixed_point or self.features == "captured"):
            raise ParamError("The published inversion order needs 0 fixed-point iterations and recomputed features.")
        if self.order == "published" and (self.solver != "ddim" or self.step_share != 1):
            raise ParamError("The published inversion order needs the solver ddim and a step share of 1.")
        if self.solver == "difference" and self.start != "inversion":
            raise ParamError("The solver difference follows the inversion: start from it, or choose the solver ddim.")
        return self

    @property
    def timesteps(self) -> tuple[int, ...]:
        """The timesteps that are taken, ascending. Raises ValueError for steps or strength out of range."""
        grid = timestep_grid(self.steps, self.strength)
        return thinned(grid, max(1, round(len(grid) * self.step_share))) if self.step_share < 1 else grid

    @property
    def features_from(self) -> str:
        """Where features come from once "auto" is decided: captured where the inversion reads them at its latents."""
        if self.features != "auto":
            return self.features
        return "captured" if self.fixed_point >= 1 or self.solver == "difference" else "recomputed"

    @property
    def inverts(self) -> bool:
        """Whether there is an inversion at all: to start from, or for its source's attention."""
        return self.start == "inversion" or self.tac_steps > 0

    @property
    def captures(self) -> bool:
        """Whether the inversion records what queries and keys are made of."""
        return self.features_from == "captured" and self.tac_steps > 0

    @property
    def inverts_guided(self) -> bool:
        """The released code guides its inversion too; with an empty source prompt that cancels."""
        return self.order == "published" and self.source_prompt != ""

    def depth_ratios(self) -> tuple[float, ...]:
        """`tac_depths` as numbers, by level; () when it is empty. Raises ParamError."""
        words = self.tac_depths.replace(",", " ").split()
        try:
            ratios = tuple(float(word) for word in words)
        except ValueError:
            ratios = (math.nan,)
        if len(ratios) > DEPTHS or not all(0 <= ratio <= 1 for ratio in ratios):
            raise ParamError(
                f"TAC depths must be up to {DEPTHS} numbers between 0 and 1 with spaces between them, "
                f"such as 0.9 0.9 0.5, not {self.tac_depths!r}."
            )
        return ratios

    def tac_steps_at(self, level: int) -> int:
        """How many of the first sampled steps are under attention control at this depth, 0 the full resolution."""
        depths = self.depth_ratios()
        if not self.tac_blend or 0 < len(depths) <= level:
            return 0
        ratio = depths[level] if depths else self.tac_ratio
        if self.order == "published":  # the released code multiplies in another order (METHOD: R4)
            return int(self.steps * self.strength * ratio)
        grid = timestep_grid(self.steps, self.strength)
        controlled = grid[len(grid) - controlled_steps(len(grid), ratio) :]
        return sum(timestep in controlled for timestep in self.timesteps)

    @property
    def tac_steps(self) -> int:
        """How many of the first sampled steps are under attention control at any depth."""
        return max(self.tac_steps_at(level) for level in range(DEPTHS))


# what the publication fixes, and what of ours it has not
_PUBLISHED: dict[str, Any] = {
    "strength": 0.3, "steps": 50, "cfg_scale": 7.5, "tac_layers": 256, "tac_ratio": 0.9,
    "solver": "ddim", "step_share": 1.0, "colour": "off", "mask": "none",
    "guidance": "cfg", "cfg_rescale": 0.0, "tac_halves": "cond", "tac_blend": 1.0, "tac_depths": "",
}  # fmt: skip

# Each preset with a sentence for the user; None in `values` never occurs, fields left out keep the caller's value.
TRANSLATION_PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("The published method with its inversion corrected, and the render's colours taken back.", {}),
    "fast": (
        "Two fifths of the default's UNet calls: half of its steps, and only what changes is integrated over them.",
        {"solver": "difference", "step_share": 0.4},
    ),
    "faithful": (
        "The published method with its errors corrected and nothing else: all steps, exact inversion, no colour taken "
        "back.",
        {**_PUBLISHED, "fixed_point": 1, "features": "auto", "order": "ascending"},
    ),
    "texture": (
        "Keeps most texture: only the strongest tenth of the negative, pushed twice as hard, every step controlled.",
        {"guidance": "topk", "topk_ratio": 0.1, "cfg_scale": 15.0, "tac_ratio": 1.0},
    ),
    "natural": (
        "Changes more towards a photograph: starts from more noise, with the strongest tenth of the negative.",
        {"guidance": "topk", "topk_ratio": 0.1, "cfg_scale": 10.0, "strength": 0.5},
    ),
    "fashionr2r": (
        "The released FashionR2R code as it runs: descending inversion, features recomputed from its source latents.",
        {**_PUBLISHED, "fixed_point": 0, "features": "recomputed", "order": "published"},
    ),
}  # fmt: skip


def translation_preset(name: str, **overrides: Any) -> TranslationParams:
    """The parameters of a preset, with overrides on top. Raises ParamError for an unknown name."""
    if name not in TRANSLATION_PRESETS:
        raise ParamError(f"unknown preset {name!r}; there are {', '.join(TRANSLATION_PRESETS)}.")
    return TranslationParams.from_dict({**TRANSLATION_PRESETS[name][1], **overrides})
