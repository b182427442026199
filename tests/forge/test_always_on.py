"""The script beside the others on Forge: what A1111's tests ask of it."""

from __future__ import annotations

from tests.webui.test_always_on import (  # noqa: F401
    always_on,
    before,
    test_a_grid_by_clicks_and_a_cell_of_it_back_from_its_text,
    test_a_grid_over_our_axis_and_the_hosts_is_the_single_pictures,
    test_a_grid_over_the_hosts_own_axis_says_what_it_is_of,
    test_a_pictures_text_switches_it_on_whichever_way_it_was_made,
    test_the_dropdowns_bytes_over_the_api,
)
