"""Requests to the API that nobody designed, made by schemathesis from the API's own description."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from lib_negtrans.apps.api import PREFIX
from lib_negtrans.preparation.params import PrepareParams
from lib_negtrans.training.params import TrainingParams

EXAMPLES = int(os.environ.get("NEGTRANS_FUZZ_EXAMPLES", "15"))  # to each route
MAXIMUM_ANSWER = 1 << 20  # bytes
OPTIONS = sorted({*TrainingParams.options(), *PrepareParams.options()})
SCALARS = st.one_of(st.booleans(), st.integers(), st.floats(), st.text(), st.just("x" * 20_000), st.just("\0"))
# what a made-up request has next to no chance to hit, by field: put into some of the requests
KNOWN = {
    "name": st.sampled_from(["neg-fuzz", "neg-run"]),
    "images": st.sampled_from(["renders", "renders/../renders", "x" * 300, "/etc"]),
    "source": st.just("renders"),
    "target": st.sampled_from(["prepared", "renders/in", "extensions/x"]),
    "preset": st.just("quick"),
    "preview_image": st.sampled_from(["renders", "no.png", "\0"]),
    "aspect": st.just("buckets"),
    "pattern": st.sampled_from(["", "[", "**"]),
    "params": st.dictionaries(st.sampled_from(OPTIONS), SCALARS, max_size=3),
}


def fuzz(url: str, examples: int, hidden: Sequence[str]) -> Counter[int]:
    """Up to `examples` requests to each route below `url`; how often each status was answered.

    hidden: folders that no answer may name. Raises AssertionError or a schemathesis failure for a bad answer.
    """
    statuses: Counter[int] = Counter()
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json").include(path_regex=f"^{PREFIX}/")
    for result in schema.get_all_operations():
        operation = result.ok()
        cases = st.one_of(*(operation.as_strategy(mode) for mode in GenerationMode))

        @settings(
            max_examples=examples, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=cases, known=st.fixed_dictionaries({}, optional=KNOWN))
        def check(case, known):
            if isinstance(case.body, dict):
                case.body |= {field: value for field, value in known.items() if field in case.body}
            answer = case.call(base_url=url, timeout=60)
            statuses[answer.status_code] += 1
            case.validate_response(
                answer, checks=[not_a_server_error, content_type_conformance, response_schema_conformance]
            )
            assert len(answer.content) < MAXIMUM_ANSWER
            said = json.dumps(answer.json(), ensure_ascii=False)
            assert not any(text in said for text in ("Traceback", 'File "', *hidden)), said
            if answer.status_code >= 400:
                assert len(answer.json()["detail"]) < 600, said
            if case.path.endswith("/train") and case.method == "POST" and answer.status_code == 200:
                case.operation.schema[f"{PREFIX}/train/interrupt"]["POST"].Case().call(base_url=url)

        check()
    return statuses
