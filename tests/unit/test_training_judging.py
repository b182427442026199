"""Validation, its verdicts, the best vectors and early stopping; none of it may disturb the training."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch

from lib_negtrans.embeddings.files import read_embedding
from lib_negtrans.training.checkpoint import newest_intact
from lib_negtrans.training.data.captions import load_captions
from lib_negtrans.training.data.dataset import DatasetReport, Entry
from lib_negtrans.training.data.latents import Dataset, Encoded
from lib_negtrans.training.data.sets import Folders, split
from lib_negtrans.training.events import Judged, Notice, StepDone, Validated
from lib_negtrans.training.judging.validation import TIMESTEPS, Gain, Measurement, Validation, gain
from lib_negtrans.training.judging.verdict import (
    CONTENT,
    DIVERGING,
    LEARNING,
    NO_EFFECT,
    SETTLED,
    Validations,
    verdict,
    verdict_without_validation,
)
from lib_negtrans.training.kinds.negative import NegativeEmbedding
from lib_negtrans.training.state import HistoryRow
from tests.unit.test_training_negative import NAME, Run, make_pictures, of, quick


def dataset(count, seed=0, digests=None):
    generator = torch.Generator().manual_seed(seed)
    digests = digests or [f"{seed}-{i}" for i in range(count)]
    entries = [Entry(f"{i}.png", (64, 64), False, f"coat {i}", True, digests[i]) for i in range(count)]
    latents = [torch.randn(4, 8, 8, generator=generator) for _ in range(count)]
    kept = [[Encoded(latent, torch.zeros_like(latent))] for latent in latents]
    return Dataset(DatasetReport(None, 64, entries), [(8, 8)] * count, kept)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("data")
    folders = Folders(make_pictures(base / "renders"), base / "photos", base / "held")
    for folder, start in ((folders.photos, 10), (folders.validation, 20)):
        make_pictures(folder, 2, start)
    return folders


def small(**values):
    return quick(**({"steps": 6, "batch_size": 1, "accumulation": 1, "lr": "5e-2"} | values))


def test_validation_leaves_the_training_as_it_was(tmp_path, host, folders):
    plain, validated = (Run(tmp_path / name, host, folders) for name in ("plain", "validated"))
    plain.finish(small())
    torch.manual_seed(3)
    before = torch.get_rng_state()
    validated.finish(small(validate_every=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(read_embedding(plain.out).vectors, read_embedding(validated.out).vectors)
    assert plain.results[1] == validated.results[1], "the loss CSV too"


def test_events_say_what_was_measured(tmp_path, host, folders):
    run = Run(tmp_path, host, folders)
    events = of(run.finish(small(validate_every=4)), Validated)
    assert [event.step for event in events] == [0, 4, 6], "and at the end, whose verdict is the last that is seen"
    for event in events:
        assert event.gap == pytest.approx(event.gain - event.other_gain)
        assert len(event.norms) == len(event.nearest) == 2 and 0 < event.gain_error < math.inf
        json.dumps(event.to_dict())
        assert "\n" not in str(event) and event.text in str(event)
    assert events[0].nearest == ["style", "style"], "the start is the initialisation text"
    assert len({event.loss for event in events}) == 3
    best = max(events, key=lambda event: event.gap)
    assert best.best and [e.best for e in events if e.gap > best.gap] == []


def test_with_and_without_differ_by_the_vectors_alone(host):
    measured = []
    for _ in range(2):
        validation = Validation(
            host,
            quick(),
            load_captions("filewords"),
            NegativeEmbedding(host, quick(), NAME),
            {"renders": dataset(3), "photos": dataset(2, seed=1)},
        )
        vectors = host.token_vectors("style coat")
        measured.append(validation.measure(vectors))
    assert measured[0] == measured[1], "the noise is fixed"
    # a trigger that says what the caption without it says: "coat 0," + nothing
    assert abs(measured[0].own.value) > 0
    other = validation.measure(vectors * 2)
    assert other.own.loss != measured[0].own.loss
    assert (1 - other.own.value) / other.own.loss == pytest.approx(
        (1 - measured[0].own.value) / measured[0].own.loss
    ), "the loss without them is the same"


def test_timesteps_of_validation_span_the_trained_range(host):
    validation = Validation(
        host,
        quick(batch_size=3),
        load_captions("name"),
        NegativeEmbedding(host, quick(), NAME),
        {"renders": dataset(5)},
    )
    times = torch.cat([batch.rows.timesteps for batch in validation.kinds["renders"]])
    assert len(times) == 5 * TIMESTEPS and 0 <= times.min() < 75 and 225 < times.max() <= 300
    assert all(len(batch.rows.captions) <= 4 for batch in validation.kinds["renders"])
    assert {c for b in validation.kinds["renders"] for c in b.without} == {""}


def test_gain_is_a_share_with_its_error():
    pictures = [p for p in range(8) for _ in range(2)]
    without = torch.full((16,), 2.0)
    found = gain(without - 0.2, without, pictures)
    assert found.loss == pytest.approx(1.8) and found.value == pytest.approx(0.1) and found.error == pytest.approx(0)
    noise = torch.tensor([0.1, -0.1] * 4).repeat_interleave(2)
    assert gain(without - 0.2 + noise, without, pictures).error == pytest.approx(0.1 * (8 / 7) ** 0.5 / 8**0.5 / 2)


@pytest.mark.parametrize(("holdout", "held"), [(0.1, 2), (0.25, 5), (3, 3), (1, 1), (500, 10)])
def test_split_by_share_or_number(holdout, held):
    data = dataset(20)
    kept, spared = split(data, holdout, seed=0)
    assert len(spared) == held and len(kept) == 20 - held
    names = [{entry.path for entry in part.report.entries} for part in (kept, spared)]
    assert not names[0] & names[1] and len(names[0] | names[1]) == 20


def test_split_keeps_copies_together_and_is_stable():
    digests = [str(i // 2) for i in range(20)]  # every picture twice
    kept, spared = split(dataset(20, digests=digests), 4, seed=0)
    parts = [{entry.digest for entry in part.report.entries} for part in (kept, spared)]
    assert not parts[0] & parts[1] and len(spared) == 8
    grown = split(dataset(22, digests=[*digests, "new", "new"]), 4, seed=0)[1]
    assert len({entry.digest for entry in grown.report.entries} & parts[1]) >= 3
    assert split(dataset(3), 0.5, 0)[1] is None and split(dataset(20), 0.0, 0)[1] is None


def test_few_pictures_are_measured_on_and_it_is_said(tmp_path, host, folders):
    run = Run(tmp_path, host, folders.renders)
    events = run.finish(small(validate_every=6))
    assert any("too few renders" in str(e) for e in of(events, Notice))
    assert of(events, Validated)[0].gap is None


def best_of(values):
    """A judge that has seen these gains."""
    judge = Validations()
    for step, value in enumerate(values):
        judge.record(step, measurement(value), torch.full((1, 2), float(step)))
    return judge


def vectors_of(usual):
    return SimpleNamespace(noun="vectors", domain="renders", usual_size=usual)


def measurement(renders, photos=None, error=0.01):
    return Measurement(Gain(1.0, renders, error), None if photos is None else Gain(1.0, photos, error))


VERDICTS = [
    ([0.0, 0.001], None, 1.0, NO_EFFECT, "as well without"),
    ([0.0, 0.05], None, 1.0, LEARNING, "5.0 % better"),
    (
        [0.05],
        None,
        1.0,
        NO_EFFECT,
        "With the initialisation text, the model predicts held-out renders 5.0 % better than without it.",
    ),
    ([-0.05], None, 1.0, NO_EFFECT, "renders 5.0 % worse than without it."),
    ([0.0, 0.05], 0.0, 1.0, LEARNING, "photos 0.0 % worse"),
    ([0.0, 0.05], 0.045, 1.0, CONTENT, "what both show"),
    ([0.0, 0.05, -0.2], None, 1.0, DIVERGING, "20.0 % worse"),
    ([0.05, 0.9, 0.5, 0.5, 0.5], None, 1.0, SETTLED, "best was step 1"),
    ([0.0, 0.05], None, 40.0, DIVERGING, "40 times as long as real tokens"),
    ([0.0, math.nan], None, 1.0, DIVERGING, "Diverging"),
]


@pytest.mark.parametrize(("values", "photos", "norm", "kind", "says"), VERDICTS)
def test_verdicts(values, photos, norm, kind, says):
    said = verdict(len(values) - 1, measurement(values[-1], photos), best_of(values), norm, vectors_of(1.0))
    assert said.kind == kind and says in said.text


def history(losses, norm=0.4):
    return [HistoryRow(i, loss, 0.1, 0.1, norm, 0.1) for i, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("losses", "norm", "kind"),
    [
        ([1.0 + 0.1 * (i % 3) for i in range(60)], 0.4, NO_EFFECT),
        ([1.0 + 0.1 * (i % 3) - 0.01 * i for i in range(60)], 0.4, LEARNING),
        ([1.0 + 0.1 * (i % 3) + 0.01 * i for i in range(60)], 0.4, DIVERGING),
        ([1.0] * 60, 40.0, DIVERGING),
    ],
)
def test_verdicts_from_the_losses_alone(losses, norm, kind):
    assert verdict_without_validation(history(losses, norm), vectors_of(0.4)).kind == kind
    assert verdict_without_validation(history(losses[:30], norm), vectors_of(0.4)) is None


def test_a_change_of_verdict_is_an_event(tmp_path, host, folders):
    events = of(Run(tmp_path, host, folders.renders).finish(small(steps=40, save_every=100)), Judged)
    assert [e.step for e in events] == [40] and events[0].text in str(events[0])


def test_the_judge_keeps_the_best():
    judge = best_of([0.1, 0.3, 0.2, 0.25])
    assert judge.best_step == 1 and judge.best_weights.tolist() == [[1.0, 1.0]]
    assert judge.since_best == 2 and judge.exhausted(2) and not judge.exhausted(3) and not judge.exhausted(0)
    other = Validations()
    other.load_state_dict(judge.state_dict())
    assert other.state_dict() == judge.state_dict()


def gains(*values):
    """A stand-in for Validation.measure that finds these gains, one after the other; then the last for ever."""
    left = list(values)

    def measure(self, vectors):
        return measurement(left.pop(0) if len(left) > 1 else left[0])

    return measure


def test_early_stop_gives_the_best(tmp_path, host, folders, monkeypatch):
    run = Run(tmp_path, host, folders)
    params = small(validate_every=1, patience=2, result="best", steps=50)
    kept = {}
    monkeypatch.setattr(Validation, "measure", gains(0.1, 0.2, 0.5, 0.4, 0.3, 0.2))
    job = run.job(params)
    events = []
    for event in job.run():
        events.append(event)
        if isinstance(event, StepDone):
            kept[event.step] = job.weights
    assert [e.step for e in of(events, StepDone)] == [1, 2, 3, 4]
    assert any("stopped early; the best was step 2" in str(e) for e in of(events, Notice))
    assert events[-1].step == 4
    written = read_embedding(run.out)
    assert written.step == 2 and torch.equal(written.vectors, kept[2])
    best = read_embedding(run.folder / "run" / "best" / f"{NAME}.pt")
    assert torch.equal(best.vectors, kept[2]) and best.step == 2
    # a resume finds it done, also when only the embedding got lost
    run.out.unlink()
    for _ in range(2):
        events = run.finish(params, resume=True)
        assert not of(events, StepDone) and events[-1].step == 4
        assert torch.equal(read_embedding(run.out).vectors, kept[2])
    assert newest_intact(run.folder / "run")[0]["step"] == 4


def test_a_kill_before_a_validation_is_made_up_for(tmp_path, host, folders):
    """Closed right after a step, before the validation that is due: the resumed run has all validations."""
    whole, closed = (Run(tmp_path / name, host, folders) for name in ("whole", "closed"))
    params = small(validate_every=2, steps=4)
    whole.finish(params)
    running = closed.job(params).run()
    for event in running:
        if isinstance(event, StepDone) and event.step == 2:
            break
    running.close()
    closed.finish(params, resume=True)
    assert closed.results == whole.results
    judges = [newest_intact(run.folder / "run")[0]["parts"]["judge"] for run in (whole, closed)]
    assert judges[0]["values"] == judges[1]["values"] and len(judges[0]["values"]) == 3
