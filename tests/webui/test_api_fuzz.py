"""The API inside a real webui: requests that nobody designed, and folders that nothing is written to."""

from __future__ import annotations

import shutil
import time

import pytest

from tests.webui.files import copy_renders

pytest.importorskip("schemathesis", reason="install requirements-test.lock")

from tests.fuzz import EXAMPLES, fuzz


@pytest.fixture(scope="module")
def renders(webui):
    folder = copy_renders(webui.data / "renders", 2)
    yield folder
    webui.post("/negtrans/v1/train/interrupt")
    while webui.get("/negtrans/v1/train").json()["busy"]:
        time.sleep(0.5)
    shutil.rmtree(folder)  # other tests make their own


def test_the_webuis_own_folders_are_no_targets(webui, renders):
    for target in ("extensions/new", "scripts/new", "models/new", "embeddings/new", "Extensions/new", "."):
        answer = webui.post("/negtrans/v1/dataset/prepare", {"source": "renders", "target": target})
        assert answer.status_code == 403 and "webui's own folders" in answer.json()["detail"], (target, answer.text)
        assert not (webui.data / target / "prepare.json").exists()


@pytest.mark.timeout(60 * EXAMPLES)
def test_no_request_breaks_the_api(webui, renders):
    statuses = fuzz(webui.url, EXAMPLES, [str(webui.data), str(webui.webui)])
    webui.post("/negtrans/v1/train/interrupt")
    print(sum(statuses.values()), dict(sorted(statuses.items())))
    assert statuses[200] > 10 and statuses[422] > 10 and not any(status >= 500 for status in statuses)
    assert webui.get("/negtrans/v1/version").ok
