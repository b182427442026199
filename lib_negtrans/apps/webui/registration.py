"""What the extension puts into the webui, as a list of steps; `scripts/negtrans.py` calls `register_all`.

"Reload UI" runs `scripts/*.py` again but keeps this module (HOST.md fact 1): registering is therefore a call, may come
any number of times, and is undone when the scripts are unloaded. A new part of the extension adds one line to `STEPS`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from importlib import import_module

from modules import errors, script_callbacks

logger = logging.getLogger(__name__)

# module -> its function `register()`, which may return a function that undoes what no callback list undoes
STEPS = (
    "lib_negtrans.apps.webui.settings",
    "lib_negtrans.apps.webui.always_on",
    "lib_negtrans.apps.webui.train_tab",
    "lib_negtrans.apps.webui.cards",
    "lib_negtrans.apps.webui.api_mount",
    "lib_negtrans.apps.webui.xyz",
    "lib_negtrans.apps.webui.trajectories",
)
_undo: list[Callable[[], None]] = []


def register_once(add: Callable[..., None], callback: Callable) -> None:
    """`add` is one of `script_callbacks.on_...`; a callback that is there already is not added again."""
    script_callbacks.remove_callbacks_for_function(callback)
    add(callback)


def register_all() -> None:
    """Register every part with the webui; again after an unload, or on top of itself, with the same result.

    A part that fails is reported and the others go on: a webui of another version must still start.
    """
    # the host inspects the whole stack at each callback, and is slow about the frame of a script, which is in no
    # sys.modules: 0.1 s of processor each, ten times what it takes on a thread's short stack
    thread = threading.Thread(target=_register_steps, name="negtrans-registration")
    thread.start()
    thread.join()


def _register_steps() -> None:
    unregister_all()
    for name in STEPS:
        try:
            undo = import_module(name).register()
        except Exception:
            errors.report(f"negtrans: {name.rpartition('.')[2]} could not be registered", exc_info=True)
            continue
        if undo is not None:
            _undo.append(undo)
    register_once(script_callbacks.on_script_unloaded, unregister_all)


def unregister_all() -> None:
    """Undo what the steps asked to be undone; the webui itself forgets its callbacks."""
    while _undo:
        try:
            _undo.pop()()
        except Exception:
            logger.exception("negtrans: could not undo a registration")
