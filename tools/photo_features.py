"""Make assets/photo_features.npz: `python tools/photo_features.py PHOTOS [OUT]`.

PHOTOS: the 200 photographs of clothing-dataset-small's validation split (CC0-1.0, Alexey Grigorev and contributors).
Only numbers are kept: 1280 Lite0 features of each centre square at 128 px, as float16.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib_negtrans.evaluation.crops import load_photos
from lib_negtrans.evaluation.reference import PHOTO_FEATURES
from lib_negtrans.pictures.feature_network import SIZE, Lite0
from lib_negtrans.pictures.tree import image_files


def main(arguments: list[str]) -> int:
    if len(arguments) not in (1, 2):
        print(__doc__)
        return 2
    out = Path(arguments[1]) if len(arguments) == 2 else PHOTO_FEATURES
    files = image_files(Path(arguments[0]))
    features = Lite0()(load_photos(files, SIZE)).astype(np.float16)
    np.savez_compressed(
        out,
        features=features,
        size=SIZE,
        source="centre squares of clothing-dataset-small, validation split (CC0-1.0); EfficientNet-Lite0",
    )
    print(f"{out}: {features.shape}, {out.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
