"""From a folder of renders to pictures by clicks, in Chromium on a real Forge: what A1111's tests do."""

from tests.webui.test_journey import *  # noqa: F403
