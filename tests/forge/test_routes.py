"""Forge beside itself without this extension: what A1111's tests compare."""

from tests.webui.test_routes import *  # noqa: F403
