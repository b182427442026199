"""/negtrans/v1/train with the kinds that learn from photographs, and negatives trained on their LoRAs."""

from __future__ import annotations

import json
import time

import pytest
import torch

fastapi = pytest.importorskip("fastapi", reason="fastapi comes with the webui and the page's environment")
pytest.importorskip("uvicorn")

from safetensors.torch import load_file  # noqa: E402

from lib_negtrans.apps.api import add_routes  # noqa: E402
from lib_negtrans.jobs.training import TrainingManager  # noqa: E402
from lib_negtrans.jobs.workplace import LocalWorkplace  # noqa: E402
from tests.fakehost.api_server import Server  # noqa: E402
from tests.tiny_model import tiny_host  # noqa: E402
from tests.unit.test_training_lora import make_photos  # noqa: E402

SMALL = {"steps": 2, "size": 64, "lr": "1e-2", "rank": 2, "alpha": 2.0}
NEGATIVE = {"steps": 2, "vectors": 1, "accumulation": 1, "size": 64, "preview_every": 0, "validate_every": 0}


@pytest.fixture
def data(tmp_path):
    make_photos(tmp_path / "data" / "photos")
    return tmp_path / "data"


@pytest.fixture
def manager(data):
    return TrainingManager(LocalWorkplace(tiny_host(), data / "embeddings", data / "runs"))


@pytest.fixture
def server(manager, data):
    app = fastapi.FastAPI()
    add_routes(app, manager, lambda: [data.resolve()], closed=lambda path: path.name == "own")
    with Server(app) as running:
        yield running


def train(server, name="photo-look", kind="lora", params=SMALL, **more):
    return server.call("POST", "/train", {"name": name, "kind": kind, "images": "photos", "params": params, **more})


def test_a_lora_with_class_pictures_made_on_the_way(server, manager, data):
    prior = {"prior": "class", "class_count": 2, "class_steps": 2, "sample_prompts": "a coat"}
    status, state = train(server, params=SMALL | prior)
    assert status == 200 and state["kind"] == "lora", state
    manager.wait(120)
    state = server.call("GET", "/train")[1]
    assert state["phase"] == "finished" and state["result"] == "loras/photo-look.safetensors", state["error"]
    assert state["embedding"] is None and [step for step, _ in state["prior_curve"]] == [1, 2]
    assert len(list((data / "runs/photo-look/class").glob("*.png"))) == 2
    assert len(state["previews"]) == 1
    assert json.loads((data / "loras/photo-look.json").read_text())["sd version"] == "SD1"
    assert (data / "loras/photo-look.preview.png").is_file()


def test_a_negative_trained_on_a_lora_has_it_in_the_model_meanwhile(server, manager, data):
    train(server)
    assert manager.wait(120).phase == "finished"
    before = {name: tensor.clone() for name, tensor in manager.workplace.host.unet.state_dict().items()}
    body = {"loras": ["photo-look:0.5"], "params": NEGATIVE}
    status, state = train(server, "neg-a", "negative", **body)
    assert status == 200 and state["request"]["loras"] == ["loras/photo-look.safetensors:0.5"], state
    state = manager.wait(120)
    assert state.phase == "finished", state.error
    run = json.loads((data / "runs/neg-a/run.json").read_text())
    assert [(lora["name"], lora["weight"]) for lora in run["loras"]] == [("photo-look", 0.5)]
    after = manager.workplace.host.unet.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items()) and not manager.workplace.host.loras
    status, answer = train(server, "neg-b", "negative", loras=["other"], params=NEGATIVE)
    assert status == 422 and "There is no LoRA other" in answer["detail"]


def test_interrupt_resume_and_list_by_kind(server, manager, data):
    train(server, params=SMALL | {"steps": 300})
    while manager.snapshot().step < 1:
        time.sleep(0.02)
    server.call("POST", "/train/interrupt")
    step = manager.wait(60).step
    runs = server.call("GET", "/train/runs")[1]
    assert runs == [{"name": "photo-look", "step": step, "steps": 300, "kind": "lora"}]
    status, answer = server.call("POST", "/train/resume", {"name": "photo-look", "params": {"vectors": 3}})
    assert status == 422 and "unknown parameter 'vectors'" in answer["detail"]
    status, state = server.call("POST", "/train/resume", {"name": "photo-look", "params": {"steps": step + 1}})
    assert status == 200 and state["kind"] == "lora"
    assert manager.wait(60).step == step + 1 and load_file(data / "loras/photo-look.safetensors")


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        ({"kind": "dream"}, 422, "no kind 'dream'"),
        ({"params": {"vectors": 2}}, 422, "unknown parameter 'vectors'"),
        ({"photos": "photos"}, 422, "photos is not for the kind lora"),
        ({"kind": "negative", "params": NEGATIVE, "renders": "photos"}, 422, "renders is not for the kind negative"),
        ({"loras": ["x"]}, 422, "loras is not for the kind lora"),
        ({"class_images": "own"}, 403, "webui's own folders"),
        ({"class_images": "/etc"}, 403, "outside the folders"),
        ({"params": SMALL | {"rank": 0}}, 422, "Rank must lie between"),
        ({"params": SMALL | {"alpha": 0.0}}, 422, "Alpha must lie between"),
        ({"renders": "none"}, 422, "There is no folder"),
    ],
)
def test_refusals_are_one_sentence(server, manager, change, status, sentence):
    got, answer = server.call(
        "POST", "/train", {"name": "a", "kind": "lora", "images": "photos", "params": SMALL} | change
    )
    assert got == status and sentence in answer["detail"], answer
    assert manager.snapshot().phase == "idle"


def test_the_schema_describes_every_kind(server):
    schema = server.call("GET", "/schema")[1]
    assert "rank" in schema["training_lora"] and "ema_on_cpu" in schema["training_full"]
