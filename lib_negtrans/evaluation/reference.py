"""KID without the photographs: their features come with the project as numbers (assets/photo_features.npz)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lib_negtrans.pictures.feature_network import SIZE, WIDTH

PHOTO_FEATURES = Path(__file__).resolve().parents[2] / "assets" / "photo_features.npz"


def load_photo_features(path: Path = PHOTO_FEATURES) -> np.ndarray:
    """Lite0 features (M, 1280) float32 of the centre squares of 200 CC0 photographs of garments, at 128 px.

    Made by tools/photo_features.py. Raises FileNotFoundError, or ValueError for a file that holds something else.
    """
    with np.load(path, allow_pickle=False) as file:
        if "features" not in file or file["features"].ndim != 2 or file["features"].shape[1] != WIDTH:
            raise ValueError(f"{path} holds no Lite0 features: make it again with tools/photo_features.py.")
        if int(file["size"]) != SIZE:
            raise ValueError(f"{path} was made at {int(file['size'])} px instead of {SIZE}: make it again.")
        return file["features"].astype(np.float32)
