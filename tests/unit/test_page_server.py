"""The page's server: only this machine's own page is answered; ports; embeddings by name; the command's refusals."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lib_negtrans.apps.cli import app
from lib_negtrans.apps.cli.main import main
from lib_negtrans.embeddings.files import Embedding, EmbeddingError, write_embedding
from lib_negtrans.models import standalone

pytest.importorskip("gradio", reason="the page needs gradio: install requirements.lock")

import httpx
from fastapi import FastAPI
from gradio.data_classes import ImageData

from lib_negtrans.apps.page.page import read_settings
from lib_negtrans.apps.page.picture_input import picture_input
from lib_negtrans.apps.page.server import LOOPBACK, Guard, PortTaken, free_socket
from lib_negtrans.embeddings.folder import EmbeddingFolder
from lib_negtrans.translation.params import TranslationParams


def ask(hosts, base: str, origin: str | None = None) -> httpx.Response:
    """GET / of a guarded app."""
    app = FastAPI()
    app.get("/")(lambda: {"here": True})
    app.add_middleware(Guard, hosts=hosts)

    async def get() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=base) as client:
            return await client.get("/", headers={"origin": origin} if origin else {})

    # in a thread of its own: the browser tests' Playwright leaves a running event loop in this one
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, get()).result()


@pytest.mark.parametrize(
    ("base", "origin", "status"),
    [
        ("http://127.0.0.1:7870", None, 200),
        ("http://127.0.0.1:7870", "http://127.0.0.1:7870", 200),
        ("http://localhost:7870", "http://localhost:7870", 200),
        ("http://127.0.0.1:7870", "http://127.0.0.1:8000", 403),
        ("http://127.0.0.1:7870", "https://example.org", 403),
        ("http://127.0.0.1:7870", "null", 403),
        ("http://example.org:7870", None, 403),  # a foreign name that points here
        ("http://example.org:7870", "http://example.org:7870", 403),
    ],
)
def test_strangers_are_refused(base, origin, status):
    answer = ask(LOOPBACK, base, origin)
    assert answer.status_code == status
    if status == 200:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy and "http" not in policy


def test_a_server_for_others_is_asked_under_any_name_but_by_its_own_page():
    assert ask(None, "http://studio.local:7870").status_code == 200
    assert ask(None, "http://studio.local:7870", "https://example.org").status_code == 403


def test_ports():
    with free_socket("127.0.0.1", 0, 0) as first:
        taken = first.getsockname()[1]
        with pytest.raises(PortTaken, match=f"port {taken}"):
            free_socket("127.0.0.1", taken, 0)
        with free_socket("127.0.0.1", None, taken) as next_one:
            assert taken < next_one.getsockname()[1] < taken + 20


def test_embeddings_of_a_folder(tmp_path):
    folder = EmbeddingFolder(tmp_path / "embeddings", 8)
    assert folder.names() == []
    for name, width in (("neg-a", 8), ("sub/neg-b", 8), ("neg-wide", 16), ("neg-a.run/neg-old", 8)):
        path = tmp_path / "embeddings" / f"{name}.pt"
        write_embedding(path, Embedding(path.stem, torch.ones(2, width)))
    assert folder.names() == ["neg-a", "neg-b", "neg-wide"]
    assert folder.vectors("neg-b").shape == (2, 8)
    assert set(folder.named_in("a photo, (neg-a:1.2)", "neg-bb", "")) == {"neg-a"}
    with pytest.raises(EmbeddingError, match="another kind of model"):
        folder.vectors("neg-wide")
    with pytest.raises(EmbeddingError, match="There is no embedding neg-c"):
        folder.vectors("neg-c")


def test_the_picture_field_gives_the_file_itself(tmp_path):
    field = picture_input()
    assert field.get_block_name() == "image"
    (tmp_path / "render.png").write_bytes(b"\x89PNG whatever")
    assert field.preprocess(ImageData(path=str(tmp_path / "render.png"))).read() == b"\x89PNG whatever"
    assert field.preprocess(None) is None


def test_emptied_numbers_are_defaults():
    params = TranslationParams.from_given({"steps": 20.0, "seed": None, "prompt": "", "tac_layers": None})
    assert (params.steps, params.seed, params.tac_layers) == (20, 0, 256)


def test_a_file_without_settings_is_refused(tmp_path):
    from lib_negtrans.pictures.images import ImageError

    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match="is no picture"):
        read_settings(tmp_path / "a.png")


def test_the_command_refuses_in_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    for arguments, says in (
        (["--port", "99999"], "--port must lie between"),
        (["--embeddings", str(tmp_path / "file")], "is a file: name a folder"),
        (["--model", str(tmp_path / "none.safetensors")], "none.safetensors"),
    ):
        assert main(["app", "--no-browser", *arguments]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1


def test_the_end_of_the_page_saves_the_training_under_way(monkeypatch, shared_tiny_host, tmp_path, capsys):
    import time

    from PIL import Image

    from lib_negtrans.apps.page import server as page_server
    from lib_negtrans.jobs import training
    from lib_negtrans.training.params import TrainingParams

    Image.new("RGB", (64, 64), "red").save(tmp_path / "render.png")
    made = []

    class Noted(training.TrainingManager):
        def __init__(self, workplace):
            super().__init__(workplace)
            made.append(self)

    def serve_until_the_training_runs(_app, listener, on_ready):
        on_ready()
        params = TrainingParams(steps=5000, vectors=1, accumulation=1, size=64, template="name")
        made[0].start(training.TrainingRequest("neg-red", tmp_path, params))
        while made[0].snapshot().step < 1:
            assert made[0].snapshot().busy
            time.sleep(0.02)
        listener.close()  # as Ctrl-C does

    monkeypatch.setattr(standalone, "load_model", lambda *_args, **_options: shared_tiny_host)
    monkeypatch.setattr(app, "TrainingManager", Noted)
    monkeypatch.setattr(page_server, "serve", serve_until_the_training_runs)
    folders = ["--embeddings", str(tmp_path / "embeddings"), "--runs", str(tmp_path / "runs")]
    assert main(["app", "--no-browser", "--port", "0", *folders]) == 0
    assert [run.name for run in made[0].resumable()] == ["neg-red"]
    said = capsys.readouterr().out
    assert "The page is at http://127.0.0.1:" in said and "Run it again with resume" in said
