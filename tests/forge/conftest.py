"""A real Forge, when NEGTRANS_FORGE_DIR and NEGTRANS_FORGE_PYTHON name one."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

from tests.webui.conftest import client, demo_model, source, standalone, webui  # noqa: F401
from tests.webui.files import make_embedding, make_lora
from tests.webui.server import WebuiServer, make_data_folder, running

FLAGS = (
    "--skip-prepare-environment", "--skip-torch-cuda-test", "--skip-python-version-check", "--skip-install",
    "--always-cpu", "--api", "--server-name", "127.0.0.1", "--disable-xformers", "--all-in-fp32",
)  # fmt: skip
CONFIG = "backend/huggingface/runwayml/stable-diffusion-v1-5"


def make_forge_folder(data: Path, forge: Path, model: Path) -> None:
    """`make_data_folder`, and the extension with which Forge's loader knows the demonstration model."""
    make_data_folder(data, model)
    make_embedding(data / "embeddings", model)
    make_lora(data / "models" / "Lora", model)
    extension = data / "extensions" / "test-demo-model"
    config = extension / "config"
    shutil.copytree(forge / CONFIG, config)
    shutil.copy(model.parent / "clip" / "config.json", config / "text_encoder")
    for file in model.parent.joinpath("clip").glob("*.*"):
        if file.name != "config.json":
            shutil.copy(file, config / "tokenizer")
    unet = yaml.safe_load(model.with_suffix(".yaml").read_text())["model"]["params"]["unet_config"]["params"]
    sizes = {"width": unet["context_dim"], "channels": unet["model_channels"], "heads": unet["num_heads"]}
    (config / "negtrans.json").write_text(json.dumps(sizes))
    vae = json.loads((config / "vae" / "config.json").read_text())
    (config / "vae" / "config.json").write_text(json.dumps({**vae, **_vae_sizes(model)}))
    (extension / "scripts").mkdir()
    here = Path(__file__).parent
    for script in (here / "demo_model.py", here.parent / "webui/saboteur.py", here.parent / "webui/counter.py"):
        shutil.copy(script, extension / "scripts")


def _vae_sizes(model: Path) -> dict:
    with safe_open(model, "pt") as file:
        pattern = re.compile(r"first_stage_model\.encoder\.down\.(\d)\.block\.(\d)\.conv1\.weight")
        names = map(pattern.fullmatch, list(file.keys()))
        blocks = {(int(n[1]), int(n[2])): file.get_slice(n[0]).get_shape()[0] for n in names if n}
    levels = 1 + max(level for level, _ in blocks)
    return {
        "block_out_channels": [blocks[level, 0] for level in range(levels)],
        "layers_per_block": 1 + max(block for _, block in blocks),
    }


@pytest.fixture(scope="session")
def forge_installation() -> tuple[Path, Path]:
    """Folder and Python of Forge, or a skip that says what is missing."""
    names = ("NEGTRANS_FORGE_DIR", "NEGTRANS_FORGE_PYTHON")
    if missing := [name for name in names if not os.environ.get(name)]:
        pytest.skip(f"{' and '.join(missing)} name no Forge")
    folder, python = (Path(os.environ[name]).absolute() for name in names)
    return folder, python


@pytest.fixture(scope="module")
def start_webui(forge_installation, demo_model, tmp_path_factory):  # noqa: F811
    """with start_webui(**settings) as server: a Forge with this extension, the demonstration model and settings."""

    @contextlib.contextmanager
    def started(**settings):
        data = tmp_path_factory.mktemp("forge")
        make_forge_folder(data, forge_installation[0], demo_model)
        forge = WebuiServer(data, *forge_installation, usual=FLAGS, ready=("Startup time",))
        with running(forge, settings) as server:
            # it loads the checkpoint with the first picture, A1111 at its start
            assert server.post("/sdapi/v1/txt2img", {"width": 64, "height": 64, "steps": 1}).status_code == 200
            yield server

    return started
