"""Training inside a real Forge, over its API: on a copy of the checkpoint, and Forge is as it was afterwards."""

from __future__ import annotations

from tests.webui.test_train_api import (  # noqa: F401
    finished,
    plain_img2img,
    renders,
    test_a_training_ends_in_the_embedding_list,
    test_plain_generation_is_the_same_after_an_interrupted_training,
    test_refusals,
    test_the_hosts_own_interrupt_stops_a_training,
    test_the_new_vectors_are_used_by_the_next_picture,
    train,
)
