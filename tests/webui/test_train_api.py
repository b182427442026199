"""Training inside a real webui, over its API: the result is loaded at once, and the webui is as it was afterwards."""

from __future__ import annotations

import base64
import io
import time

import pytest
from PIL import Image

from lib_negtrans.embeddings.files import read_embedding
from tests.webui.files import copy_renders
from tests.webui.server import WebuiServer, make_data_folder

API = "/negtrans/v1"
SMALL = {"size": 128, "vectors": 2, "accumulation": 1, "preview_every": 0}


@pytest.fixture(scope="module")
def renders(webui):
    """A few of the repository's renders inside the webui's data folder, where its API may read them."""
    return copy_renders(webui.data / "renders", 4)


def finished(webui, timeout=300):
    """The state once nothing is under way any more."""
    ends = time.monotonic() + timeout
    while (state := webui.get(f"{API}/train").json())["busy"]:
        assert time.monotonic() < ends, state
        time.sleep(0.5)
    return state


def train(webui, name, **changes):
    body = {"name": name, "images": "renders", "preset": "quick", "params": SMALL | changes}
    return webui.post(f"{API}/train", body)


def wait_for_step(webui, step, timeout=300):
    ends = time.monotonic() + timeout
    while (state := webui.get(f"{API}/train").json())["step"] < step:
        assert state["busy"] and time.monotonic() < ends, state
        time.sleep(0.2)


def plain_img2img(webui, renders):
    """The PNG's bytes of an ordinary img2img with a fixed seed."""
    image = base64.b64encode(next(iter(sorted(renders.iterdir()))).read_bytes()).decode()
    body = {
        "init_images": [image], "prompt": "a coat", "negative_prompt": "blurry", "seed": 1, "steps": 6, "width": 128,
        "height": 128, "denoising_strength": 0.5, "sampler_name": "DDIM",
    }  # fmt: skip
    answer = webui.post("/sdapi/v1/img2img", body)
    answer.raise_for_status()
    return answer.json()["images"][0]


def test_a_training_ends_in_the_embedding_list(webui, renders):
    answer = train(webui, "neg-a", steps=4)
    assert answer.status_code == 200, answer.text
    state = finished(webui)
    assert state["phase"] == "finished" and state["published"], state["error"]
    loaded = webui.get("/sdapi/v1/embeddings").json()["loaded"]
    assert loaded["neg-a"]["step"] == 4 and loaded["neg-a"]["vectors"] == 2
    embedding = webui.data / "embeddings/neg-a.pt"
    assert read_embedding(embedding).metadata["images"] == 3  # one of the four is held out
    assert Image.open(embedding.with_suffix(".preview.png")).size == (128, 128)
    result = webui.get(f"{API}/embeddings/neg-a").json()
    assert base64.b64decode(result["content"]) == embedding.read_bytes()


def test_the_new_vectors_are_used_by_the_next_picture(webui, renders):
    """An embedding that is written again under its name must not be taken from the host's prompt cache."""
    plain_img2img(webui, renders)  # the first picture after a start draws from an unseeded generator

    def picture():
        image = base64.b64encode(next(iter(sorted(renders.iterdir()))).read_bytes()).decode()
        body = {
            "init_images": [image], "negative_prompt": "neg-b", "seed": 1, "steps": 6, "width": 128, "height": 128,
            "denoising_strength": 0.5, "sampler_name": "DDIM",
        }  # fmt: skip
        answer = webui.post("/sdapi/v1/img2img", body).json()["images"][0]
        # not the file: the host leaves "TI hashes" out of the text when the prompt comes from its cache
        return Image.open(io.BytesIO(base64.b64decode(answer))).tobytes()

    train(webui, "neg-b", steps=1, lr="0.01")
    assert finished(webui)["phase"] == "finished"
    first = picture()
    assert picture() == first
    body = {"name": "neg-b", "images": "renders", "preset": "quick", "overwrite": True}
    webui.post(f"{API}/train", body | {"params": SMALL | {"steps": 5, "lr": "0.5"}})
    assert finished(webui)["phase"] == "finished"
    assert picture() != first


def test_plain_generation_is_the_same_after_an_interrupted_training(webui, renders):
    plain_img2img(webui, renders)
    before = plain_img2img(webui, renders)
    train(webui, "neg-c", steps=5000)
    wait_for_step(webui, 2)
    assert webui.post(f"{API}/train/interrupt").json()["stopping"]
    state = finished(webui)
    assert state["phase"] == "stopped" and state["checkpoint"]
    assert plain_img2img(webui, renders) == before
    assert "neg-c" not in webui.get("/sdapi/v1/embeddings").json()["loaded"]

    answer = webui.post(f"{API}/train/resume", {"name": "neg-c", "params": {"steps": state["step"] + 2}})
    assert answer.status_code == 200, answer.text
    resumed = finished(webui)
    assert resumed["phase"] == "finished" and resumed["start_step"] == state["step"], resumed["error"]
    assert plain_img2img(webui, renders) == before


def test_the_hosts_own_interrupt_stops_a_training(webui, renders):
    train(webui, "neg-d", steps=5000)
    wait_for_step(webui, 1)
    progress = webui.get("/sdapi/v1/progress?skip_current_image=true").json()["state"]
    assert progress["job"] == "negtrans-train-neg-d" and progress["job_count"] == 5000
    webui.post("/sdapi/v1/interrupt", {})
    assert finished(webui)["phase"] == "stopped"
    # and does not reach the next job
    assert webui.get("/sdapi/v1/progress?skip_current_image=true").json()["state"]["interrupted"] is False


def test_refusals(webui, renders):
    train(webui, "neg-e", steps=5000)
    second = train(webui, "neg-e", steps=5)
    assert second.status_code == 409 and second.json()["detail"].startswith("neg-e is being trained")
    webui.post(f"{API}/train/interrupt")
    finished(webui)
    (webui.data / "empty").mkdir(exist_ok=True)
    for change, status in [
        ({"images": "/etc"}, 403), ({"images": "renders/../.."}, 403), ({"images": "empty"}, 422),
        ({"name": "../neg"}, 422), ({"name": "coat"}, 422), ({"name": "neg-a"}, 422),
    ]:  # fmt: skip
        body = {"name": "neg-g", "images": "renders", "preset": "quick", "params": SMALL} | change
        answer = webui.post(f"{API}/train", body)
        assert answer.status_code == status, (change, answer.text)
        assert answer.json()["detail"].rstrip().endswith("."), answer.text


def test_every_route_asks_for_the_api_password(webui_installation, demo_model, tmp_path_factory):
    data = tmp_path_factory.mktemp("webui-auth")
    make_data_folder(data, demo_model)
    server = WebuiServer(data, *webui_installation, flags=("--api-auth", "u:p"))
    server.start()
    try:
        described = server.get("/openapi.json").json()["paths"]
        routes = [(path, method) for path, ways in described.items() if path.startswith(API) for method in ways]
        assert len(routes) >= 10
        for path, method in routes:
            call = server.get if method == "get" else server.post
            for auth in (None, ("u", "wrong"), ("x", "p")):
                answer = call(path.replace("{name}", "neg-a"), auth=auth)
                assert answer.status_code == 401, (path, auth, answer.text)
        assert server.get(f"{API}/version", auth=("u", "p")).json()["api"] == 1
    finally:
        server.stop()
