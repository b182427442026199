"""The real page on the tiny model, served from this process, and a headless Chromium that looks at it."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 90_000  # ms: a loaded machine takes its time


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip with a reason where there is nothing to drive a browser with."""
    lacking = None
    if CHROMIUM is None:
        lacking = "no Chromium: install it (Debian: apt install chromium)"
    for module in ("playwright", "gradio"):
        try:
            __import__(module)
        except ImportError as error:
            lacking = f"no {module} ({error}): install requirements.lock"
    for item in items:
        if lacking and Path(__file__).parent in Path(item.path).parents:
            item.add_marker(pytest.mark.skip(reason=lacking))


@dataclass
class Site:
    """The served page and what is behind it."""

    url: str
    manager: object
    runner: object
    embeddings: Path


@pytest.fixture(scope="session")
def site(shared_tiny_host, tmp_path_factory) -> Iterator[Site]:
    import uvicorn

    from lib_negtrans.apps.page.page import FILES, build_page
    from lib_negtrans.apps.page.server import free_socket, make_app
    from lib_negtrans.jobs.training import TrainingManager
    from lib_negtrans.jobs.translation import TranslationRunner
    from lib_negtrans.jobs.workplace import LocalWorkplace

    folder = tmp_path_factory.mktemp("page")
    workplace = LocalWorkplace(shared_tiny_host, folder / "embeddings", folder / "runs")
    manager, runner = TrainingManager(workplace), TranslationRunner(workplace)
    app = make_app(build_page(workplace, manager, runner), runner, "127.0.0.1", FILES)
    listener = free_socket("127.0.0.1", 0, 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    yield Site(f"http://127.0.0.1:{listener.getsockname()[1]}/", manager, runner, folder / "embeddings")
    manager.request_stop()
    runner.request_stop()
    server.should_exit = True
    thread.join(20)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        profile = tmp_path_factory.mktemp("profile")
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=ARGUMENTS, viewport={"width": 1280, "height": 900},
            accept_downloads=True,
        )  # fmt: skip
        context.set_default_timeout(PATIENCE)
        yield context
        context.close()


@dataclass
class Complaints:
    """What went wrong in the browser, and what it asked of others than the page's own server."""

    errors: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)


@pytest.fixture
def page(site, browser):
    """The page, opened anew. The test fails at its end if the browser's console has an error."""
    opened = browser.new_page()
    complaints = Complaints()
    opened.on("console", lambda m: complaints.errors.append(m.text) if m.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.errors.append(str(error)))

    def note(request) -> None:
        if not request.url.startswith((site.url, "data:", "blob:")):
            complaints.elsewhere.append(request.url)

    opened.on("request", note)
    opened.goto(site.url)
    opened.wait_for_selector("#negtrans_page_translate")
    yield opened
    opened.close()
    assert complaints == Complaints()
