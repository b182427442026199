"""The parameters of a translation, and its presets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeVar

from lib_negtrans.core.colour import WAYS as COLOUR_WAYS
from lib_negtrans.core.guidance import OPTIONS as GUIDANCE_OPTIONS
from lib_negtrans.core.guidance import VARIANTS
from lib_negtrans.core.inversion import Order
from lib_negtrans.core.schedule import spaced, timestep_grid
from lib_negtrans.core.translate import FeatureSource, Solver, controlled_steps
from lib_negtrans.options import ParamError, Params, option
from lib_negtrans.pictures.masks import SOURCES as MASK_SOURCES

from .concepts import Steering, steering

DEPTHS = 4  # resolutions of an SD1 UNet
OF_PICTURE = ("prompt", "negative_prompt", "concepts")  # what is wanted of one picture: no preset sets it
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
                setattr(params, own, option(described.default, **described.metadata, group="Guidance", applies=applies))
    params.__annotations__ = annotations
    return params


@dataclass
@_with_guidance_options
class TranslationParams(Params):
    """One translation. Defaults are ours; `translation_preset("fashionr2r")` is the published code's behaviour."""

    prompt: str = option("", "Prompt", "What the photograph should show. Leave it empty to work as the paper does.")
    negative_prompt: str = option(
        "", "Negative prompt", "What the result should move away from. The negative embedding's trigger word goes here."
    )
    source_prompt: str = option(
        "", "Source prompt", "Describes the render while it is inverted. In most cases it should be empty.",
        infotext="NegTrans source prompt", group="Inversion",
    )  # fmt: skip
    strength: float = option(
        0.3, "Strength", "How far the render is taken towards noise. A higher value changes the picture more.",
        minimum=0.0, maximum=1.0, step=0.01, infotext="NegTrans strength",
    )  # fmt: skip
    steps: int = option(
        50, "Steps",
        "Steps in the whole noise schedule. Steps x strength x step share of them are computed: 50 x 0.3 x 0.6 is 9.",
        minimum=1, maximum=999, step=1, infotext="NegTrans steps",
    )  # fmt: skip
    cfg_scale: float = option(
        7.5, "CFG scale",
        "How strongly the result is pushed away from the negative prompt. At 1 it is not pushed at all.",
        minimum=0.0, maximum=30.0, step=0.5, infotext="NegTrans CFG scale",
    )  # fmt: skip
    tac_layers: int = option(
        256, "TAC layers",
        "Self-attention layers with at least height x width / this number of tokens follow the render. A higher "
        "number means more layers.",
        minimum=1, maximum=4096, step=1, infotext="NegTrans TAC layers", group="Attention",
    )  # fmt: skip
    tac_ratio: float = option(
        0.9, "TAC ratio",
        "For which share of the steps, from the first on, attention control (TAC) holds the render's texture. 0 turns "
        "it off.",
        minimum=0.0, maximum=1.0, step=0.05, infotext="NegTrans TAC ratio", group="Attention",
    )  # fmt: skip
    fixed_point: int = option(
        1, "Fixed-point iterations",
        "Extra model calls that make the inversion exact, at most this many for each step on average. They are spent "
        "on the steps that need them. 0 is plain DDIM inversion.",
        minimum=0, maximum=10, step=1, infotext="NegTrans fixed point", group="Inversion",
        applies=("solver", ("ddim",)),
    )  # fmt: skip
    start: str = option(
        "inversion", "Start from",
        "inversion: start from the inverted render, which keeps the picture. noise: add random noise to the render, "
        "as img2img does.",
        choices=("inversion", "noise"), infotext="NegTrans start", group="Inversion",
    )  # fmt: skip
    guidance: str = option(
        "cfg", "Guidance",
        "Which part of the negative is subtracted. "
        + " ".join(f"{name}: {variant.subtracts}." for name, variant in VARIANTS.items()),
        choices=tuple(VARIANTS), infotext="NegTrans guidance", group="Guidance",
    )  # fmt: skip
    guidance_limit: float = option(
        0.5, "Guidance limit",
        "Where the push is stronger than this many times its average, it is cut to that; then all of it is "
        "strengthened until the whole is as strong as before. It keeps edges and patterns whole. 0 sets no limit.",
        minimum=0.0, maximum=10.0, step=0.05, infotext="NegTrans guidance limit", group="Guidance", before=0.0,
    )  # fmt: skip
    cfg_rescale: float = option(
        0.0, "CFG rescale", "Guidance raises the contrast; this brings it back. 0 is off, 1 brings it back fully.",
        minimum=0.0, maximum=1.0, step=0.05, infotext="NegTrans CFG rescale", group="Guidance",
    )  # fmt: skip
    concepts: str = option(
        "", "Concepts",
        "What the picture is pushed towards, one a line: a text, a colon and its weight, such as wool :3. A weight "
        "below 0 pushes away. Behind a bar come options: wool :3 | kind=sega threshold=0.9 warmup=1 cooldown=0.",
        infotext="NegTrans concepts", group="Guidance", lines=2,
    )  # fmt: skip
    tac_halves: str = option(
        "cond", "TAC halves",
        "cond: attention control acts on the prompt's prediction only. both: it acts on the negative's prediction too.",
        choices=("cond", "both"), infotext="NegTrans TAC halves", group="Attention",
    )  # fmt: skip
    tac_blend: float = option(
        1.0, "TAC blend",
        "How much of the render's attention (queries and keys) is mixed in. 1 uses the render's only, 0 is off.",
        minimum=0.0, maximum=1.0, step=0.05, infotext="NegTrans TAC blend", group="Attention",
    )  # fmt: skip
    tac_depths: str = option(
        "", "TAC depths",
        "A TAC ratio for each resolution of the model, the highest first, such as 0.9 0.9 0.5. It replaces TAC layers "
        "and TAC ratio.",
        infotext="NegTrans TAC depths", group="Attention",
    )  # fmt: skip
    features: str = option(
        "auto", "Source features",
        "How the render's attention is obtained. captured: stored during the inversion. recomputed: computed again at "
        "each step. auto chooses for you.",
        choices=("auto", "captured", "recomputed"), infotext="NegTrans features", group="Attention",
    )  # fmt: skip
    solver: Solver = option(
        "difference", "Solver",
        "difference: computes only how the result differs from the render, which needs fewer steps and model calls. "
        "ddim: inverts and samples with the same steps, made exact by fixed-point iterations.",
        choices=("difference", "ddim"), infotext="NegTrans solver", group="Inversion",
    )  # fmt: skip
    step_share: float = option(
        0.6, "Step share",
        "Which share of the steps is computed. 1 computes all of them, and 0.6 gives nearly the same picture. With "
        "the solver ddim, 0.8 does.",
        minimum=0.01, maximum=1.0, step=0.01, infotext="NegTrans step share", group="Inversion",
    )  # fmt: skip
    order: Order = option(
        "ascending", "Inversion order",
        "ascending is correct. published repeats the order of the released FashionR2R code.",
        choices=("ascending", "published"), infotext="NegTrans order", group="Inversion",
    )  # fmt: skip
    details: str = option(
        "render", "Details",
        "render: what the translation changes is added to the render's own pixels, so that prints and edges stay as "
        "sharp as they are there. model: every pixel comes from the model, which loses fine detail.",
        choices=("render", "model"), infotext="NegTrans details", group="Colour", before="model",
    )  # fmt: skip
    colour: str = option(
        "lightness", "Colour",
        "Brings the render's colours back. lightness: only the lightness of fine detail changes. lowpass: its "
        "colours and shading come back, without fine detail. statistics: the mean "
        "and contrast of each colour channel. latent: the coarse part of the latent, with detail no "
        "stronger than the render's, at no extra cost. off: colours may drift.",
        choices=("off", *COLOUR_WAYS), infotext="NegTrans colour", group="Colour",
    )  # fmt: skip
    colour_strength: float = option(
        1.0, "Colour strength", "How much of the render's colour is brought back: 0 is nothing, 1 is all of it.",
        minimum=0.0, maximum=1.0, step=0.05, infotext="NegTrans colour strength", group="Colour",
        applies=("colour", COLOUR_WAYS),
    )  # fmt: skip
    mask: str = option(
        "none", "Mask",
        "Says which part of the picture is the garment. alpha: what is not transparent. border: what differs from a "
        "uniform colour along the border. auto: alpha if there is transparency, otherwise border. file: what is "
        "painted white. Colour and attention control then act on the garment only.",
        choices=MASK_SOURCES, infotext="NegTrans mask",
    )  # fmt: skip
    background: str = option(
        "translate", "Background",
        "With a mask. translate: the background is translated too, separately from the garment. keep: the background "
        "stays as it is in the render.",
        choices=("translate", "keep"), infotext="NegTrans background",
        applies=("mask", MASK_SOURCES[1:]),
    )  # fmt: skip
    flat_background: str = option(
        "hold", "Flat background",
        "hold: a background of one colour without any texture stays smooth. translate: it may get a texture too.",
        choices=("hold", "translate"), infotext="NegTrans flat background", group="Colour", before="translate",
    )  # fmt: skip
    seed: int = option(0, "Seed", "Chooses the random noise, if Start from is noise.", minimum=0, maximum=2**63 - 1)

    def validate(self) -> TranslationParams:
        super().validate()
        if self.strength <= 0:
            raise ParamError("Strength must be above 0: at 0 nothing is translated.")
        try:
            timestep_grid(self.steps, self.strength)
        except ValueError as error:
            raise ParamError(str(error)) from error
        self.depth_ratios()
        warmups = {f'the concept "{concept.text}"': concept.warmup for concept in self.steering.concepts}
        if self.guidance == "sega":
            warmups["SEGA guidance"] = vars(self)["sega_warmup"]  # which `_with_guidance_options` gives
        for what, warmup in warmups.items():
            if warmup >= len(self.timesteps):
                raise ParamError(
                    f"A warm-up of {warmup} leaves {what} out of all {len(self.timesteps)} steps: make it smaller, 0 "
                    "for all of them."
                )
        if self.order == "published" and (self.fixed_point or self.features == "captured"):
            raise ParamError("The published inversion order needs 0 fixed-point iterations and recomputed features.")
        if self.order == "published" and (self.solver != "ddim" or self.step_share != 1):
            raise ParamError("The published inversion order needs the solver ddim and a step share of 1.")
        return self

    @classmethod
    def unwritten(cls, name: str) -> Any:
        """What the value of an option is of a picture whose text does not have it."""
        before = cls.options()[name].before
        return getattr(cls, name) if before is None else before

    @property
    def steering(self) -> Steering:
        """The prompts and concepts as a host of our own computes them. Raises ParamError."""
        return steering(self.prompt, self.negative_prompt, self.concepts)

    @property
    def timesteps(self) -> tuple[int, ...]:
        """The timesteps that are taken, ascending. Raises ValueError for steps or strength out of range."""
        grid = timestep_grid(self.steps, self.strength)
        if self.step_share == 1:
            return grid
        # where attention control ends a step ends too: nothing else of the grid matters as much
        ends = min(self._control_ends(level) for level in range(DEPTHS))
        return spaced(grid[-1], max(1, round(len(grid) * self.step_share)), ends)

    @property
    def sampler(self) -> Solver:
        """The solver of the way down: what starts from noise has no source to differ from."""
        return self.solver if self.start == "inversion" else "ddim"

    @property
    def features_from(self) -> FeatureSource:
        """Where features come from once "auto" is decided: captured where the inversion reads them at its latents."""
        exact = self.fixed_point >= 1 or self.solver == "difference"
        return "captured" if self.features == "captured" or (self.features == "auto" and exact) else "recomputed"

    @property
    def adds_to_render(self) -> bool:
        """Whether the change is added to the render's pixels: from noise, structure moves away from them."""
        return self.details == "render" and self.start == "inversion"

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
        if self.order == "published":  # the released code multiplies in another order (METHOD: R4)
            return int(self.steps * self.strength * self._ratio_at(level))
        return sum(timestep > self._control_ends(level) for timestep in self.timesteps)

    def _ratio_at(self, level: int) -> float:
        depths = self.depth_ratios()
        if not self.tac_blend or 0 < len(depths) <= level:
            return 0.0
        return depths[level] if depths else self.tac_ratio

    def _control_ends(self, level: int) -> int:
        """The timestep down to which attention control acts at this depth: on the grid of all steps."""
        grid = (0, *timestep_grid(self.steps, self.strength))
        return grid[-1 - controlled_steps(len(grid) - 1, self._ratio_at(level))]

    @property
    def tac_steps(self) -> int:
        """How many of the first sampled steps are under attention control at any depth."""
        return max(self.tac_steps_at(level) for level in range(DEPTHS))


