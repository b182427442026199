"""/negtrans/v1/ over real HTTP on a bare app: answers, the password on every route, refused paths and names."""

from __future__ import annotations

import base64
import os
import time

import numpy as np
import pytest
from PIL import Image

fastapi = pytest.importorskip("fastapi", reason="fastapi comes with the webui and the page's environment")
pytest.importorskip("uvicorn")

from lib_negtrans.apps.api import PREFIX, add_routes  # noqa: E402
from lib_negtrans.apps.api_guard import MAXIMUM_BODY  # noqa: E402
from lib_negtrans.jobs.training import TrainingManager  # noqa: E402
from lib_negtrans.jobs.workplace import LocalWorkplace  # noqa: E402
from lib_negtrans.training.params import TrainingParams  # noqa: E402
from tests.fakehost.api_server import Server  # noqa: E402

SMALL = {"steps": 2, "vectors": 2, "accumulation": 1, "size": 64, "preview_every": 0, "lr": "5e-3"}


@pytest.fixture
def data(tmp_path):
    """What the webui would call its data folder, with three renders in it."""
    folder = tmp_path / "data" / "renders"
    folder.mkdir(parents=True)
    (tmp_path / "data" / "empty").mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / f"red coat {number}.png")
    return tmp_path / "data"


@pytest.fixture
def manager(shared_tiny_host, data):
    return TrainingManager(LocalWorkplace(shared_tiny_host, data / "embeddings", data / "runs"))


@pytest.fixture
def server(manager, data):
    app = fastapi.FastAPI()
    add_routes(app, manager, lambda: [data.resolve()])
    with Server(app) as running:
        yield running


def test_version_and_schema(server):
    status, version = server.call("GET", "/version")
    assert status == 200 and version["api"] == 1
    schema = server.call("GET", "/schema")[1]
    assert set(schema["training"]) == set(TrainingParams.options())
    assert schema["training"]["steps"] | {"help": ""} == {
        "label": "Steps", "help": "", "type": "int", "default": 1000, "minimum": 1, "maximum": 1000000,
    }  # fmt: skip
    assert schema["script_args"][:2] == ["version", "preset"] and "guidance" in schema["script_args"]
    assert schema["translation"]["topk_ratio"]["applies"] == {"guidance": ["topk"]}
    assert set(schema["training_presets"]) == {"quick", "standard", "thorough"}


def test_train_to_the_end_and_fetch_the_result(server, manager, data):
    body = {"name": "neg-render", "images": str(data / "renders"), "params": SMALL}
    status, state = server.call("POST", "/train", body)
    assert status == 200 and state["busy"] and state["name"] == "neg-render"
    manager.wait(120)
    state = server.call("GET", "/train")[1]
    assert state["phase"] == "finished" and state["step"] == 2 and len(state["curve"]) == 2, state["error"]
    status, result = server.call("GET", "/embeddings/neg-render")
    assert status == 200 and base64.b64decode(result["content"]) == (data / "embeddings/neg-render.pt").read_bytes()
    (data / "embeddings/neg-copy.PT").write_bytes((data / "embeddings/neg-render.pt").read_bytes())
    listed = [(entry["name"], entry["step"], entry["vectors"]) for entry in server.call("GET", "/embeddings")[1]]
    assert listed == [("neg-copy", 2, 2), ("neg-render", 2, 2)]
    assert server.call("GET", "/embeddings/neg-none")[0] == 404


