"""The webui's cards of our own negative embeddings: a click puts the name into the negative prompt.

The host adds it to the prompt that was typed in last, which on a fresh page is the positive one.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modules.ui_extra_networks_textual_inversion import ExtraNetworksPageTextualInversion as Page

from lib_negtrans.embeddings.card import KIND


def register() -> Callable[[], None]:
    """Change what the cards' list is made of; gives what undoes it."""
    original = Page.create_item

    @functools.wraps(original)
    def create_item(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        item = original(self, *args, **kwargs)
        if item and is_own(Path(item["filename"])):
            # the host puts this into the card's onclick as an expression, as it stands
            item["prompt"] = f"(window.negtransNegative || String)({item['prompt']})"
        return item

    def undo() -> None:
        Page.create_item = original

    Page.create_item = create_item
    return undo


def is_own(file: Path) -> bool:
    """Whether the JSON beside an embedding says that it is a negative embedding made here."""
    try:
        known = json.loads(file.with_suffix(".json").read_text(encoding="utf-8")).get("negtrans")
    except (OSError, ValueError, AttributeError):
        return False
    return isinstance(known, dict) and known.get("kind") == KIND
