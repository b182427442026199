"""KID and its standard error, SSIM and CIEDE2000 inside a mask, a photo-or-render probe: numpy in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK = 1024  # pictures a side of what is in memory of a kernel: that of 100,000 would take 80 GB


@dataclass(frozen=True)
class Kid:
    """An unbiased KID, unscaled, and its leave-one-out values: without_x (n,), without_y (m,). It can lie below 0."""

    value: float
    without_x: np.ndarray
    without_y: np.ndarray

    @property
    def error(self) -> float:
        """Standard error by the two-sample jackknife: what other renders and other photos would change."""
        return _jackknife(self.without_x, self.without_y)

    @property
    def pair(self) -> tuple[float, float]:
        """Value and standard error."""
        return self.value, self.error

    def minus(self, other: Kid) -> tuple[float, float]:
        """Difference to a KID of the same renders (translated otherwise) to the same photos, and its paired error.

        Most of the spread is common to both and cancels, so this tells configurations apart where the errors overlap.
        """
        if self.without_x.shape != other.without_x.shape or self.without_y.shape != other.without_y.shape:
            raise ValueError("a paired difference needs the same pictures on both sides.")
        error = _jackknife(self.without_x - other.without_x, self.without_y - other.without_y)
        return self.value - other.value, error


def _jackknife(*replicates: np.ndarray) -> float:
    return float(np.sqrt(sum((len(r) - 1) / len(r) * ((r - r.mean()) ** 2).sum() for r in replicates)))


def polynomial_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """KID's kernel (x.y / d + 1)^3: (n, d), (m, d) -> (n, m) float64."""
    return (x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1) ** 3


def kid(x: np.ndarray, y: np.ndarray) -> Kid:
    """Kernel Inception Distance (arXiv 1801.01401): the unbiased squared MMD between features (n, d) and (m, d).

    Over the whole sets, not over subsets of 1000: the sets here are small. Raises ValueError below 3 rows a side.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 3:
        raise ValueError(f"KID needs two sets of at least 3 equally wide features, not {x.shape} and {y.shape}.")
    return _kid(_kernel_sums(x)[0], _kernel_sums(y)[0], *_kernel_sums(x, y))


def _kernel_sums(x: np.ndarray, other: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the kernel's rows (n,) and columns (m,), block by block; without other, of x with the rest of x."""
    y = x if other is None else other
    rows, columns = np.zeros(len(x)), np.zeros(len(y))
    for i in range(0, len(x), BLOCK):
        for j in range(0, len(y), BLOCK):
            block = polynomial_kernel(x[i : i + BLOCK], y[j : j + BLOCK])
            if other is None and i == j:
                np.fill_diagonal(block, 0)
            rows[i : i + BLOCK] += block.sum(1)
            columns[j : j + BLOCK] += block.sum(0)
    return rows, columns


def _kid(rows_x: np.ndarray, rows_y: np.ndarray, rows_xy: np.ndarray, columns_xy: np.ndarray) -> Kid:
    """From sums over each picture's kernel with the others of its set (n,), (m,), and with the other set (n,), (m,)."""
    n, m = len(rows_x), len(rows_y)
    sum_x, sum_y, sum_xy = rows_x.sum(), rows_y.sum(), rows_xy.sum()

    def mmd(within_x, n, within_y, m, between):
        return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * between / (n * m)

    return Kid(
        float(mmd(sum_x, n, sum_y, m, sum_xy)),
        mmd(sum_x - 2 * rows_x, n - 1, sum_y, m, sum_xy - rows_xy),
        mmd(sum_x, n, sum_y - 2 * rows_y, m - 1, sum_xy - columns_xy),
    )


def kid_floor(photos: np.ndarray, count: int | None = None) -> tuple[float, float]:
    """KID between disjoint random parts of one set (m, d): mean and deviation over 50 splits.

    count: size of the one part, as many as there are renders; by default, and at most, half. Below mean + 2 deviations
    two sets cannot be told apart. Raises ValueError below 6 rows.
    """
    if len(photos) < 6:
        raise ValueError(f"the floor needs at least 6 photos, not {len(photos)}.")
    half = len(photos) // 2
    count = max(3, min(count or half, half))
    kernel, rng = polynomial_kernel(photos, photos), np.random.default_rng(0)
    np.fill_diagonal(kernel, 0)
    values = []
    for _ in range(50):
        order = rng.permutation(len(photos))
        a, b = order[:count], order[count:]
        within_a, within_b, between = kernel[np.ix_(a, a)], kernel[np.ix_(b, b)], kernel[np.ix_(a, b)]
        values.append(_kid(within_a.sum(1), within_b.sum(1), between.sum(1), between.sum(0)).value)
    return float(np.mean(values)), float(np.std(values))


