"""An object store (moto's server) that fails every twentieth request or so: `store.py ADDRESS PORT SHARE`."""

from __future__ import annotations

import random
import sys

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Failing:
    """Answers a share of the requests with "busy", some of them after the work was done."""

    def __init__(self, app, share: float) -> None:
        self.app, self.share, self.random = app, share, random.Random(0)
        self.asked = self.failed = 0

    def __call__(self, environ, start_response):
        if environ["PATH_INFO"] == "/counts":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [f"{self.failed} of {self.asked}".encode()]
        self.asked += 1
        if self.random.random() >= self.share:
            return self.app(environ, start_response)
        self.failed += 1
        if self.random.random() < 0.5:
            b"".join(self.app(environ, lambda *_answer: None))
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(BUSY)))])
        return [BUSY]


if __name__ == "__main__":
    app = Failing(DomainDispatcherApplication(create_backend_app), float(sys.argv[3]))
    run_simple(sys.argv[1], int(sys.argv[2]), app, threaded=True)
