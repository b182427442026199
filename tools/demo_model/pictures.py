"""The training pictures, decoded once into a flat file of bytes, and random crops of them at their own resolution.

`python pictures.py --data DATA --cache CACHE` writes CACHE/SET_SPLIT.bytes and .json for the sets `photos`,
`renders512` (single garments on floors) and `renders` (figures in a studio), splits `train` and `eval`.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SHRUNK, SHRUNK_SHARE = 0.64, 0.4  # 256 of a photograph's 400 pixels: whole garments are judged at that scale
NOT_SHRUNK = 256  # pictures whose shorter side is no longer than this
SETS = {"photos": "*.jpg", "renders512": "fl_*.jpg", "renders": "mh_*.png"}


def cache_set(data: Path, cache: Path, name: str, split: str) -> None:
    """Writes one set's pictures as bytes, height x width x 3 each, sides cut to a multiple of 8."""
    target = cache / f"{name}_{split}.json"
    if target.exists():
        return
    index, offset = [], 0
    with (cache / f"{name}_{split}.bytes").open("wb") as f:
        for path in sorted((data / name / split).glob(SETS[name])):
            pixels = np.asarray(Image.open(path).convert("RGB"))
            h, w = pixels.shape[0] // 8 * 8, pixels.shape[1] // 8 * 8
            f.write(np.ascontiguousarray(pixels[:h, :w]).tobytes())
            index.append({"name": path.stem, "offset": offset, "height": h, "width": w})
            offset += h * w * 3
    target.write_text(json.dumps(index))


def resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture (h, w, 3) as (height, width, 3), uint8."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.array(image.resize((width, height), Image.Resampling.LANCZOS))


class Pictures:
    """One cached set: `len`, `[i]` -> uint8 array (h, w, 3), `crop` -> a random crop."""

    def __init__(self, cache: Path, name: str, split: str):
        self.index = json.loads((cache / f"{name}_{split}.json").read_text())
        self.bytes = np.memmap(cache / f"{name}_{split}.bytes", np.uint8, mode="r")

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> np.ndarray:
        item = self.index[i]
        h, w = item["height"], item["width"]
        return self.bytes[item["offset"] : item["offset"] + h * w * 3].reshape(h, w, 3)

    def crop(self, height: int, width: int, rng: random.Random) -> np.ndarray:
        """A crop of a random picture, mirrored half of the time, mostly on the 8 pixel grid of JPEG and the latents; a
        SHRUNK_SHARE of the crops are of shrunk pictures."""
        pixels = self[rng.randrange(len(self))]
        if rng.random() < SHRUNK_SHARE and min(pixels.shape[:2]) > NOT_SHRUNK:
            h, w = round(height / SHRUNK), round(width / SHRUNK)
            y, x = rng.randint(0, pixels.shape[0] - h), rng.randint(0, pixels.shape[1] - w)
            pixels = resized(pixels[y : y + h, x : x + w], height, width)
        step = 8 if rng.random() < 0.7 else 1
        y = rng.randint(0, (pixels.shape[0] - height) // step) * step
        x = rng.randint(0, (pixels.shape[1] - width) // step) * step
        out = pixels[y : y + height, x : x + width]
        return out[:, ::-1] if rng.random() < 0.5 else out


class Mixture:
    """Batches of crops from several training sets, each set with its share of the crops."""

    def __init__(self, cache: Path, shares: dict[str, float]):
        self.sets = [Pictures(cache, name, "train") for name in shares]
        self.shares = list(shares.values())

    def batch(self, n: int, height: int, width: int, rng: random.Random) -> torch.Tensor:
        """n crops as (n, 3, height, width) in [-1, 1]."""
        chosen = rng.choices(self.sets, self.shares, k=n)
        crops = np.stack([s.crop(height, width, rng) for s in chosen])
        return torch.from_numpy(crops).permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--data", type=Path, required=True)
    ap.add_argument("--cache", type=Path, required=True)
    args = ap.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    for name in SETS:
        for split in ("eval", "train"):
            cache_set(args.data, args.cache, name, split)
            print(name, split, flush=True)


if __name__ == "__main__":
    main()
