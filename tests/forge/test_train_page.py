"""Training by clicks, in Chromium on a real Forge: A1111's tests, in their order."""

from tests.webui.test_train_page import *  # noqa: F403
