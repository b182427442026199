"""The same picture again is not inverted again on Forge: what A1111's tests ask of it."""

from __future__ import annotations

from tests.webui.test_script_cache import (  # noqa: F401
    client,
    rows,
    test_a_limit_of_nothing_forgets,
    test_a_lora_has_an_inversion_of_its_own,
    test_another_embedding_weight_costs_no_inversion,
)
