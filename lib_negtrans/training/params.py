"""The parameters of a negative embedding's training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lib_negtrans.options import option

from .common_params import CommonParams


@dataclass
class TrainingParams(CommonParams):
    """One training of a negative embedding."""

    steps: int = option(
        1000, "Steps", "How many optimizer steps the whole training has.", minimum=1, maximum=1_000_000, step=1
    )
    lr: str = option(
        "5e-3", "Learning rate",
        'A number, or a schedule as in the webui: "5e-3:100, 1e-3:1000, 1e-5" is 5e-3 until step 100, 1e-3 until step '
        "1000, then 1e-5.",
    )  # fmt: skip
    vectors: int = option(
        4, "Vectors", "How many tokens the embedding takes in a prompt. 1 to 8 are enough.",
        minimum=1, maximum=75, step=1,
    )  # fmt: skip
    init_text: str = option(
        "style",
        "Initialisation text",
        "The training starts from the vectors of this text. Leave it empty to start from zeros.",
    )
    strength: float = option(
        0.3, "Strength",
        "The strength you will translate with. Only the timesteps that such a translation uses are trained.",
        minimum=0.01, maximum=1.0, step=0.01,
    )  # fmt: skip
    batch_size: int = option(
        1, "Batch size", "How many pictures the model works on at once. More pictures need more memory.",
        minimum=1, maximum=256, step=1,
    )  # fmt: skip
    accumulation: int = option(
        4, "Gradient accumulation", "How many batches are added up for one optimizer step.",
        minimum=1, maximum=1024, step=1,
    )  # fmt: skip
    size: int = option(
        512, "Size",
        "Side of the training pictures in pixels, a multiple of 8. Pictures that are not square get the same area.",
        minimum=64, maximum=2048, step=8,
    )  # fmt: skip
    aspect: str = option(
        "buckets", "Other aspects",
        "What happens to pictures that are not square. buckets: they keep their shape. square: they are cropped to a "
        "square.",
        choices=("buckets", "square"),
    )  # fmt: skip
    template: str = option(
        "auto", "Caption template",
        "How captions are made: filewords, name, style, or a text file of your own, whose lines hold [name] and may "
        "hold [filewords]. auto is filewords if there are .txt files.",
    )  # fmt: skip
    shuffle_tags: bool = option(
        False, "Shuffle tags", "Puts the parts of a caption between commas in a new random order each time."
    )
    tag_dropout: float = option(
        0.0, "Tag dropout", "The probability with which each part of a caption between commas is left out.",
        minimum=0.0, maximum=1.0, step=0.05,
    )  # fmt: skip
    keep_tags: int = option(
        0, "Tags kept", "How many parts at the start of a caption are never shuffled and never left out.",
        minimum=0, maximum=100, step=1,
    )  # fmt: skip
    latent_sampling: str = option(
        "mean", "Latent sampling",
        "What the VAE gives for a picture. mean: the mean of its distribution. once: one random sample. step: a new "
        "random sample at each step.",
        choices=("mean", "once", "step"),
    )  # fmt: skip
    latent_cache: str = option(
        "memory", "Latent cache", "Where the encoded pictures are kept. On disk, the next training can use them too.",
        choices=("memory", "disk"),
    )  # fmt: skip
    flip: bool = option(
        False,
        "Horizontal flip",
        "Mirrors each picture half of the time. Garments are not symmetric, so it is better to leave this off.",
    )
    alpha_weight: bool = option(
        False,
        "Loss weight from transparency",
        "Transparent parts of a picture count less. Pictures without transparency are treated as usual.",
    )
    pattern: str = option(
        "",
        "File name pattern",
        'Trains only on the files whose names match, such as "mh_*". Leave it empty to take all.',
    )
    background: str = option(
        "grey", "Background", "The colour that is put behind transparent pictures. A translation uses grey.",
        choices=("grey", "white"),
    )  # fmt: skip
    objective: str = option(
        "reconstruct", "Objective",
        "reconstruct: learns to predict the renders. contrastive: also learns from real photos, which should be "
        "predicted better when the vectors are subtracted.",
        choices=("reconstruct", "contrastive"),
    )  # fmt: skip
    photo_weight: float = option(
        1.0, "Photo weight", "For contrastive: how much the photos count. At 1 they count as much as the renders.",
        minimum=0.0, maximum=100.0, step=0.1,
    )  # fmt: skip
    photo_guidance: float = option(
        7.5, "Guidance in the loss", "For contrastive: the CFG scale with which the vectors are subtracted on photos.",
        minimum=1.5, maximum=30.0, step=0.5,
    )  # fmt: skip
    min_timestep: int = option(
        -1, "Lowest timestep",
        "The training uses timesteps from this one on. -1 means the lowest that a translation uses.",
        minimum=-1, maximum=999, step=1,
    )  # fmt: skip
    max_timestep: int = option(
        -1, "Highest timestep",
        "The training uses timesteps up to this one. -1 means the highest that a translation of this strength uses.",
        minimum=-1, maximum=999, step=1,
    )  # fmt: skip
    min_snr_gamma: float = option(
        0.0, "Min-SNR gamma",
        "Gives low timesteps less weight; 5 is usual. 0 is off, as texture is learnt at low timesteps.",
        minimum=0.0, maximum=100.0, step=0.5,
    )  # fmt: skip
    huber: float = option(
        0.0, "Huber loss",
        "Errors above this size count linearly instead of squared, so that outliers matter less. 0 squares all errors.",
        minimum=0.0, maximum=10.0, step=0.05,
    )  # fmt: skip
    optimizer: str = option(
        "adamw", "Optimizer",
        "adamw8bit needs the package bitsandbytes. prodigy needs the package prodigyopt and a learning rate of 1.",
        choices=("adamw", "adamw8bit", "prodigy"),
    )  # fmt: skip
    precision: str = option(
        "model", "Precision",
        "The precision in which the UNet computes. model: as it was loaded. fp16 (with a loss scale) and bf16: "
        "autocast to half precision. fp32: full precision.",
        choices=("model", "fp32", "fp16", "bf16"),
    )  # fmt: skip
    norm_decay: float = option(
        0.0, "Norm decay",
        "At every step, vectors that are longer than real tokens are shortened towards that length by this share. 0 "
        "is off.",
        minimum=0.0, maximum=1.0, step=0.01,
    )  # fmt: skip
    ema: float = option(
        0.0, "Average of the vectors",
        "The embedding becomes a moving average of the vectors with this decay, such as 0.99. 0 is off.",
        minimum=0.0, maximum=0.9999, step=0.01,
    )  # fmt: skip
    validate_every: int = option(
        0, "Validate every",
        "How often, in steps, and at the end too, the vectors are measured on pictures that are not trained on. 0 "
        "never measures.",
        minimum=0, maximum=1_000_000,
    )  # fmt: skip
    holdout: float = option(
        0.1, "Held out",
        "How many pictures are kept for validation: a share if it is below 1, otherwise a number of pictures.",
        minimum=0.0, maximum=1000.0, step=0.01,
    )  # fmt: skip
    patience: int = option(
        0, "Patience", "Stops after this many validations without an improvement. 0 never stops early.",
        minimum=0, maximum=1000, step=1,
    )  # fmt: skip
    result: str = option(
        "last", "Result", "What is written into the embedding: the last vectors, or those with the best validation.",
        choices=("last", "best"),
    )  # fmt: skip
    licence: str = option(
        "",
        "Licence note",
        "A note such as CC BY 4.0 that is written into the embedding and its card. Leave it empty to write none.",
    )
    save_every: int = option(
        50, "Checkpoint every", "How many steps there are between two checkpoints.",
        minimum=1, maximum=1_000_000, step=1,
    )  # fmt: skip
    keep: int = option(
        10, "Checkpoints kept", "Older checkpoints are deleted. The best vectors are always kept.",
        minimum=1, maximum=1000, step=1,
    )  # fmt: skip
    preview_every: int = option(
        0, "Preview every", "How many steps there are between two previews. 0 makes only the final one.",
        minimum=0, maximum=1_000_000,
    )  # fmt: skip
    clip_grad_norm: float = option(
        1.0, "Gradient norm limit", "Gradients longer than this are shortened to it. 0 means no limit.",
        minimum=0.0, maximum=1e6,
    )  # fmt: skip
    weight_decay: float = option(
        0.0, "Weight decay", "The weight decay of AdamW. It pulls the vectors towards zero.", minimum=0.0, maximum=1.0
    )
    gradient_checkpointing: bool = option(
        False, "Gradient checkpointing", "Needs less memory, but about a third more time."
    )
    seed: int = option(
        0, "Seed", "Decides the order of the pictures, the noise and the timesteps.", minimum=0, maximum=2**63 - 1
    )


# For who does not want to choose twenty numbers: name -> (a sentence for the user, parameters). What is left out keeps
# its default.
TRAINING_PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "quick": (
        "A short training that shows whether anything can be learnt from the pictures.",
        {"steps": 200, "lr": "5e-3", "vectors": 2, "accumulation": 1, "save_every": 50, "preview_every": 50,
         "validate_every": 50},
    ),
    "standard": (
        "Right for most folders of 50 to 500 renders.",
        {"steps": 1000, "lr": "5e-3", "vectors": 4, "accumulation": 4, "save_every": 50, "preview_every": 200,
         "validate_every": 100},
    ),
    "thorough": (
        "A longer training with a falling learning rate, for the embedding you will keep.",
        {
            "steps": 3000, "lr": "5e-3:1000, 1e-3:2000, 5e-4", "vectors": 4, "accumulation": 8, "save_every": 100,
            "preview_every": 500, "validate_every": 200,
        },
    ),
}  # fmt: skip
