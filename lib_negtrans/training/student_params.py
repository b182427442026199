"""The parameters of a student's training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from lib_negtrans.core.schedule import TRAIN_STEPS
from lib_negtrans.options import ParamError, option
from lib_negtrans.student.network import StudentDesign

from .positive_params import LoraParams, Scheduled, common


@dataclass
class StudentParams(Scheduled):
    """One training of a student. What a training of captions and noise has beside these does nothing here."""

    steps: int = common("steps", 2000)
    lr: str = common("lr", "1e-4")
    batch_size: int = common("batch_size")
    accumulation: int = common("accumulation", 1)
    size: int = common(
        "size", help="Of pictures larger than this, random parts of this many pixels a side are trained; a multiple "
        "of 8."
    )  # fmt: skip
    flip: bool = common("flip", help="Mirrors each pair half of the time. It helps where there are few pairs.")
    timestep: int = option(
        StudentDesign.timestep, "Timestep", "The timestep of the student's only UNet call.",
        minimum=0, maximum=TRAIN_STEPS - 1, step=1,
    )  # fmt: skip
    prompt: str = option(
        StudentDesign.prompt, "Prompt", "What the UNet reads in that call. Leave it empty as for translations."
    )
    rank: int = option(
        StudentDesign.rank, "Rank", "How much the LoRA on the UNet can hold.", minimum=1, maximum=1024, step=1
    )
    decoder_rank: int = option(
        StudentDesign.decoder_rank, "Decoder rank", "How much the LoRA on the VAE's decoder can hold.",
        minimum=1, maximum=1024, step=1,
    )  # fmt: skip
    init: str = option(
        "", "Start from", "A student's file of the same design whose weights the training begins with. Empty: none."
    )
    latent_weight: float = option(
        1.0, "Latent weight",
        "How much the squared difference of latents counts. Alone, with the three other weights at 0, it trains the "
        "UNet without decoding anything, which is several times as fast.",
        minimum=0.0, maximum=1000.0, step=0.1,
    )  # fmt: skip
    l2_weight: float = option(
        10.0, "L2 weight", "How much the squared difference of pixels counts.", minimum=0.0, maximum=1000.0, step=0.1
    )
    perceptual_weight: float = option(
        1.0, "Perceptual weight",
        "How much the difference of features counts: without it details are blurred. 0 needs no feature network.",
        minimum=0.0, maximum=1000.0, step=0.1,
    )  # fmt: skip
    adversarial_weight: float = option(
        0.1, "Discriminator weight",
        "How much a small network counts that learns to tell the student's pictures from the teacher's. 0 trains none.",
        minimum=0.0, maximum=1000.0, step=0.01,
    )  # fmt: skip
    discriminator_rate: float = option(
        1.0, "Discriminator rate", "The discriminator's learning rate, as a share of the student's.",
        minimum=0.0, maximum=100.0, step=0.1,
    )  # fmt: skip
    scheduler: str = dataclasses.field(default="cosine", metadata={"option": LoraParams.options()["scheduler"]})
    warmup: int = dataclasses.field(default=20, metadata={"option": LoraParams.options()["warmup"]})
    optimizer: str = common(
        "optimizer", choices=("adamw", "adamw8bit"), help="adamw8bit needs the package bitsandbytes."
    )
    weight_decay: float = common("weight_decay", 0.0, help="The weight decay of AdamW. It pulls weights towards zero.")
    clip_grad_norm: float = common("clip_grad_norm")
    precision: str = common("precision")
    ema: float = common(
        "ema", 0.98, label="Average of the weights", minimum=0.1,
        help="The file holds a moving average of the weights with this decay; the last weights are in the run folder.",
    )  # fmt: skip
    gradient_checkpointing: bool = common("gradient_checkpointing")
    save_every: int = common("save_every")
    keep: int = common("keep", 3, help="Older checkpoints are deleted.")
    file_precision: str = dataclasses.field(default="fp16", metadata={"option": LoraParams.options()["file_precision"]})
    licence: str = common("licence", help="A note such as CC BY 4.0 that is written into the file and its card.")
    seed: int = common("seed", help="Decides the order of the pairs, their parts and the first weights.")

    # what the loop reads of every kind
    aspect, background, pattern, latent_sampling, latent_cache = "buckets", "grey", "", "mean", "memory"
    shuffle_tags, tag_dropout, keep_tags, alpha_weight = False, 0.0, 0, False
    strength, min_snr_gamma, huber, restarts, power = 1.0, 0.0, 0.0, 1, 1.0
    validate_every, holdout, patience, result, preview_every = 0, 0.0, 0, "last", 0

    @property
    def min_timestep(self) -> int:  # type: ignore[override]
        return self.timestep

    @property
    def max_timestep(self) -> int:  # type: ignore[override]
        return self.timestep

    @property
    def design(self) -> StudentDesign:
        return StudentDesign(self.timestep, self.prompt, self.rank, self.decoder_rank)

    @property
    def decodes(self) -> bool:
        """Whether any part of the loss looks at pictures."""
        return any((self.l2_weight, self.perceptual_weight, self.adversarial_weight))

    def validate(self) -> StudentParams:
        super().validate()
        if not self.latent_weight and not self.decodes:
            raise ParamError("All weights of the loss are 0, so nothing would be learnt: set one of them.")
        self.refuse_warmup()
        return self
