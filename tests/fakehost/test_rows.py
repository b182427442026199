"""Which rows of the host's UNet calls get which source's attention, in every way the host splits them."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import nn

from lib_negtrans.apps.webui.a1111.source_rows import row_denoiser
from lib_negtrans.core.attention import AttentionShapeError


class Recorder:
    """An attention control that writes down what it was told."""

    def __init__(self):
        self.calls = []

    @contextmanager
    def inject(self, features, rows, strengths=None):
        self.calls.append(list(rows))
        self.strengths = strengths
        yield


class Denoiser(nn.Module):
    inner_model = None

    def forward(self, latent, timestep, cond=None):
        self.cond = cond
        return latent + timestep.view(-1, 1)


class CfgDenoiser(nn.Module):
    """As the host's: model_wrap is what is called."""

    def __init__(self):
        super().__init__()
        self.model_wrap = Denoiser()

    @property
    def inner_model(self):
        return self.model_wrap


def told(sizes, conds_per_image, source_of, **options):
    """The rows announced for UNet calls of these sizes; None for a call without any."""
    cfg, recorder = CfgDenoiser(), Recorder()
    with row_denoiser(cfg, recorder) as rows, rows.prediction({}, conds_per_image, source_of, **options):
        for size in sizes:
            cfg.inner_model(torch.zeros(size, 1), torch.zeros(size), cond={})
    return recorder.calls


def test_one_call():
    assert told([4], [1, 1], [0, 1]) == [[0, 1, -1, -1]]


def test_batch_cond_uncond_off():
    assert told([2, 2], [1, 1], [0, 1]) == [[0, 1]]  # the second call is all uncond


def test_prompts_of_different_length():
    assert told([1, 1], [1], [0]) == [[0]]
    assert told([2, 2, 2], [2, 2], [0, 1]) == [[0, 0], [1, 1]]


def test_and_with_a_mixed_slice():
    """Two conds of image 0 and one of image 1, in slices of two: the second slice is half uncond."""
    assert told([2, 2, 1], [2, 1], [0, 1]) == [[0, 0], [1, -1]]


def test_equal_pictures_share_a_source():
    assert told([5], [2, 1], [0, 0]) == [[0, 0, 0, -1, -1]]


def test_uncond_skipped():
    assert told([2], [1, 1], [0, 1]) == [[0, 1]]


@pytest.mark.parametrize("sizes", [[3], [1], [2, 2, 2], []])
def test_other_calls_are_refused_in_words(sizes):
    with pytest.raises(AttentionShapeError, match="another extension"):
        told(sizes, [1, 1], [0, 1])


def test_without_features_nothing_is_told_or_counted():
    cfg, recorder = CfgDenoiser(), Recorder()
    with row_denoiser(cfg, recorder) as rows, rows.prediction(None, [1], [0]):
        out = cfg.inner_model(torch.zeros(7, 1), torch.ones(7))
    assert out.sum() == 7 and recorder.calls == []


def test_the_denoiser_is_put_back_after_an_error():
    cfg = CfgDenoiser()
    before = cfg.model_wrap
    with pytest.raises(RuntimeError, match="boom"), row_denoiser(cfg, Recorder()):
        assert cfg.model_wrap is not before
        raise RuntimeError("boom")
    assert cfg.model_wrap is before


def test_both_halves():
    assert told([5], [2, 1], [0, 1], both_halves=True) == [[0, 0, 1, 0, 1]]
    assert told([3, 2], [2, 1], [0, 1], both_halves=True) == [[0, 0, 1], [0, 1]]


def extra_call(sizes, conds_per_image, source_of, features=(), mark=0):
    """Host calls of these sizes, rows numbered in order, then one with a context of one's own."""
    cfg, recorder = CfgDenoiser(), Recorder()
    strengths = {"IN01": 0.5}
    options = {"strengths": strengths, "keep_inputs": True}
    with row_denoiser(cfg, recorder) as rows, rows.prediction(features, conds_per_image, source_of, **options):
        start = 0
        for size in sizes:
            latent = torch.arange(start, start + size).float()[:, None]
            cond = {"c_concat": [latent * 2], "c_crossattn": [torch.full((size, 154 + mark, 8), 1024.0)]}
            cfg.inner_model(latent, torch.full((size,), 100.0), cond=cond)
            start += size
        found = rows.with_context(torch.zeros(1, 77, 8))
        given = rows.denoiser.cond
    count = sizes[0] if mark else len(source_of)  # ControlNet's hint has the host's batch size
    assert given["c_concat"][0][: len(source_of)].tolist() == (found - 100).mul(2).tolist()
    assert given["c_concat"][0].shape[0] == count and given["c_crossattn"][0].shape == (count, 77 + mark, 8)
    assert (given["c_crossattn"][0][:, :mark] == 1024).all() and not given["c_crossattn"][0][:, mark:].any()
    if features is not None:
        assert recorder.strengths is strengths
    return (found - 100)[:, 0].tolist(), recorder.calls


@pytest.mark.parametrize("sizes", [[5], [2, 2, 1], [3, 2]])
def test_one_more_call_has_each_images_first_row(sizes):
    found, calls = extra_call(sizes, [2, 1], [0, 1])
    assert found == [0.0, 2.0]
    assert calls[-1] == [0, 1]


def test_one_more_call_without_attention_control():
    assert extra_call([3], [1, 1], [0, 0], features=None) == ([0.0, 1.0], [])


def test_one_more_call_under_controlnet_has_its_mark_and_as_many_rows():
    found, calls = extra_call([4], [1, 1], [0, 1], mark=1)
    assert found == [0.0, 1.0] and calls[-1] == [0, 1, 0, 1]


def test_one_more_call_is_refused_where_the_hosts_calls_were_others():
    with pytest.raises(AttentionShapeError, match="Guidance to cfg"):
        extra_call([], [1], [0], features=None)
