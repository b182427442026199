"""The parameters of the positive half: a LoRA or a full finetune on photographs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from lib_negtrans.options import ParamError, option

from .common_params import CommonParams
from .lr_schedule import LearningRate
from .params import TrainingParams

PRIORS = ("none", "base", "class")
SHALLOW = {"all": 4, "deep": 3, "middle": 2, "shallow": 1}  # how many of the UNet's levels are trained, from the top
_COMMON = TrainingParams.options()


def common(name: str, default: Any = dataclasses.MISSING, **changes: Any) -> Any:
    """The option of a negative embedding's training with this name, with another default."""
    default = getattr(TrainingParams, name) if default is dataclasses.MISSING else default
    return dataclasses.field(default=default, metadata={"option": dataclasses.replace(_COMMON[name], **changes)})


class Scheduled(CommonParams):
    """With a scheduler and a warm-up; which of these are options is each subclass's own."""

    scheduler: str
    warmup: int
    restarts: int
    power: float

    @property
    def rates(self) -> LearningRate:
        """With scheduler and warm-up. Raises ScheduleError."""
        plain = super().rates
        return dataclasses.replace(
            plain, scheduler=self.scheduler, warmup=self.warmup, total=plain.steps(self.steps),
            restarts=self.restarts, power=self.power,
        )  # fmt: skip

    def refuse_warmup(self) -> None:
        """Raises ParamError for one that is as long as the training."""
        if self.warmup >= self.steps:
            raise ParamError(f"Warm-up must be shorter than the training of {self.steps} steps, not {self.warmup}.")


@dataclass
class PositiveParams(Scheduled):
    """What a LoRA and a full finetune have in common, in the order of a form."""

    steps: int = common("steps")
    lr: str = common("lr", "1e-4")
    batch_size: int = common("batch_size")
    accumulation: int = common("accumulation", 1)
    size: int = common("size")
    aspect: str = common("aspect")

    instance_prompt: str = option(
        "a photo", "Instance prompt",
        "The caption of a picture that has no .txt file and lies in no sub-folder. If it holds [filewords], it is the "
        "caption of every picture, with the words of its .txt file or its file name in that place.",
    )  # fmt: skip
    folder_prompt: str = option(
        "a photo of a {folder}", "Sub-folder prompt",
        "The caption of a picture that has no .txt file but lies in a sub-folder, whose name stands for {folder}. "
        "Leave it empty to ignore sub-folders.",
    )  # fmt: skip
    caption_dropout: float = option(
        0.0, "Caption dropout",
        "The probability with which a picture is shown without its caption. About 0.1 keeps CFG working in long "
        "trainings.",
        minimum=0.0, maximum=1.0, step=0.05,
    )  # fmt: skip
    shuffle_tags: bool = common("shuffle_tags")
    tag_dropout: float = common("tag_dropout")
    keep_tags: int = common("keep_tags")
    latent_sampling: str = common("latent_sampling")
    latent_cache: str = common("latent_cache")
    flip: bool = common("flip")
    alpha_weight: bool = common("alpha_weight")
    outside_weight: float = option(
        1.0, "Weight outside the garment",
        "How much the loss counts outside the garment. 1 is everywhere alike. The garment is what the mask beside the "
        "picture (mask_NAME.png or NAME_mask.png) says, else its transparency, else what a border of one colour does "
        "not reach.",
        minimum=0.0, maximum=1.0, step=0.05,
    )  # fmt: skip
    pattern: str = common("pattern")
    background: str = common("background")

    text_encoder: bool = option(
        False, "Train the text encoder", "Also trains the network that reads the prompts. It needs more memory."
    )
    text_encoder_rate: float = option(
        0.5, "Text encoder rate", "The text encoder's learning rate, as a share of the UNet's.",
        minimum=0.0, maximum=10.0, step=0.05, applies=("text_encoder", (True,)),
    )  # fmt: skip

    strength: float = common(
        "strength", 1.0, help="Only the timesteps that a translation of this strength uses are trained. 1 trains all."
    )
    min_timestep: int = common("min_timestep")
    max_timestep: int = common("max_timestep")
    scheduler: str = option(
        "constant", "Scheduler",
        "How the learning rate goes on after the warm-up. constant: as the learning rate says. The others fall to 0 "
        "at the last step.",
        choices=("constant", "linear", "cosine", "cosine_with_restarts", "polynomial"),
    )  # fmt: skip
    warmup: int = option(
        0, "Warm-up", "During so many first steps the learning rate rises from 0.", minimum=0, maximum=1_000_000, step=1
    )
    restarts: int = option(
        1, "Restarts", "How often the cosine begins anew, counted with the first time.",
        minimum=1, maximum=1000, step=1, applies=("scheduler", ("cosine_with_restarts",)),
    )  # fmt: skip
    power: float = option(
        1.0, "Power", "Of the polynomial: above 1 it falls sooner.",
        minimum=0.1, maximum=10.0, step=0.1, applies=("scheduler", ("polynomial",)),
    )  # fmt: skip
    optimizer: str = common(
        "optimizer", choices=("adamw", "adamw8bit", "prodigy", "adafactor"),
        help="adamw8bit needs the package bitsandbytes. prodigy needs the package prodigyopt and a learning rate of 1. "
        "adafactor needs less memory.",
    )  # fmt: skip
    weight_decay: float = common("weight_decay", 0.01, help="The weight decay of AdamW. It pulls weights towards zero.")
    clip_grad_norm: float = common("clip_grad_norm")
    min_snr_gamma: float = common("min_snr_gamma")
    huber: float = common("huber")
    precision: str = common("precision")
    ema: float = common("ema")
    gradient_checkpointing: bool = common("gradient_checkpointing")

    prior: str = option(
        "none", "Prior preservation",
        "Keeps the model from forgetting. base: on rows of the class folder, else of the renders, else of the photos "
        "with the class prompt, the model should predict what it did before the training. class: it also learns from "
        "class pictures, which are made with the model where the folder has too few.",
        choices=PRIORS,
    )  # fmt: skip
    prior_weight: float = option(
        1.0, "Prior weight", "The loss is that of the photos plus this times that of the prior.",
        minimum=0.0, maximum=100.0, step=0.1, applies=("prior", PRIORS[1:]),
    )  # fmt: skip
    class_prompt: str = option(
        "a photo", "Class prompt", "The caption of class pictures, and what they are made with.",
        applies=("prior", PRIORS[1:]),
    )  # fmt: skip
    class_count: int = option(
        100, "Class pictures", "How many pictures the class folder should have; what is missing is made.",
        minimum=1, maximum=100_000, step=1, applies=("prior", ("class",)),
    )  # fmt: skip
    class_steps: int = option(
        30, "Steps of class pictures", "Sampling steps of each.", minimum=1, maximum=999, step=1,
        applies=("prior", ("class",)),
    )  # fmt: skip
    class_cfg_scale: float = option(
        7.5, "CFG scale of class pictures", "How closely they follow the class prompt.",
        minimum=1.0, maximum=30.0, step=0.5, applies=("prior", ("class",)),
    )  # fmt: skip
    class_negative_prompt: str = option(
        "", "Negative prompt of class pictures", "What they should not show.", applies=("prior", ("class",))
    )
    class_seed: int = option(
        0, "Seed of class pictures", "The first one's; each next one's is higher by 1.", minimum=0, maximum=2**62,
        applies=("prior", ("class",)),
    )  # fmt: skip

    validate_every: int = common("validate_every")
    holdout: float = common("holdout")
    patience: int = common("patience")
    result: str = common(
        "result", help="What is written into the file: the last weights, or those with the best validation."
    )
    preview_every: int = common("preview_every")
    sample_prompts: str = option(
        "", "Sample prompts",
        "Previews also show pictures that are made with these prompts. Put | between two prompts.",
    )  # fmt: skip
    save_every: int = common("save_every")
    keep: int = common("keep", 3, help="Older checkpoints are deleted. The best weights are always kept.")
    file_precision: str = option(
        "fp16", "Precision of the file", "fp16 is what other programs expect; fp32 is exact and twice as large.",
        choices=("fp16", "fp32"),
    )  # fmt: skip
    licence: str = common("licence", help="A note such as CC BY 4.0 that is written into the file and its card.")
    seed: int = common("seed")

    @property
    def preview_strength(self) -> float:
        """A translation's usual one, also where all timesteps are trained."""
        return min(self.strength, TrainingParams.strength)

    def validate(self) -> PositiveParams:
        super().validate()
        if self.folder_prompt and "{folder}" not in self.folder_prompt:
            raise ParamError(
                f"Sub-folder prompt {self.folder_prompt!r} lacks {{folder}}: put it in, or leave it empty."
            )
        self.refuse_warmup()
        if self.prior == "class" and not self.class_prompt.strip():
            raise ParamError("Class prompt is needed to make class pictures: write what they show, such as a photo.")
        return self


