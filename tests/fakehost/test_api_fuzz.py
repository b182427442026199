"""Requests that nobody designed: none gives a 500, a traceback, a folder of the machine or an answer without end."""

from __future__ import annotations

import pytest

fastapi = pytest.importorskip("fastapi", reason="fastapi comes with the webui and the page's environment")
pytest.importorskip("schemathesis", reason="install requirements-test.lock")

from lib_negtrans.apps.api import add_routes  # noqa: E402
from lib_negtrans.jobs.background import STOPPED  # noqa: E402
from lib_negtrans.jobs.training import TrainingManager, TrainingRequest  # noqa: E402
from lib_negtrans.jobs.workplace import LocalWorkplace  # noqa: E402
from lib_negtrans.training.params import TrainingParams  # noqa: E402
from tests.fakehost.api_server import Server  # noqa: E402
from tests.fuzz import EXAMPLES, fuzz  # noqa: E402
from tests.unit.test_training_lora import make_photos  # noqa: E402


class Checks(TrainingManager):
    """Says what it says of a request, and trains nothing."""

    def _work(self, request):
        self._end(STOPPED)


@pytest.mark.timeout(20 * EXAMPLES)
def test_no_request_breaks_the_api(shared_tiny_host, tmp_path):
    renders = make_photos(tmp_path / "renders", 2)
    workplace = LocalWorkplace(shared_tiny_host, tmp_path / "embeddings", tmp_path / "runs")
    trained = TrainingManager(workplace)
    params = TrainingParams(steps=2, vectors=1, accumulation=1, size=64, preview_every=0)
    trained.start(TrainingRequest("neg-run", renders, params))
    assert trained.wait(60).phase == "finished"  # a run to go on with
    app = fastapi.FastAPI()
    add_routes(app, Checks(workplace), lambda: [tmp_path.resolve()], closed=lambda path: path.name == "x")
    with Server(app) as server:
        statuses = fuzz(f"http://127.0.0.1:{server.port}", EXAMPLES, [str(tmp_path)])
    print(sum(statuses.values()), dict(sorted(statuses.items())))
    assert statuses[200] > 10 and statuses[422] > 10 and not any(status >= 500 for status in statuses)
