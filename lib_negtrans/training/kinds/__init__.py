"""What can be trained: each a `Trainable`, by the name that a request gives it."""

from __future__ import annotations

from lib_negtrans.training.trainable import Trainable

from .full import FullModel
from .lora import Lora
from .negative import NegativeEmbedding
from .student import StudentTraining

KINDS: dict[str, type[Trainable]] = {
    "negative": NegativeEmbedding, "lora": Lora, "full": FullModel, "student": StudentTraining,
}  # fmt: skip
