"""The tab's folders to measure on: they are the request's, and one that cannot be is said beside its field."""

from __future__ import annotations

import shutil

from lib_negtrans.jobs.background import FINISHED
from tests.fakehost.test_tab_train import manager, panel, renders, values  # noqa: F401, the fixtures


def started(panel, folder, validation="", validation_photos="", **changes):  # noqa: F811
    folders = [str(folder), None, "", str(validation), str(validation_photos), ""]
    return panel.start_training(
        None, *folders, "neg-a", None, False, "negative", "", *values(panel, validate_every=1, **changes)
    )[0]


def test_a_training_is_measured_on_the_folders_that_were_typed(panel, manager, renders, tmp_path):  # noqa: F811
    learnt, other = tmp_path / "measured", tmp_path / "photos"
    for folder in (learnt, other):
        shutil.copytree(renders, folder)
    assert "has started" in started(panel, renders, learnt, other, steps=1)
    state = manager.wait(120)
    assert state.phase == FINISHED, state.error
    assert (state.request["validation"], state.request["validation_photos"]) == (str(learnt), str(other))
    assert [step for step, *gains in state.validations if None not in gains] == [0, 1]


def test_a_folder_that_is_not_there_is_said_beside_its_field(panel, manager, renders):  # noqa: F811
    for field in ("validation", "validation_photos"):
        said = started(panel, renders, **{field: "/no/such"})
        assert f"data-negtrans-about='negtrans_train_{field}'" in said and "There is no folder /no/such" in said
    assert manager.snapshot().phase == "idle"
