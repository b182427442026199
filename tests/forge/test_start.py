"""Forge with the extension: it starts without a word of ours, and its API answers."""

from __future__ import annotations

from tests.webui.test_script_start import (  # noqa: F401
    test_script_is_listed_for_img2img_only,
    test_starts_without_a_warning_of_ours,
)

ROUTES = (
    "options", "samplers", "schedulers", "upscalers", "sd-models", "sd-modules", "embeddings", "scripts",
    "script-info", "extensions", "memory", "progress", "prompt-styles", "face-restorers", "realesrgan-models",
)  # fmt: skip


def test_its_routes_answer_and_ours_do(webui):
    assert {route: webui.get(f"/sdapi/v1/{route}").status_code for route in ROUTES} == dict.fromkeys(ROUTES, 200)
    assert webui.get("/negtrans/v1/version").json()["api"] == 1


def test_pictures_without_our_script_are_made(client):
    answer = client.server.post("/sdapi/v1/txt2img", {"width": 128, "height": 128, "steps": 2})
    assert answer.status_code == 200 and len(answer.json()["images"]) == 1
