"""The evaluation's numbers against slow direct formulas and identities."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("skimage", reason="scikit-image is not installed")

from lib_negtrans.evaluation import metrics
from lib_negtrans.evaluation.metrics import PhotoProbe, kid, kid_floor, masked_delta_e, masked_ssim


def features(count: int, shift: float = 0.0, seed: int = 0, width: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).normal(1.0 + shift, 1.0, (count, width)).astype(np.float32)


def slow_kid(x: np.ndarray, y: np.ndarray) -> float:
    """The definition, pair by pair (arXiv 1801.01401, section 3)."""

    def k(a, b):
        return (float(np.dot(a.astype(np.float64), b.astype(np.float64))) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    between = sum(k(a, b) for a in x for b in y) / (n * m)
    return within_x + within_y - 2 * between


def test_kid_is_the_direct_formula():
    x, y = features(7, 0.3), features(11, seed=1)
    assert kid(x, y).value == pytest.approx(slow_kid(x, y), rel=1e-9)


def test_kid_leave_one_out_is_the_formula_without_one():
    x, y = features(5, 0.3), features(6, seed=1)
    result = kid(x, y)
    for i in range(5):
        assert result.without_x[i] == pytest.approx(slow_kid(np.delete(x, i, 0), y), rel=1e-9)
    for j in range(6):
        assert result.without_y[j] == pytest.approx(slow_kid(x, np.delete(y, j, 0)), rel=1e-9)


def test_kid_of_one_distribution_is_zero_on_average():
    """Unbiased: the mean over many draws lies within three standard errors of 0 (a biased MMD of 20 does not)."""
    values = [kid(features(20, seed=2 * s), features(20, seed=2 * s + 1)).value for s in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_kid_grows_with_a_shift_beyond_its_error():
    reference = features(60, seed=9)
    results = [kid(features(50, shift), reference) for shift in (0.0, 0.2, 0.5, 1.0)]
    values = [r.value for r in results]
    assert values == sorted(values)
    assert results[2].value > 5 * results[2].error


def test_jackknife_error_is_the_spread_over_draws():
    draws = [kid(features(40, 0.3, seed=2 * s), features(60, seed=2 * s + 1)) for s in range(150)]
    assert np.mean([d.error for d in draws]) == pytest.approx(np.std([d.value for d in draws]), rel=0.2)


def test_paired_difference_is_sharper_than_both_errors():
    renders, photos = features(40, 1.0), features(60, seed=1)
    before, after = kid(renders, photos), kid(renders * 0.98, photos)
    change, error = after.minus(before)
    assert change == pytest.approx(after.value - before.value)
    assert error < 0.2 * before.error
    with pytest.raises(ValueError, match="same pictures"):
        before.minus(kid(renders[1:], photos))


@pytest.mark.parametrize("shapes", [((2, 4), (5, 4)), ((5, 4), (5, 3)), ((5,), (5, 4))])
def test_kid_refuses_what_it_cannot_measure(shapes):
    with pytest.raises(ValueError, match="at least 3"):
        kid(np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_floor_is_near_zero_and_repeats_itself():
    photos = features(120)
    mean, deviation = kid_floor(photos, 30)
    assert abs(mean) < deviation
    assert kid_floor(photos, 30) == (mean, deviation)
    assert deviation > kid_floor(photos, 60)[1], "smaller sets spread more"
    assert mean + 5 * deviation < kid(photos + 1, features(120, seed=3)).value


def picture(seed: int = 0) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).random((40, 48, 3))
    return np.clip(gaussian_filter(noise, (1, 1, 0)), 0, 1)


def test_equal_pictures_have_ssim_one_and_no_colour_difference():
    image = picture()
    assert masked_ssim(image, image) == pytest.approx(1.0)
    assert masked_delta_e(image, image) == (0.0, 0.0)


def test_only_the_mask_counts():
    image, other = picture(), picture()
    mask = np.zeros(image.shape[:2], bool)
    mask[:, :20] = True
    other[:, 32:] = 0  # further from the mask than half of SSIM's window
    assert masked_ssim(image, other, mask) == pytest.approx(1.0)
    assert masked_delta_e(image, other, mask) == (0.0, 0.0)
    assert masked_ssim(image, other, ~mask) < 0.9
    assert masked_ssim(image, other) < 0.95
    assert masked_delta_e(image, other, ~mask)[0] > 5


def test_texture_loss_lowers_ssim_and_a_tint_is_a_drift_of_colour():
    from scipy.ndimage import gaussian_filter

    image = picture()
    blurred = gaussian_filter(image, (2, 2, 0))
    assert masked_ssim(image, blurred) < 0.8
    pixels, drift = masked_delta_e(image, blurred)
    assert drift < pixels / 4
    tinted = np.clip(image * [1.0, 0.9, 0.9], 0, 1)
    pixels, drift = masked_delta_e(image, tinted)
    assert drift > 3
    assert masked_ssim(image, tinted) > 0.95


@pytest.mark.parametrize("metric", [masked_ssim, masked_delta_e])
def test_masks_and_pictures_must_fit(metric):
    image = picture()
    with pytest.raises(ValueError, match="one size"):
        metric(image, image[1:])
    for mask in (np.zeros((40, 48), bool), np.ones((40, 47), bool)):
        with pytest.raises(ValueError, match="mask"):
            metric(image, image, mask)


def test_probe_tells_photos_from_renders_it_has_not_seen():
    photos, renders = features(80, 1.0), features(30, seed=1)
    probe = PhotoProbe(photos, renders)
    assert probe.accuracy > 0.9
    assert probe.photo_share(renders) < 0.15
    assert probe.photo_share(renders + 1.0) > 0.85
    with pytest.raises(ValueError, match="30 pictures"):
        probe.photo_share(renders[1:])


def test_probe_does_not_learn_noise():
    """On two draws from one distribution a probe that had seen its figures would score far above one half."""
    scores = [PhotoProbe(features(60, seed=2 * s), features(30, seed=2 * s + 1)).accuracy for s in range(10)]
    assert 0.4 < np.mean(scores) < 0.6


def test_kid_does_not_depend_on_the_blocks_it_is_summed_in(monkeypatch):
    x, y = features(11, 0.3), features(14, seed=1)
    whole = kid(x, y)
    monkeypatch.setattr(metrics, "BLOCK", 4)
    pieces = kid(x, y)
    assert pieces.value == pytest.approx(whole.value, rel=1e-12)
    assert pieces.without_x == pytest.approx(whole.without_x, rel=1e-12)
    assert pieces.without_y == pytest.approx(whole.without_y, rel=1e-12)


@pytest.mark.parametrize("count", [15, 300])
def test_the_ridge_is_that_of_its_dual_form(count):
    """Fewer and more pictures than the 40 features."""
    photos, renders = features(count, 0.2), features(count // 2, seed=1)
    weights, centre, scale = metrics._fit_ridge(photos, renders, 0.1)
    share = np.sqrt(np.r_[np.full(count, 1 / count), np.full(count // 2, 1 / (count // 2))])
    x = (np.concatenate([photos, renders]).astype(np.float64) - centre) / scale * share[:, None]
    gram, target = x @ x.T, np.r_[np.ones(count), -np.ones(count // 2)]
    ridge = 0.1 * np.trace(gram) / len(gram)
    assert weights == pytest.approx(x.T @ np.linalg.solve(gram + ridge * np.eye(len(gram)), target * share), rel=1e-8)
