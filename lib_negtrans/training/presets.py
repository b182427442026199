"""Three ways to train, for who does not want to choose twenty numbers."""

from __future__ import annotations

from typing import Any

# name -> (a sentence for the user, parameters); what is left out keeps its default
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
