"""The same picture again is not inverted again on a real webui, and comes out the same to the byte."""

from __future__ import annotations

import pytest

from tests.webui.client import Client, arguments, infotext

SECOND = {"embedding": "neg-test", "embedding_weight": 0.7}
STEPS = 4  # 20 at strength .3, three fifths of them


@pytest.fixture
def client(webui):
    client = Client(webui)
    without_cache(client, client.translate)  # which forgets what other tests left
    yield client
    client.options(negtrans_cache_mb=2048)


@pytest.fixture
def rows(webui):
    """rows(call) -> the call's result and how many rows the UNet computed in it."""

    def measured(call):
        before = webui.get("/negtrans-test/rows").json()
        result = call()
        return result, webui.get("/negtrans-test/rows").json() - before

    return measured


def without_cache(client, call):
    client.options(negtrans_cache_mb=0)
    try:
        return call()
    finally:
        client.options(negtrans_cache_mb=1024)


@pytest.mark.parametrize(("preset", "inversion", "guided"), [("default", 5, 8), ("fast", 3, 4), ("single", 2, 2)])
def test_another_embedding_weight_costs_no_inversion(client, rows, preset, inversion, guided):
    def second():
        return client.translate(arguments(preset=preset, **SECOND), cfg_scale=5.0, seed=4)

    first, cost = rows(lambda: client.translate(arguments(preset=preset, embedding="neg-test")))
    assert cost == inversion + guided
    again, cost = rows(second)
    assert cost == guided
    alone, cost = rows(lambda: without_cache(client, second))
    assert cost == inversion + guided
    assert again["images"] == alone["images"] != first["images"]
    assert infotext(again) == infotext(alone)


def test_a_lora_has_an_inversion_of_its_own(client, rows):
    def translated(prompt, **values):
        return client.translate(arguments(**SECOND, **values), prompt=prompt)

    lora = "<lora:test-lora:1>"
    expected = {prompt: without_cache(client, lambda p=prompt: translated(p))["images"] for prompt in ("", lora)}
    assert expected[""] != expected[lora]
    for prompt in ("", lora, lora, "", lora, ""):
        assert translated(prompt)["images"] == expected[prompt], prompt
    # twice the same in a row: the LoRA is in the weights by then
    _, first = rows(lambda: translated(lora))
    _, again = rows(lambda: translated(lora))
    assert again == 2 * STEPS <= first


def test_a_limit_of_nothing_forgets(client, rows):
    client.translate(arguments(**SECOND))
    without_cache(client, lambda: client.translate(arguments(**SECOND)))
    _, cost = rows(lambda: client.translate(arguments(**SECOND)))
    assert cost == STEPS + 1 + 2 * STEPS
