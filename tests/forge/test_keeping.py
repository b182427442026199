"""Colours, masks, backgrounds and options on Forge: what A1111's tests ask of them."""

from __future__ import annotations

from tests.webui.test_script_keeping import (  # noqa: F401
    test_a_kept_background_is_the_renders,
    test_agrees_with_the_command_line_to_two_grey_levels,
    test_axes_of_the_grid,
    test_batches_keep_each_pictures_colours,
    test_every_way_holds_the_colours_and_is_in_the_text,
    test_nothing_of_a_mask_stays_for_the_next_picture,
    test_refused_in_one_sentence,
    test_the_hosts_own_mask_bounds_the_colours_too,
    test_the_saved_file_has_it_with_its_text,
)
from tests.webui.test_script_options import (  # noqa: F401
    plain,
    test_a_grid_over_guidance,
    test_a_variants_limit_is_the_hosts_own_guidance,
    test_it_acts_and_its_picture_can_be_made_again_from_its_text,
)