def test_two_at_once_interrupt_and_resume(server, manager, data):
    body = {"name": "neg-a", "images": "renders", "params": SMALL | {"steps": 500}}
    assert server.call("POST", "/train", body)[0] == 200
    assert server.call("POST", "/train", body | {"name": "neg-b"})[1]["queue"] == ["neg-b"]
    assert server.call("POST", "/train/cancel", {"name": "neg-b"})[1]["queue"] == []
    assert server.call("POST", "/train/cancel", {"name": "neg-b"})[0] == 409
    status, answer = server.call("POST", "/train", body)
    assert status == 409 and answer["detail"].startswith("neg-a is being trained")
    while manager.snapshot().step < 1:
        time.sleep(0.02)
    assert server.call("POST", "/train/interrupt")[1]["stopping"]
    step = manager.wait(60).step
    assert server.call("POST", "/train/interrupt")[0] == 409
    assert server.call("GET", "/train/runs")[1] == [{"name": "neg-a", "step": step, "steps": 500, "kind": "negative"}]
    status, state = server.call("POST", "/train/resume", {"name": "neg-a", "params": {"steps": step + 1}})
    assert status == 200 and state["busy"]
    assert manager.wait(60).step == step + 1
    status, answer = server.call("POST", "/train/resume", {"name": "neg-c"})
    assert status == 422 and "no interrupted run" in answer["detail"]


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        ({"name": "../up"}, 422, "only a-z"),
        ({"name": ""}, 422, "needs a name"),
        ({"images": "empty"}, 422, "No pictures were found"),
        ({"images": "missing"}, 422, "There is no folder"),
        ({"images": ""}, 422, "path is empty"),
        ({"images": "/"}, 403, "outside the folders"),
        ({"images": "renders/../../.."}, 403, "outside the folders"),
        ({"preview_image": "/etc/passwd"}, 403, "outside the folders"),
        ({"params": {"template": "/etc/passwd"}}, 403, "outside the folders"),
        ({"params": {"steps": 0}}, 422, "Steps must lie between"),
        ({"params": {"lr": "fast"}}, 422, "not a number"),
        ({"params": {"speed": 1}}, 422, "unknown parameter 'speed'"),
        ({"preset": "slow"}, 422, "no preset 'slow'"),
    ],
)
def test_refusals_are_one_sentence(server, manager, data, change, status, sentence):
    body = {"name": "neg-a", "images": "renders", "params": SMALL} | change
    got, answer = server.call("POST", "/train", body)
    assert got == status and sentence in answer["detail"]
    assert manager.snapshot().phase == "idle"


def test_a_link_does_not_lead_outside(server, data, tmp_path):
    (tmp_path / "secret").mkdir()
    (data / "link").symlink_to(tmp_path / "secret")
    assert server.call("POST", "/dataset/check", {"images": "link"})[0] == 403
    # nor one inside the folder that is named: to a picture, to a caption, to a folder behind a link that stays inside
    (tmp_path / "secret/words.txt").write_text("a secret")
    (data / "deeper").mkdir()
    (data / "deeper/out").symlink_to(tmp_path / "secret")
    for link, target in (("a.png", tmp_path / "secret/a.png"), ("red coat 0.txt", tmp_path / "secret/words.txt"),
                         ("in", data / "deeper")):  # fmt: skip
        (data / "renders" / link).symlink_to(target)
        for route, body in (("dataset/check", {"images": "renders"}), ("train", {"images": "renders", "name": "neg-a"}),
                            ("dataset/prepare", {"source": "renders", "target": "new"})):  # fmt: skip
            status, answer = server.call("POST", f"/{route}", body)
            assert status == 403 and "is a link to outside" in answer["detail"], (link, route, answer)
        (data / "renders" / link).unlink()
    (data / "renders/twin.png").symlink_to(data / "renders/red coat 0.png")
    assert server.call("POST", "/dataset/check", {"images": "renders", "size": 64})[0] == 200


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        ({"images": "x" * 5000}, 422, "too long"),
        ({"images": "x" * 300}, 422, "name too long"),
        ({"preview_image": "x" * 300}, 422, "name too long"),
        ({"params": {"template": "x" * 300}}, 422, "name too long"),
        ({"name": "\ud800"}, 422, "not JSON that can be used"),
        ({"params": {"steps": 2.5}}, 422, "Steps must be a whole number"),
        ({"params": {"steps": float("inf")}}, 422, "Steps must be a whole number"),
        ({"params": {"steps": True}}, 422, "Steps must be a number"),
        ({"params": {"lr": 5}}, 422, "must be text"),
        ({"params": {"steps": [[]]}}, 422, "body.params.steps cannot be used"),
        ({"params": {"licence": "x" * 20_000}}, 422, "longer than 10000 characters"),
        ({"params": {"licence": "x" * 20_000_000}}, 413, f"larger than {MAXIMUM_BODY} bytes"),
        ({"name": None}, 422, "body.name cannot be used"),
        ({"more": 1}, 422, "body.more cannot be used"),
    ],
)
def test_strange_requests_are_one_short_sentence_without_a_path(server, manager, data, change, status, sentence):
    got, answer = server.call("POST", "/train", {"name": "neg-a", "images": "renders"} | change)
    assert got == status and sentence in answer["detail"], answer
    assert len(answer["detail"]) < 600 and str(data) not in answer["detail"]
    assert manager.snapshot().phase == "idle"


