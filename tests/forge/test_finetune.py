"""LoRAs and checkpoints trained inside a real Forge: what A1111's tests ask of them."""

from __future__ import annotations

from tests.webui.test_finetune_api import (  # noqa: F401
    photos,
    test_a_checkpoint_is_listed_and_can_be_chosen_at_once,
    test_a_lora_is_listed_and_changes_pictures_at_once,
    test_a_negative_is_trained_on_a_lora,
    test_gradient_checkpointing_gives_the_same_lora,
)