def _check_pair(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    if a.shape != b.shape or a.ndim != 3 or a.shape[2] != 3:
        raise ValueError(f"two pictures of one size (H, W, 3) are needed, not {a.shape} and {b.shape}.")
    mask = np.ones(a.shape[:2], bool) if mask is None else mask.astype(bool)
    if mask.shape != a.shape[:2] or not mask.any():
        raise ValueError("the mask must be of the pictures' size and not empty.")
    return mask


def masked_ssim(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean SSIM (Wang et al. 2004: Gaussian window of sigma 1.5) of the luminance of two pictures inside a mask.

    a, b (H, W, 3) in [0, 1], at least 11 a side; mask (H, W) bool or None. Raises ValueError for other shapes.
    """
    from skimage.color import rgb2gray
    from skimage.metrics import structural_similarity

    mask = _check_pair(a, b, mask)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    _, values = structural_similarity(rgb2gray(a), rgb2gray(b), full=True, **settings)
    return float(values[mask].mean())


def masked_delta_e(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> tuple[float, float]:
    """CIEDE2000 of two pictures inside a mask: mean over pixels, and between the two mean colours (the colour's drift).

    a, b (H, W, 3) sRGB in [0, 1]; mask (H, W) bool or None. About 1 is just noticeable. ValueError for other shapes.
    """
    from skimage.color import deltaE_ciede2000, rgb2lab

    mask = _check_pair(a, b, mask)
    lab_a, lab_b = rgb2lab(a)[mask], rgb2lab(b)[mask]
    return float(deltaE_ciede2000(lab_a, lab_b).mean()), float(deltaE_ciede2000(lab_a.mean(0), lab_b.mean(0)))


class PhotoProbe:
    """A ridge classifier on features, photo or render, that is never asked about a figure it was fitted on.

    photos (m, d); renders (n, d): the untranslated ones. Folds divide the renders; both classes weigh the same.
    """

    def __init__(self, photos: np.ndarray, renders: np.ndarray):
        rng, folds = np.random.default_rng(0), 5
        self.fold = rng.permutation(len(renders)) % folds
        photo_fold = rng.permutation(len(photos)) % folds
        models, right = [], []
        for k in range(folds):
            photo_rows, render_rows = photos[photo_fold != k], renders[self.fold != k]
            models.append(_fit_ridge(photo_rows, render_rows, 0.1))
            right.append(_score(models[-1], photos[photo_fold == k]) > 0)
        self.models = models
        self.accuracy = float((np.concatenate(right).mean() + 1 - self.photo_share(renders)) / 2)

    def photo_share(self, translated: np.ndarray) -> float:
        """Share in [0, 1] of pictures (n, d), in the order of the renders, that it takes for photos."""
        if len(translated) != len(self.fold):
            raise ValueError(f"{len(self.fold)} pictures are needed, in the renders' order, not {len(translated)}.")
        scores = np.concatenate([_score(m, translated[self.fold == k]) for k, m in enumerate(self.models)])
        return float((scores > 0).mean())


def _fit_ridge(photos: np.ndarray, renders: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    centre = (photos.mean(0) + renders.mean(0)) / 2
    both = np.concatenate([photos, renders])
    scale = both.std(0) + 1e-6
    x = both.astype(np.float64)
    x -= centre
    x /= scale
    target = np.r_[np.ones(len(photos)), -np.ones(len(renders))]
    weight = np.sqrt(np.r_[np.full(len(photos), 1 / len(photos)), np.full(len(renders), 1 / len(renders))])
    x *= weight[:, None]
    gram = x.T @ x  # features x features: of any number of pictures
    gram[np.diag_indices_from(gram)] += ridge * np.trace(gram) / len(x)
    return np.linalg.solve(gram, x.T @ (target * weight)), centre, scale


def _score(model: tuple[np.ndarray, np.ndarray, np.ndarray], x: np.ndarray) -> np.ndarray:
    weights, centre, scale = model
    return (x - centre) / scale @ weights
