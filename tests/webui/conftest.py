"""A real webui, when NEGTRANS_WEBUI_DIR names one."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from lib_negtrans.models.protocol import HostError
from lib_negtrans.models.standalone import default_model_path, load_model
from tests.webui.client import Client, render
from tests.webui.files import make_controlnet, make_embedding, make_lora
from tests.webui.server import WebuiServer, make_data_folder, running


@pytest.fixture(scope="session")
def webui_installation() -> tuple[Path, Path]:
    """Folder and Python of the host, or a skip that says what is missing."""
    folder = os.environ.get("NEGTRANS_WEBUI_DIR")
    if not folder:
        pytest.skip("NEGTRANS_WEBUI_DIR names no AUTOMATIC1111 webui")
    python = Path(os.environ.get("NEGTRANS_WEBUI_PYTHON", sys.executable))
    return Path(folder).resolve(), python


@pytest.fixture(scope="session")
def demo_model() -> Path:
    try:
        model = default_model_path()
    except HostError as error:
        pytest.skip(str(error))
    if not (model.parent / "clip" / "config.json").exists() or not model.with_suffix(".yaml").exists():
        pytest.skip(f"{model} has no .yaml and clip/config.json beside it")
    return model


def add_neighbours(data: Path, model: Path) -> None:
    """The checkouts of other extensions that NEGTRANS_WEBUI_EXTENSIONS names; to ControlNet one for this model."""
    for folder in filter(None, os.environ.get("NEGTRANS_WEBUI_EXTENSIONS", "").split(os.pathsep)):
        (data / "extensions" / Path(folder).name).symlink_to(Path(folder).resolve())
        if "controlnet" in folder.lower():
            make_controlnet(data / "models" / "ControlNet", model)
            add_script(data, "small_controlnet")


def add_script(data: Path, name: str) -> None:
    """One of this folder's scripts as an extension."""
    folder = data / "extensions" / f"test-{name}" / "scripts"
    folder.mkdir(parents=True)
    shutil.copy(Path(__file__).parent / f"{name}.py", folder)


@pytest.fixture(scope="module")
def start_webui(webui_installation, demo_model, tmp_path_factory):
    """with start_webui(**settings) as server: a webui with this extension, the demonstration model and settings."""

    @contextlib.contextmanager
    def started(**settings):
        data = tmp_path_factory.mktemp("webui")
        make_data_folder(data, demo_model)
        make_embedding(data / "embeddings", demo_model)
        make_lora(data / "models" / "Lora", demo_model)
        for name in ("saboteur", "counter"):
            add_script(data, name)
        add_neighbours(data, demo_model)
        with running(WebuiServer(data, *webui_installation), settings) as server:
            yield server

    return started


@pytest.fixture(scope="module")
def webui(start_webui):
    """A running webui for the tests of one file."""
    with start_webui() as server:
        yield server


@pytest.fixture(scope="module")
def client(webui):
    return Client(webui)


@pytest.fixture(scope="module")
def standalone(demo_model):
    return load_model(demo_model, device="cpu", dtype=torch.float32)


@pytest.fixture
def source(tmp_path):
    """The file of a small render."""
    file = tmp_path / "render.png"
    render().save(file)
    return file
