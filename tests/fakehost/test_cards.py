"""The cards of our own negative embeddings: what a click on one puts where."""

from __future__ import annotations

import json


def test_own_cards_name_the_negative_prompt_and_others_stay(fake_host, tmp_path):
    class Page:
        def create_item(self, name, index=None):
            return {"filename": str(tmp_path / f"{name}.pt"), "prompt": f'"{name}"'} if name != "gone" else None

    fake_host.modules["modules.ui_extra_networks_textual_inversion"].ExtraNetworksPageTextualInversion = Page
    from lib_negtrans.apps.webui import cards

    (tmp_path / "own.json").write_text(json.dumps({"negtrans": {"kind": "negative embedding"}}))
    (tmp_path / "lora.json").write_text(json.dumps({"negtrans": {"kind": "lora"}}))
    (tmp_path / "broken.json").write_text("[")
    (tmp_path / "list.json").write_text("[]")
    original = Page.create_item
    undo = cards.register()
    assert Page().create_item("own")["prompt"] == '(window.negtransNegative || String)("own")'
    for other in ("lora", "broken", "list", "without"):
        assert Page().create_item(other)["prompt"] == f'"{other}"'
    assert Page().create_item("gone") is None
    undo()
    assert Page.create_item is original
