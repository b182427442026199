"""The slider under the gallery, in Chromium on a real Forge: what A1111's tests do."""

from __future__ import annotations

from tests.webui.test_before_after import (  # noqa: F401
    page,
    source,
    test_an_interrupted_one_is_compared_as_far_as_it_came,
    test_both_lie_on_each_other_and_nothing_else_changes,
    test_it_goes_with_other_jobs_and_reload_ui_leaves_one,
    test_the_chosen_one_of_a_batch_and_another_size_than_the_render,
    test_the_inpaint_tab_has_it_and_the_sketch_tab_has_not,
)
