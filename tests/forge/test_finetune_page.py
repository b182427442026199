"""The tab "Finetune on Photos" by clicks, in Chromium on a real Forge: A1111's tests, in their order."""

from tests.webui.test_finetune_page import *  # noqa: F403
