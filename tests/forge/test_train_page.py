"""Training by clicks, in Chromium on a real Forge: what A1111's tests do, in their order."""

from __future__ import annotations

from tests.webui.test_train_page import (  # noqa: F401
    messy,
    page,
    pytestmark,
    renders,
    test_check_dataset_and_name_as_typed,
    test_compare_pick_and_name,
    test_one_waits_for_another,
    test_prepare_a_messy_folder_and_check_it,
    test_start_reload_interrupt_resume,
    test_the_card_is_there_without_a_restart,
    test_to_the_end,
    test_use_in_img2img,
)