def test_no_answer_names_a_folder_of_the_machine(server, manager, data):
    os.close(os.open(os.fsencode(data) + b"/renders/\xff.png", os.O_CREAT))  # a name that is no UTF-8
    report = server.call("POST", "/dataset/check", {"images": str(data / "renders"), "size": 64})[1]
    server.call("POST", "/train", {"name": "neg-a", "images": str(data / "renders"), "params": SMALL})
    manager.wait(120)
    state = server.call("GET", "/train")[1]
    assert str(data) not in f"{report} {state}"
    assert state["embedding"] == "embeddings/neg-a.pt" and state["request"]["images"] == "renders", state
    assert (
        server.call("POST", "/train", {"name": "neg-b", "images": state["request"]["images"], "params": SMALL})[0]
        == 200
    )
    manager.wait(120)


def test_resuming_to_fewer_steps_than_are_done_is_refused_at_once(server, manager):
    server.call("POST", "/train", {"name": "neg-a", "images": "renders", "params": SMALL | {"steps": 500}})
    while manager.snapshot().step < 2:
        time.sleep(0.02)
    server.call("POST", "/train/interrupt")
    step = manager.wait(60).step
    for params, sentence in (
        ({"steps": 1}, f"has {step} steps already, not 1: ask for more"), ({"steps": 2.5}, "must be a whole number"),
        ({"name": "x"}, "unknown parameter 'name'"), ({"speed": 1}, "unknown parameter 'speed'"),
    ):  # fmt: skip
        status, answer = server.call("POST", "/train/resume", {"name": "neg-a", "params": params})
        assert status == 422 and sentence in answer["detail"], answer
    assert manager.snapshot().phase == "stopped"


def test_a_queued_training_that_cannot_start_fails_under_its_own_name(server, manager, data):
    body = {"name": "neg-a", "images": "renders", "params": SMALL | {"steps": 500}}
    server.call("POST", "/train", body)
    server.call("POST", "/train", body | {"name": "neg-b"})
    (data / "embeddings").mkdir(exist_ok=True)
    (data / "embeddings/neg-b.pt").write_bytes(b"mine")
    server.call("POST", "/train/interrupt")
    manager.wait(60)
    state = server.call("GET", "/train")[1]
    assert (state["name"], state["phase"], state["embedding"]) == ("neg-b", "failed", None)
    assert state["error"].startswith("neg-b could not be started: ") and state["log"][0].startswith("neg-a: stopped.")


def test_nothing_is_prepared_into_folders_that_are_closed(manager, data):
    app = fastapi.FastAPI()
    add_routes(app, manager, lambda: [data.resolve()], closed=lambda path: path.name == "extension")
    with Server(app) as server:
        status, answer = server.call("POST", "/dataset/prepare", {"source": "renders", "target": "extension"})
    assert status == 403 and "webui's own folders" in answer["detail"] and not (data / "extension").exists()


