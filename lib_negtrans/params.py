"""The two jobs' parameters: one typed model each, shared by UI, API, command line, infotext, XYZ grid and tests.

A field's metadata (`Option`) holds what every front end shows: label, help, range, choices, and its infotext key.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from .core.colour import WAYS as COLOUR_WAYS
from .core.guidance import KINDS as GUIDANCE_KINDS
from .core.schedule import TRAIN_STEPS, thinned, timestep_grid
from .core.translate import controlled_steps

DEPTHS = 4  # resolutions of an SD1 UNet


class ParamError(ValueError):
    """A parameter is out of range or contradicts another; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class Option:
    """What a front end shows for a field. minimum and maximum are inclusive."""

    label: str
    help: str
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: tuple[str, ...] | None = None
    infotext: str | None = None  # key in the PNG text, beginning with "NegTrans"
    advanced: bool = False  # behind the panel's "More options"
    applies: tuple[str, tuple[Any, ...]] | None = None  # (field, values) under which it does anything at all


def option(default: Any, label: str, help: str, **limits: Any) -> Any:
    """A dataclass field with an `Option`."""
    return field(default=default, metadata={"option": Option(label, help, **limits)})


@dataclass
class _Params:
    @classmethod
    def options(cls) -> dict[str, Option]:
        """Field name -> Option, in order."""
        return {f.name: f.metadata["option"] for f in dataclasses.fields(cls) if "option" in f.metadata}

    def applies(self, name: str) -> bool:
        """Whether this option does anything, given the others: a top-k ratio does not without top-k."""
        condition = self.options()[name].applies
        return condition is None or getattr(self, condition[0]) in condition[1]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Any:
        """From plain data, validated. Raises ParamError for unknown names."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ParamError(f"unknown parameter {unknown[0]!r}; known are {', '.join(sorted(known))}.")
        return cls(**values).validate()

    @classmethod
    def from_stored(cls, values: dict[str, Any]) -> Any:
        """From a file of this or another version, which may name options that are no more. Raises ParamError."""
        known = cls.options()
        return cls.from_dict({name: value for name, value in values.items() if name in known})

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    def validate(self) -> Any:
        """Check every range and choice and give self back; raises ParamError."""
        for name, opt in self.options().items():
            value = getattr(self, name)
            if opt.choices is not None and value not in opt.choices:
                raise ParamError(f"{opt.label} must be one of {', '.join(opt.choices)}, not {value!r}.")
            if opt.minimum is not None or opt.maximum is not None:
                low = -math.inf if opt.minimum is None else opt.minimum
                high = math.inf if opt.maximum is None else opt.maximum
                if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                    raise ParamError(f"{opt.label} must lie between {low:g} and {high:g}, not {value!r}.")
        return self


@dataclass
class TranslationParams(_Params):
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
        50, "Steps", "Grid points over the whole schedule; strength x steps of them are taken.",
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
        "Extra UNet calls that make the inversion exact: up to this many a step, spent where they are needed; 0 is "
        "plain inversion.",
        minimum=0, maximum=10, step=1, infotext="NegTrans fixed point", applies=("solver", ("ddim",)),
    )  # fmt: skip
    start: str = option(
        "inversion", "Start from", "The inverted latent (keeps the picture) or fresh noise added to it (img2img).",
        choices=("inversion", "noise"), infotext="NegTrans start",
    )  # fmt: skip
    guidance: str = option(
        "cfg", "Guidance",
        "What of the negative is subtracted: all (cfg), what does not oppose the prompt (perp), its strongest values "
        "(topk), where it outweighs the prompt (salience), each channel's strongest, in chosen steps (sega).",
        choices=GUIDANCE_KINDS, infotext="NegTrans guidance",
    )  # fmt: skip
    topk_ratio: float = option(
        0.1, "Top-k ratio",
        "Guidance topk: the share of the negative's values, from the largest, that is subtracted. 0.1 likes CFG scale "
        "15; 1 is cfg.",
        minimum=0.0, maximum=1.0, step=0.01, infotext="NegTrans top-k ratio",
        advanced=True, applies=("guidance", ("topk",)),
    )  # fmt: skip
    sega_threshold: float = option(
        0.9, "SEGA threshold",
        "Guidance sega: values below this quantile of their channel stay. 0.9 likes CFG scale 15; 0 subtracts all.",
        minimum=0.0, maximum=0.99, step=0.01, infotext="NegTrans SEGA threshold",
        advanced=True, applies=("guidance", ("sega",)),
    )  # fmt: skip
    sega_warmup: int = option(
        1, "SEGA warm-up", "Guidance sega: steps before the negative is first subtracted.",
        minimum=0, maximum=999, step=1, infotext="NegTrans SEGA warm-up",
        advanced=True, applies=("guidance", ("sega",)),
    )  # fmt: skip
    sega_cooldown: int = option(
        0, "SEGA cool-down", "Guidance sega: the step from which the negative is no longer subtracted; 0 is never.",
        minimum=0, maximum=999, step=1, infotext="NegTrans SEGA cool-down",
        advanced=True, applies=("guidance", ("sega",)),
    )  # fmt: skip
    sega_momentum: float = option(
        0.1, "SEGA momentum", "Guidance sega: share of the earlier steps' direction that is added to each step's.",
        minimum=0.0, maximum=1.0, step=0.05, infotext="NegTrans SEGA momentum",
        advanced=True, applies=("guidance", ("sega",)),
    )  # fmt: skip
    sega_beta: float = option(
        0.4, "SEGA momentum decay", "Guidance sega: how slowly the earlier steps' direction is forgotten.",
        minimum=0.0, maximum=0.99, step=0.05, infotext="NegTrans SEGA momentum decay",
        advanced=True, applies=("guidance", ("sega",)),
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
        1.0, "Step share", "Share of the grid's steps that are taken; fewer are faster: 0.4 with solver difference.",
        minimum=0.01, maximum=1.0, step=0.05, infotext="NegTrans step share", advanced=True,
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
        """Whether the inversion records queries and keys."""
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
        "A third of the default's UNet calls: two fifths of the steps, and only what changes is integrated over them.",
        {"solver": "difference", "step_share": 0.4},
    ),
    "faithful": (
        "The published method with its errors corrected and nothing else: exact inversion, no colour taken back.",
        {**_PUBLISHED, "fixed_point": 1, "features": "auto", "order": "ascending"},
    ),
    "texture": (
        "Keeps most texture: only the strongest tenth of the negative, pushed twice as hard, every step controlled.",
        {"guidance": "topk", "topk_ratio": 0.1, "cfg_scale": 15.0, "tac_ratio": 1.0},
    ),
    "natural": (
        "Changes more towards a photograph: starts from more noise, with the strongest tenth of the negative.",
        {"guidance": "topk", "topk_ratio": 0.1, "cfg_scale": 15.0, "strength": 0.5},
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


@dataclass
class TrainingParams(_Params):
    """One training of a negative embedding."""

    steps: int = option(1000, "Steps", "Optimizer steps in all.", minimum=1, maximum=1_000_000, step=1)
    lr: str = option(
        "5e-3", "Learning rate", 'A number or the webui\'s schedule "5e-3:100, 1e-3:1000, 1e-5" (rate until step).'
    )
    vectors: int = option(
        4, "Vectors", "Tokens the embedding takes in a prompt; 1 to 8 suffice.", minimum=1, maximum=75, step=1
    )
    init_text: str = option("style", "Initialisation text", "Its token vectors are the start; empty starts from zeros.")
    strength: float = option(
        0.3, "Strength", "Trains only the timesteps that a translation of this strength will use.",
        minimum=0.01, maximum=1.0, step=0.01,
    )  # fmt: skip
    batch_size: int = option(1, "Batch size", "Pictures per forward pass.", minimum=1, maximum=256, step=1)
    accumulation: int = option(
        4, "Gradient accumulation", "Forward passes per optimizer step.", minimum=1, maximum=1024, step=1
    )
    size: int = option(
        512, "Size", "Side of the training pictures in pixels, a multiple of 8; other aspects get the same area.",
        minimum=64, maximum=2048, step=8,
    )  # fmt: skip
    aspect: str = option(
        "buckets", "Other aspects", "Pictures that are not square keep their shape (buckets), or are cropped to it.",
        choices=("buckets", "square"),
    )  # fmt: skip
    template: str = option(
        "auto", "Caption template",
        "Lines with [name] and [filewords]: a file, or filewords, name, style; auto is filewords where there are .txt.",
    )  # fmt: skip
    shuffle_tags: bool = option(
        False, "Shuffle tags", "The words of a caption between commas come in another order each time."
    )
    tag_dropout: float = option(
        0.0, "Tag dropout", "Probability with which each of those words is left out.",
        minimum=0.0, maximum=1.0, step=0.05,
    )  # fmt: skip
    keep_tags: int = option(
        0, "Tags kept", "The first ones that are neither shuffled nor left out.", minimum=0, maximum=100, step=1
    )
    latent_sampling: str = option(
        "mean", "Latent sampling", "What the VAE gives for a picture: its mean, one sample, or a new one at each step.",
        choices=("mean", "once", "step"),
    )  # fmt: skip
    latent_cache: str = option(
        "memory", "Latent cache", "Where encoded pictures wait; on disk they are there for the next training too.",
        choices=("memory", "disk"),
    )  # fmt: skip
    flip: bool = option(
        False, "Horizontal flip", "Shows half of the pictures mirrored; garments are not symmetric, so rather not."
    )
    alpha_weight: bool = option(
        False, "Loss weight from transparency", "What is transparent counts less; a wholly opaque picture as before."
    )
    pattern: str = option(
        "", "File name pattern", 'Trains only on file names that match, such as "mh_*"; empty takes all.'
    )
    background: str = option(
        "grey",
        "Background",
        "What is put under transparent pictures; a translation uses grey.",
        choices=("grey", "white"),
    )
    objective: str = option(
        "reconstruct", "Objective",
        "Reconstruct the renders; contrastive also learns what, subtracted, explains real photos better.",
        choices=("reconstruct", "contrastive"),
    )  # fmt: skip
    photo_weight: float = option(
        1.0, "Photo weight", "Contrastive: pull of the photos; at 1 they pull as hard as the renders.",
        minimum=0.0, maximum=100.0, step=0.1,
    )  # fmt: skip
    photo_guidance: float = option(
        7.5, "Guidance in the loss", "Contrastive: the CFG scale at which the vectors are subtracted from photos.",
        minimum=1.5, maximum=30.0, step=0.5,
    )  # fmt: skip
    min_timestep: int = option(
        -1, "Lowest timestep", "Trains from this timestep on; -1: the first that a translation uses.",
        minimum=-1, maximum=999, step=1,
    )  # fmt: skip
    max_timestep: int = option(
        -1, "Highest timestep", "Trains up to this timestep; -1: the last that a translation at the strength uses.",
        minimum=-1, maximum=999, step=1,
    )  # fmt: skip
    min_snr_gamma: float = option(
        0.0, "Min-SNR gamma", "Weighs low timesteps down (5 is usual); 0 is off: they are where texture is learnt.",
        minimum=0.0, maximum=100.0, step=0.5,
    )  # fmt: skip
    huber: float = option(
        0.0, "Huber loss", "Errors beyond this size count linearly, so outliers weigh less; 0 is the plain square.",
        minimum=0.0, maximum=10.0, step=0.05,
    )  # fmt: skip
    optimizer: str = option(
        "adamw", "Optimizer", "adamw8bit needs the package bitsandbytes; prodigy needs prodigyopt and learning rate 1.",
        choices=("adamw", "adamw8bit", "prodigy"),
    )  # fmt: skip
    precision: str = option(
        "model", "Precision", "Of the UNet's passes: the model's own, or autocast to fp16 (with a loss scale) or bf16.",
        choices=("model", "fp32", "fp16", "bf16"),
    )  # fmt: skip
    norm_decay: float = option(
        0.0, "Norm decay", "Share by which vectors longer than real tokens are shortened towards them at every step.",
        minimum=0.0, maximum=1.0, step=0.01,
    )  # fmt: skip
    ema: float = option(
        0.0, "Average of the vectors", "The result is a moving average with this decay, such as 0.99; 0 is off.",
        minimum=0.0, maximum=0.9999, step=0.01,
    )  # fmt: skip
    validate_every: int = option(
        0, "Validate every", "Steps between measurements on pictures that are not trained on; 0 is never.",
        minimum=0, maximum=1_000_000,
    )  # fmt: skip
    holdout: float = option(
        0.1, "Held out", "For validation: a share of the pictures, or from 1 on their number.",
        minimum=0.0, maximum=1000.0, step=0.01,
    )  # fmt: skip
    patience: int = option(
        0, "Patience", "Stops after this many validations without a better one; 0 never stops early.",
        minimum=0, maximum=1000, step=1,
    )  # fmt: skip
    result: str = option(
        "last", "Result", "What the embedding holds: the last vectors, or the best that a validation has seen.",
        choices=("last", "best"),
    )  # fmt: skip
    licence: str = option(
        "", "Licence note", "Written into the embedding and its card, such as CC BY 4.0; empty writes none."
    )
    save_every: int = option(50, "Checkpoint every", "Steps between checkpoints.", minimum=1, maximum=1_000_000, step=1)
    keep: int = option(
        10, "Checkpoints kept", "Older ones are removed, but for the best vectors.", minimum=1, maximum=1000, step=1
    )
    preview_every: int = option(
        0,
        "Preview every",
        "Steps between preview translations; 0: only the final one.",
        minimum=0,
        maximum=1_000_000,
    )
    clip_grad_norm: float = option(
        1.0, "Gradient norm limit", "Gradients longer than this are shortened; 0 is no limit.", minimum=0.0, maximum=1e6
    )
    weight_decay: float = option(0.0, "Weight decay", "AdamW's.", minimum=0.0, maximum=1.0)
    gradient_checkpointing: bool = option(False, "Gradient checkpointing", "Less memory for about a third more time.")
    seed: int = option(0, "Seed", "Of data order, noise and timesteps.", minimum=0, maximum=2**63 - 1)

    def validate(self) -> TrainingParams:
        super().validate()
        if self.size % 8:
            raise ParamError(f"Size must be a multiple of 8, not {self.size}.")
        low, high = self.timesteps
        if low > high:
            raise ParamError(f"Lowest timestep {low} lies above the highest, {high}: change one of them.")
        for name in ("patience", "result"):
            if not self.validate_every and getattr(self, name) != getattr(type(self), name):
                label = self.options()[name].label
                raise ParamError(f"{label} needs validation: set Validate every to a number of steps, such as 50.")
        return self

    @property
    def rows_per_step(self) -> int:
        """How many rows a process does in an optimizer step."""
        return self.batch_size * self.accumulation

    @property
    def timesteps(self) -> tuple[int, int]:
        """The inclusive range that is trained: from the strength, unless named.

        The grid 1 + i*floor(1000/N), i < int(N*strength), stays below 1000*strength + 1: strength .3 gives (0, 300).
        """
        last = min(TRAIN_STEPS - 1, round(TRAIN_STEPS * self.strength))
        high = self.max_timestep if self.max_timestep >= 0 else max(last, self.min_timestep)
        return max(0, self.min_timestep), high
