"""By clicks, in Chromium on a real Forge: what A1111's tests do."""

from __future__ import annotations

from tests.webui.test_script_page import (  # noqa: F401
    page,
    test_a_preset_by_clicks_is_the_apis_picture_and_plain_ones_stay_as_they_are,
    test_panel_picture_and_back_from_its_text,
    test_reload_ui_twice_leaves_one_of_everything,
)