def test_which_folders_are_the_webuis_own(fake_host, tmp_path, monkeypatch):
    paths = fake_host.modules["modules.paths_internal"]
    paths.data_path, paths.script_path = str(tmp_path / "data"), str(tmp_path / "webui")
    fake_host.modules["modules.shared"].cmd_opts.embeddings_dir = str(tmp_path / "elsewhere")
    from lib_negtrans.apps.webui.api_mount import is_webuis_own

    tmp_path = tmp_path.resolve()
    for name in ("data", "data/extensions/x", "data/Scripts", "webui/scripts/x", "data/.git", "elsewhere/x"):
        assert is_webuis_own(tmp_path / name), name
    for name in ("data/renders", "webui/outputs/x", "data/renders/scripts", "other/scripts"):
        assert not is_webuis_own(tmp_path / name), name


def test_dataset_check(server, data):
    (data / "renders/broken.png").write_bytes(b"no picture")
    status, report = server.call("POST", "/dataset/check", {"images": "renders", "size": 64})
    assert status == 200 and report["images"] == 3 and report["skipped"][0]["path"] == "broken.png"
    assert any("broken.png" in sentence for sentence in report["sentences"])
    for change in ({"size": 100}, {"size": 1}, {"size": 64.5}, {"aspect": "round"}):
        status, answer = server.call("POST", "/dataset/check", {"images": "renders"} | change)
        assert status == 422 and answer["detail"].endswith("."), answer


def test_prepare(server, manager, data):
    body = {"source": "renders", "target": "prepared", "params": {"size": 64}}
    status, state = server.call("POST", "/dataset/prepare", body)
    assert status == 200 and state["phase"] == "working"
    manager.preparation.wait(60)
    state = server.call("GET", "/dataset/prepare")[1]
    assert state["phase"] == "finished" and "3 of 3 pictures prepared" in state["lines"][0], state
    assert len(list((data / "prepared").glob("*.png"))) == 3
    assert server.call("POST", "/dataset/prepare/stop")[0] == 409
    for change, status, sentence in [
        ({}, 422, "is not empty"),
        ({"target": "renders"}, 422, "holds the pictures themselves"),
        ({"source": "/etc"}, 403, "outside the folders"),
        ({"target": "/tmp/prepared-elsewhere"}, 403, "outside the folders"),
        ({"target": "new", "params": {"size": 1}}, 422, "Picture size must lie between"),
        ({"target": "new", "source": "missing"}, 422, "There is no folder"),
    ]:
        got, answer = server.call("POST", "/dataset/prepare", body | change)
        assert got == status and sentence in answer["detail"], (change, answer)
    assert "fit" in server.call("GET", "/schema")[1]["preparation"]


def test_the_password_is_asked_for_on_every_route(manager, data):
    app = fastapi.FastAPI()
    add_routes(app, manager, lambda: [data], accounts=[("u", "p"), ("v", "p:q")])
    count = len(app.routes)
    add_routes(app, manager, lambda: [data])  # as a second "app started" would: nothing twice
    assert len(app.routes) == count
    routes = [(m.upper(), path) for path, methods in app.openapi()["paths"].items() for m in methods]
    assert len(routes) >= 10 and all(path.startswith(PREFIX) for _, path in routes)
    with Server(app) as server:
        for method, path in routes:
            path = path.removeprefix(PREFIX).replace("{name}", "neg-a")
            for auth in (None, "u:", "u:wrong", "x:p", "up:", ":"):
                assert server.call(method, path, {} if method == "POST" else None, auth)[0] == 401, (method, path, auth)
        assert server.call("GET", "/version", auth="u:p")[0] == 200
        assert server.call("GET", "/version", auth="v:p:q")[0] == 200
    assert manager.snapshot().phase == "idle"