@dataclass
class LoraParams(PositiveParams):
    """One training of a LoRA."""

    ema: float = common(
        "ema", 0.99, label="Average of the weights", minimum=0.1,
        help="The file holds a moving average of the weights with this decay; the last weights are in the run folder.",
    )  # fmt: skip
    rank: int = option(16, "Rank", "How much the LoRA can hold. 4 to 32 are usual.", minimum=1, maximum=1024, step=1)
    alpha: float = option(
        16.0, "Alpha", "The LoRA acts with alpha divided by rank.", minimum=0.001, maximum=4096.0, step=1.0
    )
    conv_rank: int = option(
        0, "Convolution rank",
        "The rank in the 3x3 convolutions; their other layers then get a LoRA too (LoCon), all with the same alpha "
        "divided by rank. 0 trains the attention layers alone.",
        minimum=0, maximum=1024, step=1,
    )  # fmt: skip
    layers: str = option(
        "all", "Layers",
        "Which levels of the UNet are trained. shallow: the finest level, where texture is. middle: the two finest. "
        "deep: the three finest. all: every level.",
        choices=tuple(SHALLOW),
    )  # fmt: skip


@dataclass
class FullParams(PositiveParams):
    """One full finetune."""

    lr: str = common("lr", "1e-6")
    keep: int = common("keep", 1, help="Older checkpoints are deleted. Each is as large as four checkpoint files.")
    ema: float = common(
        "ema", label="Average of the weights",
        help="The file holds a moving average of the weights with this decay, such as 0.999. 0 is off.",
    )  # fmt: skip
    file_precision: str = option(
        "fp32", "Precision of the file",
        "fp32 keeps the small steps of a finetune, which fp16 may round away; fp16 is half as large.",
        choices=("fp16", "fp32"),
    )  # fmt: skip
    ema_on_cpu: bool = option(
        True, "Average in main memory", "Keeps the average away from the graphics card, which takes a little time."
    )
