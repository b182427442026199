"""/negtrans/v1/ on the webui's app, under the webui's own --api and --api-auth."""

from __future__ import annotations

from typing import Any

from modules import script_callbacks, shared

from lib_negtrans.apps.api import add_routes

from .registration import register_once
from .webui_workplace import allowed_roots, manager


def register() -> None:
    """Add the routes whenever the webui has a new app: at its start and after each Reload UI."""
    register_once(script_callbacks.on_app_started, add_api)


def accounts() -> list[tuple[str, str]]:
    """The (user, password) pairs of --api-auth, read as the host reads them, but for a colon in a password."""
    given = getattr(shared.cmd_opts, "api_auth", None)
    return [tuple(pair.split(":", 1)) for pair in given.split(",")] if given else []


def add_api(_demo: Any, app: Any) -> None:
    """Add the routes if the webui was started with --api (or --nowebui): who did not ask for an API gets none."""
    if not (getattr(shared.cmd_opts, "api", False) or getattr(shared.cmd_opts, "nowebui", False)):
        return
    add_routes(app, manager(), allowed_roots, accounts())
