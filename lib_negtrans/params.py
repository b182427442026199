"""The two jobs' parameters: one typed model each, shared by UI, API, command line, infotext, XYZ grid and tests.

A field's metadata (`Option`) holds what every front end shows: label, help, range, choices, and its infotext key.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from .core.schedule import strength_steps, timestep_grid
from .core.translate import controlled_steps


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


def option(default: Any, label: str, help: str, **limits: Any) -> Any:
    """A dataclass field with an `Option`."""
    return field(default=default, metadata={"option": Option(label, help, **limits)})


@dataclass
class _Params:
    @classmethod
    def options(cls) -> dict[str, Option]:
        """Field name -> Option, in order."""
        return {f.name: f.metadata["option"] for f in dataclasses.fields(cls) if "option" in f.metadata}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Any:
        """From plain data, validated. Raises ParamError for unknown names."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ParamError(f"unknown parameter {unknown[0]!r}; known are {', '.join(sorted(known))}.")
        return cls(**values).validate()

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
        1, "Fixed-point iterations", "Extra UNet calls per inversion step that make it exact; 1 or 2 suffice.",
        minimum=0, maximum=10, step=1, infotext="NegTrans fixed point",
    )  # fmt: skip
    start: str = option(
        "inversion", "Start from", "The inverted latent (keeps the picture) or fresh noise added to it (img2img).",
        choices=("inversion", "noise"), infotext="NegTrans start",
    )  # fmt: skip
    guidance: str = option(
        "cfg", "Guidance", "How the negative is subtracted.", choices=("cfg",), infotext="NegTrans guidance"
    )
    features: str = option(
        "auto", "Source features", "Where Q and K come from: captured in the inversion, or recomputed at each step.",
        choices=("auto", "captured", "recomputed"), infotext="NegTrans features",
    )  # fmt: skip
    order: str = option(
        "ascending", "Inversion order", "Ascending is right; published repeats the released code.",
        choices=("ascending", "published"), infotext="NegTrans order",
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
        if self.order == "published" and (self.fixed_point or self.features == "captured"):
            raise ParamError("The published inversion order needs 0 fixed-point iterations and recomputed features.")
        return self

    @property
    def features_from(self) -> str:
        """Where features come from once "auto" is decided: captured from the first fixed-point iteration on."""
        if self.features != "auto":
            return self.features
        return "captured" if self.fixed_point >= 1 else "recomputed"

    @property
    def tac_steps(self) -> int:
        """How many of the first sampled steps are under attention control."""
        if self.order == "published":  # the released code multiplies in another order (METHOD: R4)
            return int(self.steps * self.strength * self.tac_ratio)
        return controlled_steps(strength_steps(self.steps, self.strength), self.tac_ratio)


# Each preset with a sentence for the user; None in `values` never occurs, fields left out keep the caller's value.
TRANSLATION_PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("The published method with its inversion corrected: one fixed-point iteration, features captured.", {}),
    "fashionr2r": (
        "The released FashionR2R code as it runs: descending inversion, features recomputed from its source latents.",
        {
            "strength": 0.3, "steps": 50, "cfg_scale": 7.5, "tac_layers": 256, "tac_ratio": 0.9,
            "fixed_point": 0, "features": "recomputed", "order": "published",
        },
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
        512, "Size", "Short side of the training pictures in pixels, a multiple of 8.", minimum=64, maximum=2048, step=8
    )
    template: str = option(
        "filewords", "Caption template",
        "Lines with [name] and [filewords]; a file, or one of the built-in: filewords, name, style.",
    )  # fmt: skip
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
        "reconstruct", "Objective", "What is learnt: to reconstruct the renders.", choices=("reconstruct",)
    )
    save_every: int = option(50, "Checkpoint every", "Steps between checkpoints.", minimum=1, maximum=1_000_000, step=1)
    keep: int = option(2, "Checkpoints kept", "Older ones are removed.", minimum=1, maximum=1000, step=1)
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
        return self
