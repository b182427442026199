"""The standalone page's web server: gradio on a port of this machine, without the network and without strangers.

gradio answers requests of other web sites too, and a page of it may load what they like; both end here.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import PlainTextResponse, Response

from lib_negtrans.errors import UserError
from lib_negtrans.jobs.translation import TranslationRunner

PICTURES = "/negtrans/pictures"
SCRIPTS = "/negtrans/scripts"
PORTS_TRIED = 20
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# 'unsafe-eval' and 'unsafe-inline' are gradio's needs; nothing may come from, or go to, another host
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; frame-ancestors 'none'"
)


class PortTaken(UserError):
    """No port to listen on; the message is one sentence."""


def free_socket(host: str, port: int | None, first: int) -> socket.socket:
    """A socket bound to `port`, or without one to the first free port from `first` on. Raises PortTaken."""
    last_error = None
    for number in [port] if port is not None else range(first, first + PORTS_TRIED):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, number))
            # binding succeeds beside another process's socket that listens not yet
            listener.listen(128)
        except OSError as error:
            listener.close()
            last_error = error
        else:
            return listener
    what = f"port {port}" if port is not None else f"any port from {first} to {first + PORTS_TRIED - 1}"
    reason = last_error.strerror if last_error else "none was tried"
    raise PortTaken(f"{host} cannot listen on {what} ({reason}): choose another --port or --host.")


Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable, Callable], Awaitable[None]]


class Guard:
    """Refuses what another web site makes the browser send, and tells the browser to load nothing from elsewhere.

    hosts: the names that the page may be asked under, so that a foreign name cannot be pointed to this machine; None
    when it listens to other machines, whose names for it are not known.
    """

    def __init__(self, app: App, hosts: Sequence[str] | None):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Callable, send: Callable) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        if not self._welcome(headers):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                refusal = PlainTextResponse("This page answers only requests of its own.", 403)
                await refusal(scope, receive, send)
            return

        async def send_with_policy(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self.app(scope, receive, send_with_policy)

    def _welcome(self, headers: dict[str, str]) -> bool:
        host = headers.get("host", "")
        name = host.rsplit(":", 1)[0].strip("[]") if not host.endswith("]") else host.strip("[]")
        if self.hosts is not None and name not in self.hosts:
            return False
        origin = headers.get("origin")
        return origin is None or origin.partition("://")[2] == host


def make_app(blocks: gr.Blocks, runner: TranslationRunner, host: str, files: Sequence[Path] = ()) -> FastAPI:
    """The web application: the page, its pictures and its files, of which it loads the styles and scripts."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    by_name = {path.name: path for path in files if path.is_file()}

    @app.get(SCRIPTS + "/{name}")
    def script(name: str) -> Response:
        if name not in by_name:
            raise HTTPException(404, "There is no such script.")
        kind = "text/javascript" if name.endswith(".js") else "application/json"
        return Response(by_name[name].read_bytes(), media_type=kind, headers={"cache-control": "no-cache"})

    @app.get(PICTURES + "/{number}/{name}")
    def picture(number: int, name: str) -> Response:
        content = runner.picture(number, name)
        if content is None:
            raise HTTPException(404, "This picture is no longer kept.")
        kind = "image/jpeg" if name.endswith(".jpg") else "image/png"
        return Response(content, media_type=kind, headers={"cache-control": "no-store"})

    app = gr.mount_gradio_app(
        app, blocks, path="/", footer_links=[], allowed_paths=blocks.allowed_paths,
        # named fonts would be fetched from Google
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css_paths=[path for name, path in by_name.items() if name.endswith(".css")],
        head="".join(f'<script src="{SCRIPTS}/{name}" defer></script>' for name in by_name if name.endswith(".js")),
    )  # fmt: skip
    app.add_middleware(Guard, hosts=LOOPBACK if host in LOOPBACK else None)
    return app


def picture_url(number: int, name: str) -> str:
    """Where the page finds a picture of a translation."""
    return f"{PICTURES}/{number}/{name}"


class _Server(uvicorn.Server):
    """Calls on_ready once requests are answered."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_ready()


def serve(app: FastAPI, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve until Ctrl-C or SIGTERM, and return; on_ready is called once requests are answered."""

    def interrupt(*_args: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    # pages that are open keep their connections: they must not hold up the end
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
    try:
        _Server(config, on_ready).run(sockets=[listener])
    except KeyboardInterrupt:
        pass  # uvicorn has shut down in order, and gives the signal on
    finally:
        signal.signal(signal.SIGTERM, before)
