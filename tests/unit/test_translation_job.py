"""The page's translations: one at a time, waiting for the model, interrupted, failing in words; their HTML."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from PIL import Image

from lib_negtrans.apps.panels.before_after import before_after_html
from lib_negtrans.apps.panels.translation_view import progress_html, result_html, stage_html
from lib_negtrans.jobs import translation as job
from lib_negtrans.jobs.background import FAILED, FINISHED, IDLE, STOPPED, WAITING
from lib_negtrans.jobs.workplace import LocalWorkplace
from lib_negtrans.models.protocol import HostError
from lib_negtrans.options import ParamError
from lib_negtrans.pictures.images import Picture
from lib_negtrans.translation.infotext import EMBEDDING_KEY, format_infotext, parse_infotext, settings_from_infotext
from lib_negtrans.translation.negatives import Negative
from lib_negtrans.translation.params import TranslationParams
from lib_negtrans.translation.pipeline import Progress, translate


@pytest.fixture
def workplace(shared_tiny_host, tmp_path):
    return LocalWorkplace(shared_tiny_host, tmp_path / "embeddings", tmp_path / "runs")


def request(**values) -> job.TranslationRequest:
    params = TranslationParams(**{"steps": 5, "strength": 0.4} | values)
    alpha = torch.ones(70, 100)
    alpha[:, :50] = 0
    return job.TranslationRequest(Picture(torch.rand(3, 70, 100), alpha), params)


def test_a_translation_keeps_size_alpha_and_what_was_used(workplace, monkeypatch):
    monkeypatch.setattr(job, "PREVIEW_SHARE", 0)  # every step
    runner = job.TranslationRunner(workplace)
    asked = request(negative_prompt="plastic")
    vectors = torch.randn(2, workplace.host.embedding_width)
    asked = job.TranslationRequest(asked.picture, asked.params, Negative("neg-x", vectors, 1.2), longest=80)
    runner.start(asked)
    state = runner.wait(60)
    assert (state.phase, state.error, state.size, state.fraction) == (FINISHED, None, (80, 56), 1.0)
    with Image.open(io.BytesIO(runner.picture(state.number, state.result))) as image:
        assert image.size == (80, 56) and image.mode == "RGBA"
        text = image.info["parameters"]
    prompt, negative, pairs = parse_infotext(text)
    # the embedding has its own key, as in the webui, and is not in the text a user typed
    assert (prompt, negative, pairs[EMBEDDING_KEY]) == ("", "plastic", "neg-x")
    assert runner.picture(state.number, state.preview)[:2] == b"\xff\xd8"
    assert len([name for name in runner._pictures[state.number] if name.startswith("preview")]) <= 3


def test_the_same_picture_again_does_not_invert_again(workplace):
    first, second = request(negative_prompt="plastic"), request(negative_prompt="cgi", cfg_scale=3.0)
    runner, other = job.TranslationRunner(workplace), job.TranslationRunner(workplace)

    def run(on, asked):
        on.start(replace(asked, picture=first.picture))
        state = on.wait(60)
        return state, on.picture(state.number, state.result)

    assert "from the cache" not in run(runner, first)[0].cost
    again, alone = run(runner, second), run(other, second)
    assert "from the cache" in again[0].cost and again[0].fraction == 1.0
    assert again[1] == alone[1] and again[0].infotext == alone[0].infotext


def test_it_waits_for_the_model_and_can_be_given_up_meanwhile(workplace):
    runner = job.TranslationRunner(workplace)
    with workplace.lock:
        runner.start(request())
        assert runner.snapshot().phase == WAITING
        with pytest.raises(job.RequestRefused, match="A translation is under way"):
            runner.start(request())
        assert runner.request_stop()
        assert runner.wait(20).phase == STOPPED
    assert not runner.request_stop()
    runner.start(request())
    assert runner.wait(60).phase == FINISHED
    assert not workplace.lock.locked()


def test_an_interrupt_ends_it_after_the_step(workplace, monkeypatch):
    runner = job.TranslationRunner(workplace)
    real = job.translate_image

    def stop_in_the_third_step(*args, **options):
        steps = real(*args, **options)
        for number in range(1000):
            if number == 2:
                runner.request_stop()
            yield next(steps)

    monkeypatch.setattr(job, "translate_image", stop_in_the_third_step)
    runner.start(request(step_share=1.0))
    state = runner.wait(60)
    assert (state.phase, state.step, state.result) == (STOPPED, 3, None)
    assert not workplace.lock.locked()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (HostError("the model gave NaN."), "the model gave NaN."),
        (torch.cuda.OutOfMemoryError("2 GiB"), "choose a smaller longest side"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)
def test_a_failure_is_one_sentence_and_the_next_one_runs(workplace, monkeypatch, error, says):
    runner = job.TranslationRunner(workplace)
    with monkeypatch.context() as patch:

        def fail(*_args, **_more):
            raise error

        patch.setattr(job, "translate_image", fail)
        runner.start(request())
        state = runner.wait(20)
    assert state.phase == FAILED and says in state.error
    assert says.split("'")[0] in progress_html(state)
    assert not workplace.lock.locked()
    runner.start(request())
    assert runner.wait(60).phase == FINISHED


def test_bad_parameters_are_refused_before_anything_starts(workplace):
    runner = job.TranslationRunner(workplace)
    with pytest.raises(ParamError, match="leaves no step"):
        runner.start(request(steps=1))
    assert runner.snapshot().phase == IDLE


def test_pictures_of_old_translations_are_let_go(workplace):
    runner = job.TranslationRunner(workplace)
    for _ in range(job.KEPT_JOBS + 2):
        runner.start(request(steps=3, fixed_point=0, tac_ratio=0.0))
        runner.wait(60)
    assert sorted(runner._pictures) == list(range(3, job.KEPT_JOBS + 3))


@pytest.mark.parametrize("values", [{}, {"start": "noise", "tac_ratio": 0.0}, {"cfg_scale": 1.0, "fixed_point": 0}])
def test_the_shares_of_all_steps_make_one(values):
    params = TranslationParams(**values)
    down = len(params.timesteps)
    up = 0 if params.start == "noise" else down
    steps = [Progress("inversion", i, up + down, 0) for i in range(up)]
    steps += [Progress("translation", up + i, up + down, 0) for i in range(down)]
    shares = [job._work_done(job._rows(params), step) for step in steps]
    assert shares == sorted(shares) and shares[0] > 0 and shares[-1] == pytest.approx(1)


def test_settings_come_back_from_a_picture():
    params = TranslationParams(
        prompt="a photo: one\nof two lines", negative_prompt='plastic, "shiny"', source_prompt="a, b", steps=20,
        strength=0.45, cfg_scale=3.0, seed=7, start="noise", tac_ratio=0.5, solver="ddim", fixed_point=2,
    )  # fmt: skip
    assert TranslationParams(**settings_from_infotext(format_infotext(params, (64, 64)))) == params
    # the webui writes steps, scale and strength under its own keys only
    webui = "a\nSteps: 20, CFG scale: 3, Seed: 1, Denoising strength: 0.4, NegTrans start: noise"
    settings = settings_from_infotext(webui)
    # there were no such options then
    assert [settings[name] for name in ("flat_background", "details", "guidance_limit")] == ["translate", "model", 0]
    assert [settings[name] for name in ("steps", "cfg_scale", "seed", "strength", "start")] == [20, 3, 1, 0.4, "noise"]
    for other in ("", "a cat", "a cat\nSteps: 20, Sampler: Euler a, Seed: 1"):
        assert settings_from_infotext(other) == {}
    with pytest.raises(ValueError, match="Strength must be a number"):
        settings_from_infotext("\nSteps: 20, NegTrans strength: much")


def test_html_escapes_what_comes_from_outside():
    text = before_after_html("a'b.png", "x><script>", (4, 3))
    assert "<script>" not in text and "a'b" not in text
    state = job.TranslationSnapshot(
        3, FINISHED, source="s.png", result="r.png", infotext="<script>", cost="<b>", error="<i>"
    )
    shown = progress_html(state) + result_html(state, url) + stage_html(state, url)
    assert not any(tag in shown for tag in ("<script>", "<b>", "<i>"))


def url(number: int, name: str) -> str:
    return f"/{number}/{name}"


def plain_ground() -> Picture:
    rgb = torch.full((3, 80, 96), 0.8)
    rgb[:, 20:60, 30:60] = 0.3
    return Picture(rgb, None)


def test_a_mask_is_found_or_painted_and_one_of_another_shape_is_refused(workplace):
    runner = job.TranslationRunner(workplace)
    params = replace(request().params, mask="border", background="keep")
    runner.start(job.TranslationRequest(plain_ground(), params))
    state = runner.wait(60)
    assert state.phase == FINISHED and "mask from the uniform border colour" in state.cost
    assert "NegTrans mask: border" in state.infotext

    painted = Picture(torch.ones(3, 160, 192), None)
    runner.start(job.TranslationRequest(plain_ground(), replace(params, mask="file"), mask=painted))
    assert runner.wait(60).phase == FINISHED
    runner.start(job.TranslationRequest(plain_ground(), params, mask=Picture(torch.ones(3, 96, 96), None)))
    state = runner.wait(60)
    assert state.phase == FAILED and "make both of one shape" in state.error and not workplace.lock.locked()


def test_want_of_memory_of_any_kind_is_a_sentence(workplace, monkeypatch):
    def scarce(*_args, **_more):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(job, "translate_image", scarce)
    runner = job.TranslationRunner(workplace)
    runner.start(request())
    assert "choose a smaller longest side" in runner.wait(60).error


@pytest.mark.parametrize(
    "values",
    [{"guidance": "perp", "prompt": "a photo"}, {"guidance": "perp"}, {"prompt": "a photo"}, {"cfg_scale": 1.0}],
)
def test_progress_counts_the_rows_that_are_computed(workplace, values):
    asked = request(negative_prompt="plastic", source_prompt="a render", tac_ratio=0.0, **values)
    forwards = translate(workplace.host, torch.rand(1, 3, 64, 64), asked.params).forwards
    assert sum(job._rows(asked.params)) == forwards.total