# what the publication fixes, and what of ours it has not
_PUBLISHED: dict[str, Any] = {
    "strength": 0.3, "steps": 50, "cfg_scale": 7.5, "tac_layers": 256, "tac_ratio": 0.9,
    "solver": "ddim", "step_share": 1.0, "colour": "off", "details": "model", "mask": "none", "guidance_limit": 0.0,
    "guidance": "cfg", "cfg_rescale": 0.0, "tac_halves": "cond", "tac_blend": 1.0, "tac_depths": "",
}  # fmt: skip

# each preset with a sentence for the user; options left out have their defaults
TRANSLATION_PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "default": (
        "The published method with its inversion corrected, its push spread evenly, and the render's colours and "
        "details kept.",
        {},
    ),
    "fast": (
        "Needs two thirds of the default's model calls, because it takes fewer steps.",
        {"step_share": 0.4},
    ),
    "single": (
        "Takes a single short step: needs a ninth of the default's model calls, and only fine texture changes.",
        {"strength": 0.1, "step_share": 0.01},
    ),
    "faithful": (
        "The published method with its errors corrected: all steps, an exact inversion, no colours brought back.",
        {**_PUBLISHED, "fixed_point": 1, "features": "auto", "order": "ascending"},
    ),
    "texture": (
        "Keeps the most of the render: pushes less, with attention control in every step.",
        {"cfg_scale": 5.0, "tac_ratio": 1.0},
    ),
    "natural": (
        "Changes more than texture, such as shading: starts from more noise, and pushes less.",
        {"strength": 0.5, "cfg_scale": 4.0},
    ),
    "fashionr2r": (
        "Does what the released FashionR2R code does: the inversion runs in descending order, and the render's "
        "attention is recomputed at each step.",
        {**_PUBLISHED, "fixed_point": 0, "features": "recomputed", "order": "published",
         "flat_background": "translate"},
    ),
}  # fmt: skip


def translation_preset(name: str, **overrides: Any) -> TranslationParams:
    """The parameters of a preset, with overrides on top. Raises ParamError for an unknown name."""
    if not isinstance(name, str) or name not in TRANSLATION_PRESETS:
        raise ParamError(f"unknown preset {name!r}; there are {', '.join(TRANSLATION_PRESETS)}.")
    return TranslationParams.from_dict({**TRANSLATION_PRESETS[name][1], **overrides})


def preset_values(name: str) -> dict[str, Any]:
    """Every option that presets set, as this one has it. Raises ParamError for an unknown one."""
    return {key: value for key, value in translation_preset(name).to_dict().items() if key not in OF_PICTURE}
