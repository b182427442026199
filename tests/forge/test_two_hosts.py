"""Forge beside AUTOMATIC1111's webui: one request, one seed, and pictures that agree."""

from __future__ import annotations

import pytest

from tests.webui.client import Client, arguments, difference
from tests.webui.conftest import start_webui as start_a1111  # noqa: F401
from tests.webui.conftest import webui_installation  # noqa: F401

LORA, AND = "<lora:test-lora:0.8>", "a photo AND a shirt :0.5"
PROMPTS = {
    "plain": {},
    "LoRA": {"prompt": f"a photo {LORA}"},
    "AND": {"prompt": AND},
    "AND with a LoRA": {"prompt": f"{AND} {LORA}"},
    "weights and editing": {"prompt": "a (photo:1.2) of a [shirt:coat:3]", "negative_prompt": "(ugly:1.3)"},
    "long negative": {"negative_prompt": "ugly, " * 90},
}


@pytest.fixture(scope="module")
def a1111(start_a1111):  # noqa: F811
    with start_a1111() as server:
        yield server


@pytest.mark.parametrize("name", PROMPTS)
def test_one_request_gives_one_picture(client, a1111, name):
    """To two grey levels: each agrees with the command line to one."""
    request = {"negative_prompt": "cg", **PROMPTS[name]}
    clients = client, Client(a1111)
    pictures = [each.translate(arguments(embedding="neg-test"), **request)["images"][0] for each in clients]
    levels = difference(*pictures)
    print(f"\n{name}: {levels} grey levels at most")
    plain = client.translate(arguments(embedding="neg-test"), negative_prompt="cg")["images"][0]
    assert levels <= 2 and (name == "plain" or difference(pictures[0], plain) > 2)
