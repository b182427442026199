"""The webui's API as the tests call it."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lib_negtrans.apps.webui.infotext_fields import reader
from lib_negtrans.translation.arguments import LIST_NAMES, LIST_VERSION, NAMES, VERSION
from tests.webui.server import REPOSITORY, WebuiServer

SIZE = 128


def render() -> Image.Image:
    """A CC0 render of this repository, small."""
    file = min((REPOSITORY / "assets" / "renders").rglob("fl_*.jpg"))
    return Image.open(file).convert("RGB").resize((SIZE, SIZE), Image.LANCZOS)


def encode(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def pixels(image: str | Image.Image) -> np.ndarray:
    if isinstance(image, str):
        image = Image.open(io.BytesIO(base64.b64decode(image)))
    return np.asarray(image.convert("RGB")).astype(int)


def difference(a, b) -> int:
    """The largest difference in grey levels."""
    return int(abs(pixels(a) - pixels(b)).max())


def arguments(**values: Any) -> list[Any]:
    return [{"version": VERSION, **values}]


def version_1(**values: Any) -> list[Any]:
    """The same as the list of version 1."""
    return [LIST_VERSION, *(values.get(name) for name in LIST_NAMES[1:])]


def need_neighbour(server: WebuiServer, name: str) -> None:
    """Skip the test where the script of another extension is not there; name: in small letters."""
    if name not in {script["name"] for script in server.get("/sdapi/v1/script-info").json()}:
        pytest.skip(f"NEGTRANS_WEBUI_EXTENSIONS names no checkout with the script {name!r}, or it cannot be loaded")


class Client:
    """img2img, plain and with our script."""

    def __init__(self, server: WebuiServer):
        self.server = server
        self.base = {
            "init_images": [encode(render())], "width": SIZE, "height": SIZE, "steps": 20, "denoising_strength": 0.3,
            "cfg_scale": 7.5, "seed": 1, "prompt": "", "negative_prompt": "", "sampler_name": "DDIM",
        }  # fmt: skip

    def plain(self, **changes: Any) -> dict:
        answer = self.server.post("/sdapi/v1/img2img", {**self.base, **changes})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def translate(self, script_args: list[Any] | None = None, **changes: Any) -> dict:
        answer = self.ask(script_args, **changes)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ask(self, script_args: list[Any] | None = None, **changes: Any):
        own = {
            "script_name": "Realistic Translation",
            "script_args": arguments() if script_args is None else script_args,
        }
        return self.server.post("/sdapi/v1/img2img", {**self.base, **own, **changes})

    def plot(self, axes: dict[str, tuple[str, str]], **changes: Any) -> dict:
        """A grid by the host's X/Y/Z plot, which is the first image; axes: letter -> (the axis's label, its values)."""
        listed = self.server.get("/sdapi/v1/script-info").json()
        plot = next(script for script in listed if script["name"] == "x/y/z plot" and script["is_img2img"])
        values = {argument["label"]: argument["value"] for argument in plot["args"]}
        for letter in "XYZ":
            label, given = axes.get(letter, ("Nothing", ""))
            values[f"{letter} type"] = plot["args"][0]["choices"].index(label)
            values[f"{letter} values"] = given
        values |= {"Use text inputs instead of dropdowns": True, "Include Sub Images": True}
        return self.plain(script_name="x/y/z plot", script_args=[values[a["label"]] for a in plot["args"]], **changes)

    def options(self, **values: Any) -> None:
        assert self.server.post("/sdapi/v1/options", values).status_code == 200


def restored(server: WebuiServer, image: str) -> list[Any]:
    """The script's arguments as PNG Info reads them from a picture."""
    answer = server.post("/sdapi/v1/png-info", {"image": image})
    assert answer.status_code == 200, answer.text
    fields = answer.json()["parameters"]
    return arguments(**{name: reader(name)(fields) for name in NAMES[1:]})


def infotext(answer: dict, index: int = 0) -> str:
    return json.loads(answer["info"])["infotexts"][index]
