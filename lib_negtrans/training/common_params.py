"""What the parameters of every kind of training have in common."""

from __future__ import annotations

from lib_negtrans.core.schedule import TRAIN_STEPS
from lib_negtrans.options import ParamError, Params

from .lr_schedule import LearningRate, parse_learning_rate


class CommonParams(Params):
    """Not options themselves: the names that the loop reads. A kind's own class gives each of them its default."""

    steps: int
    lr: str
    strength: float
    batch_size: int
    accumulation: int
    size: int
    aspect: str
    shuffle_tags: bool
    tag_dropout: float
    keep_tags: int
    latent_sampling: str
    latent_cache: str
    flip: bool
    alpha_weight: bool
    pattern: str
    background: str
    min_timestep: int
    max_timestep: int
    min_snr_gamma: float
    huber: float
    optimizer: str
    precision: str
    ema: float
    validate_every: int
    holdout: float
    patience: int
    result: str
    licence: str
    save_every: int
    keep: int
    preview_every: int
    clip_grad_norm: float
    weight_decay: float
    gradient_checkpointing: bool
    seed: int
    outside_weight: float = 1.0  # what kinds without these options do
    caption_dropout: float = 0.0
    sample_prompts: str = ""

    def validate(self) -> CommonParams:
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
    def rates(self) -> LearningRate:
        """The learning rate of every step. Raises ScheduleError."""
        return parse_learning_rate(self.lr)

    @property
    def preview_strength(self) -> float:
        """The strength of the translations that previews show."""
        return self.strength

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
