"""What stands around every route of the API: the password, requests of bounded size, and answers in one form.

What cannot be done is answered with 4xx and {"detail": one sentence}. No answer names a folder of the machine: paths
begin where a caller's relative ones do.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import Depends, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic import BaseModel

from lib_negtrans.embeddings.files import EmbeddingError
from lib_negtrans.errors import shortened
from lib_negtrans.jobs.training import TrainingBusy, TrainingRefused
from lib_negtrans.options import ParamError
from lib_negtrans.preparation.build import PrepareError
from lib_negtrans.training.errors import TrainingError

MAXIMUM_BODY = 1 << 20  # bytes
MAXIMUM_READ = 1 << 26  # and thrown away, so that a client that is still sending gets its answer
REFUSED = (TrainingRefused, TrainingError, PrepareError, ParamError, EmbeddingError)
Folders = Callable[[], Sequence[Path]]

logger = logging.getLogger(__name__)


class Refusal(BaseModel):
    """Every answer with 4xx."""

    detail: str


RESPONSES: dict[int | str, dict[str, Any]] = {
    401: {"model": Refusal, "description": "without the user and password of --api-auth"},
    403: {"model": Refusal, "description": "a path outside the folders that the API may use"},
    404: {"model": Refusal, "description": "there is no such embedding"},
    409: {"model": Refusal, "description": "a job is under way, or there is none to stop"},
    413: {"model": Refusal, "description": "the request is too large"},
    422: {"model": Refusal, "description": "a value that cannot be used"},
}


def basic_auth(accounts: Sequence[tuple[str, str]]) -> Callable:
    """A dependency that lets through who knows one of the (user, password) pairs, and answers 401 to all others.

    Compared in constant time, and all accounts every time, so that nothing can be guessed by the clock.
    """

    def check(credentials: HTTPBasicCredentials = Depends(HTTPBasic())) -> None:  # noqa: B008
        given = f"{credentials.username}\0{credentials.password}".encode()
        matches = [secrets.compare_digest(given, f"{user}\0{password}".encode()) for user, password in accounts]
        if not any(matches):
            raise HTTPException(401, "Incorrect username or password", {"WWW-Authenticate": "Basic"})

    return check


def guarded(folders: Folders) -> tuple[type[APIRoute], type[JSONResponse]]:
    """Classes for the routes and their answers, which say paths below one of `folders` relative to it."""

    class Answer(JSONResponse):
        def render(self, content: Any) -> bytes:
            return super().render(_shown(content, folders()))

    class Route(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handle_guarded(request: Request) -> Response:
                try:
                    return await handle(await _bounded(request))
                except Exception as error:
                    status, text = _status(error)
                    headers = error.headers if isinstance(error, HTTPException) else None
                    raise HTTPException(status, _shown(shortened(text), folders()), headers) from error

            return handle_guarded

    return Route, Answer


def _status(error: Exception) -> tuple[int, str]:
    """An error's status and sentence."""
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        # pydantic 2 also says as what it tried a value that may be of several kinds
        place = ".".join(str(part) for part in first["loc"] if part not in ("bool", "int", "float", "str"))
        return 422, f"The request's {place} cannot be used: {first['msg']}."
    if isinstance(error, TrainingBusy):
        return 409, str(error)
    if isinstance(error, REFUSED):
        return 422, str(error)
    if isinstance(error, OSError):
        return 422, f"A file or folder cannot be used ({error.strerror}): name another one."
    logger.error("a request to the API failed", exc_info=error)
    return 500, "The server failed at this request: its console says why."


async def _bounded(request: Request) -> Request:
    """The request with its body read. Raises HTTPException for one that is too large, or not text in JSON."""
    size, content = 0, b""
    async for part in request.stream():
        size += len(part)
        if size <= MAXIMUM_BODY:
            content += part
        elif size > MAXIMUM_READ:
            break
    if size > MAXIMUM_BODY:
        raise HTTPException(413, f"The request is larger than {MAXIMUM_BODY} bytes: make it smaller.")
    if content:
        try:
            # half of a surrogate pair can be written in JSON, and is no text
            json.dumps(json.loads(content), ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            raise HTTPException(422, "The request's body is not JSON that can be used.") from None

    async def receive() -> Any:
        return {"type": "http.request", "body": content, "more_body": False}

    return Request(request.scope, receive)


def _shown(value: Any, folders: Sequence[Path]) -> Any:
    """Plain data as it is answered: paths relative, file names as text, numbers that JSON knows."""
    if isinstance(value, str):
        for folder in folders:
            below = rf"{re.escape(str(folder))}(?:{re.escape(os.sep)}|(?![\w.-]))"
            value = re.sub(below, lambda found: "" if found[0].endswith(os.sep) else ".", value)
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, Mapping):
        return {_shown(k, folders): v if k == "content" else _shown(v, folders) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(item, folders) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
