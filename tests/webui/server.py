"""A real webui for the tests: started from NEGTRANS_WEBUI_DIR with a data folder of its own and this repository in it.

The host's folder is only read. What the tests need lies in a temporary folder that the host takes as `--data-dir`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import requests

REPOSITORY = Path(__file__).resolve().parents[2]
FLAGS = (
    "--skip-prepare-environment", "--skip-torch-cuda-test", "--skip-version-check", "--skip-python-version-check",
    "--skip-install", "--use-cpu", "all", "--no-half", "--api", "--server-name", "127.0.0.1", "--do-not-download-clip",
    "--no-download-sd-model", "--disable-nan-check", "--disable-console-progressbars",
)  # fmt: skip
QUIET = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "COMMANDLINE_ARGS": "",
    "GRADIO_ANALYTICS_ENABLED": "False", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1",
    "no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost",
}  # fmt: skip


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def make_data_folder(data: Path, model: Path) -> None:
    """models/, embeddings/ and extensions/ of a webui that has this extension and one checkpoint."""
    checkpoints = data / "models" / "Stable-diffusion"
    for folder in (checkpoints, data / "models" / "Lora", data / "embeddings", data / "extensions"):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(model, checkpoints)
    shutil.copytree(model.parent / "clip", checkpoints / "clip")
    # it names the text encoder's folder relative to where the webui is started, which is the webui's own folder
    config = model.with_suffix(".yaml").read_text(encoding="utf-8")
    (checkpoints / f"{model.stem}.yaml").write_text(
        config.replace("version: models/Stable-diffusion/clip", f"version: {checkpoints / 'clip'}"), encoding="utf-8"
    )
    (data / "extensions" / "sd-webui-negtrans").symlink_to(REPOSITORY)


@dataclass
class WebuiServer:
    """A running webui."""

    data: Path
    webui: Path
    python: Path
    flags: tuple[str, ...] = ()
    usual: tuple[str, ...] = FLAGS  # of this kind of webui
    ready: tuple[str, ...] = ("Startup time", "Model loaded in")  # what it has printed when it can be asked
    port: int = field(default_factory=free_port)
    process: subprocess.Popen | None = None
    start_log: str = ""  # what it had printed when it was ready
    start_profile: dict = field(default_factory=dict)  # the host's own times of its start; Reload UI begins others

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.data / "webui.log").read_text(encoding="utf-8", errors="replace")

    def start(self, timeout: float = 900) -> None:
        """Start and wait until page, API and checkpoint are there. Raises RuntimeError with the log's end."""
        command = ["nice", str(self.python), str(self.webui / "launch.py"), "--data-dir", str(self.data), *self.usual]
        # started elsewhere than in its own folder, the host does not serve its own scripts to the page
        command += ["--gradio-allowed-path", str(self.webui)]
        with (self.data / "webui.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), *self.flags],
                cwd=self.webui, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env={**os.environ, **QUIET}, start_new_session=True,
            )  # fmt: skip
        ends = time.monotonic() + timeout
        while time.monotonic() < ends:
            if self.process.poll() is not None or "model failed to load" in self.log:
                break
            # no request before that line: one in the middle of the start makes the webui fail
            if all(line in self.log for line in self.ready):
                self.start_log = self.log
                self.start_profile = self.get("/internal/profile-startup").json()
                return
            time.sleep(0.5)
        tail = self.log[-3000:]
        self.stop()
        raise RuntimeError(f"the webui did not start:\n{tail}")

    def stop(self) -> None:
        if self.process is None:
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
                break
        self.process = None

    def get(self, path: str, **kwargs) -> requests.Response:
        return self._session().get(self.url + path, timeout=60, **kwargs)

    def post(self, path: str, body: dict | None = None, timeout: float = 600, **kwargs) -> requests.Response:
        return self._session().post(self.url + path, json=body, timeout=timeout, **kwargs)

    @staticmethod
    def _session() -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        return session


@contextlib.contextmanager
def running(server: WebuiServer, settings: dict) -> Iterator[WebuiServer]:
    """The server with these of the webui's settings, started and in the end stopped."""
    (server.data / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    server.start()
    try:
        yield server
    finally:
        server.stop()
