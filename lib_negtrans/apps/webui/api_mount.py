"""/negtrans/v1/ on the webui's app, under the webui's own --api and --api-auth."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from modules import script_callbacks, shared
from modules.paths_internal import data_path, script_path

from lib_negtrans.apps.api import add_routes

from .registration import register_once
from .webui_workplace import allowed_roots, manager

# whatever lies in them the webui runs, loads or serves, or another extension does
OWN_FOLDERS = {
    "cache", "config_states", "configs", "embeddings", "extensions", "extensions-builtin", "html", "javascript",
    "localizations", "models", "modules", "repositories", "scripts", "test", "textual_inversion_templates", "tmp",
    "venv",
}  # fmt: skip


def register() -> None:
    """Add the routes whenever the webui has a new app: at its start and after each Reload UI."""
    register_once(script_callbacks.on_app_started, add_api)


def accounts() -> list[tuple[str, str]]:
    """The (user, password) pairs of --api-auth, read as the host reads them, but for a colon in a password."""
    given = getattr(shared.cmd_opts, "api_auth", None)
    return [tuple(pair.split(":", 1)) for pair in given.split(",")] if given else []


def is_webuis_own(path: Path) -> bool:
    """Whether a real path is the webui's folder, or in one of those that it keeps programs, models and settings in."""
    for root in (data_path, script_path):
        root = Path(os.path.realpath(root))
        if path.is_relative_to(root):
            first = path.relative_to(root).parts[:1]
            return not first or first[0].casefold() in OWN_FOLDERS or first[0].startswith(".")
    return path.is_relative_to(os.path.realpath(shared.cmd_opts.embeddings_dir))


def add_api(_demo: Any, app: Any) -> None:
    """Add the routes if the webui was started with --api (or --nowebui): who did not ask for an API gets none."""
    if not (getattr(shared.cmd_opts, "api", False) or getattr(shared.cmd_opts, "nowebui", False)):
        return
    add_routes(app, manager(), allowed_roots, accounts(), is_webuis_own)
