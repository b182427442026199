"""The parameters of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lib_negtrans.core.schedule import TRAIN_STEPS
from lib_negtrans.options import ParamError, Params, option


@dataclass
class TrainingParams(Params):
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


# For who does not want to choose twenty numbers: name -> (a sentence for the user, parameters). What is left out keeps
# its default.
TRAINING_PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "quick": (
        "A few minutes on a graphics card, to see whether the pictures teach anything.",
        {"steps": 200, "lr": "5e-3", "vectors": 2, "accumulation": 1, "save_every": 50, "preview_every": 50,
         "validate_every": 50},
    ),
    "standard": (
        "What most folders of 50 to 500 renders need.",
        {"steps": 1000, "lr": "5e-3", "vectors": 4, "accumulation": 4, "save_every": 50, "preview_every": 200,
         "validate_every": 100},
    ),
    "thorough": (
        "Longer, with a falling learning rate: the last bit, for a final embedding.",
        {
            "steps": 3000, "lr": "5e-3:1000, 1e-3:2000, 5e-4", "vectors": 4, "accumulation": 8, "save_every": 100,
            "preview_every": 500, "validate_every": 200,
        },
    ),
}  # fmt: skip
