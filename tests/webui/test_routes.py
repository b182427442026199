"""Beside the same webui without this extension: the same routes, which answer the same, and the same pictures."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import pytest

from tests.webui.client import Client, pixels
from tests.webui.server import WebuiServer, free_port

OURS = re.compile(r"\[NegTrans\]|^negtrans_|^realistic translation$|sd-webui-negtrans|^/negtrans/", re.IGNORECASE)
THEIRS = ("/sdapi/", "/controlnet/", "/internal/")  # the others are gradio's
# from the cache a checkpoint's hash is known at the start, and in its name
LEFT = ("sd-webui-negtrans", "outputs", "cache")
# of the process at this moment, or its command line
CHANGING = (
    "/sdapi/v1/memory", "/sdapi/v1/progress", "/sdapi/v1/cmd-flags", "/internal/pending-tasks", "/internal/sysinfo",
    "/internal/sysinfo-download", "/internal/profile-startup", "/internal/quicksettings-hint",
)  # fmt: skip


@pytest.fixture(scope="module")
def without(webui, tmp_path_factory):
    """A second webui with the same files but for this extension."""
    data = tmp_path_factory.mktemp("without") / "data"
    shutil.copytree(webui.data, data, symlinks=True, ignore=shutil.ignore_patterns(*LEFT))
    server = replace(webui, data=data, port=free_port(), process=None)
    server.start()
    Client(server).plain()  # Forge loads its checkpoint with the first picture
    yield server
    server.stop()


def is_ours(value: object) -> bool:
    return bool(OURS.search(str(value.get("name") if isinstance(value, dict) else value)))


def theirs(answer: object) -> object:
    """An answer without this extension's part in it."""
    if isinstance(answer, dict):
        return {key: theirs(value) for key, value in answer.items() if not OURS.search(key)}
    if isinstance(answer, list):
        return [theirs(value) for value in answer if not is_ours(value)]
    return answer


def answers(server: WebuiServer) -> dict[str, object]:
    """Of every route its methods, and of the webui's own that ask for nothing what they answer."""
    found: dict[str, object] = {}
    for path, ways in server.get("/openapi.json").json()["paths"].items():
        if OURS.search(path):
            continue
        found[path] = [sorted(ways)]
        needed = any(parameter.get("required") for parameter in ways.get("get", {}).get("parameters", []))
        if "get" not in ways or needed or not path.startswith(THEIRS) or path in CHANGING:
            continue
        answer = server.get(path)
        # a checkpoint's hash stands behind its name where it was known at the start: in a folder used before
        text = re.sub(r" \[[0-9a-f]{10}\]", "", answer.text.replace(str(server.data), "DATA"))
        json_given = answer.ok and "json" in answer.headers["content-type"]
        found[path] += [answer.status_code, theirs(json.loads(text)) if json_given else text]
    return found


def test_every_route_answers_as_without_the_extension(webui, without):
    ours, other = answers(webui), answers(without)
    print(f"\n{len(other)} routes, {sum(len(answer) > 1 for answer in other.values())} with their answers")
    assert ours.keys() == other.keys() and len(other) > 50
    assert {path: (ours[path], other[path]) for path in other if ours[path] != other[path]} == {}


def test_pictures_are_the_same_without_the_extension(webui, without):
    request = {"prompt": "a photo", "seed": 5, "denoising_strength": 0.5}
    for server in (webui, without):  # the host's VAE draws from torch's global generator: begin from a known state
        Client(server).plain(**request)
    with_us, other = (pixels(Client(server).plain(**request)["images"][0]) for server in (webui, without))
    assert (with_us == other).all()
