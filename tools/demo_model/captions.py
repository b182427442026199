"""What is said of each picture: garment, colour, pattern, background, and the domain.

The garment of a photograph is its data set's class; that of a render is guessed by a linear classifier of the
photographs' EfficientNet-Lite0 features, and left open where it is unsure. Colours and patterns are measured.
`python captions.py --data DATA --cache CACHE` writes CACHE/words_SET_SPLIT.json beside the pictures of pictures.py.
"""

import argparse
import json
import random
import sys
from pathlib import Path

import numpy as np
import torch
from pictures import SETS, Pictures
from PIL import Image
from scipy.ndimage import binary_erosion, gaussian_filter
from skimage.color import rgb2lab

sys.path.insert(0, str(Path(__file__).parents[2]))
from lib_negtrans.pictures.feature_network import Lite0

CLASS_WORDS = {"t": "t-shirt", "longsleeve": "long sleeve top", "outwear": "jacket"}
PALETTE = {
    "black": (25, 25, 28),
    "white": (232, 232, 230),
    "grey": (130, 130, 130),
    "red": (190, 35, 40),
    "orange": (225, 120, 40),
    "yellow": (230, 205, 70),
    "green": (70, 135, 70),
    "blue": (60, 105, 180),
    "navy": (35, 42, 75),
    "purple": (130, 85, 160),
    "pink": (225, 120, 175),
    "brown": (100, 70, 50),
    "beige": (205, 180, 150),
}
PALETTE_LAB = rgb2lab(np.array([list(PALETTE.values())], dtype=np.float64) / 255)[0]
NO_ARTICLE = ("clothes", "pants", "shorts", "shoes")


def colour_word(lab: np.ndarray) -> str:
    """The palette's word nearest to most of the pixels (n, 3)."""
    near = np.linalg.norm(lab[:, None] - PALETTE_LAB[None], axis=-1).argmin(1)
    return list(PALETTE)[np.bincount(near, minlength=len(PALETTE)).argmax()]


def pattern_word(lab: np.ndarray, mask: np.ndarray) -> str:
    """`plain`, `striped` or `patterned` where the detail inside the mask says so clearly, else nothing."""
    inner = binary_erosion(mask, iterations=3)
    if inner.sum() < 200:
        return ""
    weight = gaussian_filter(mask.astype(np.float64), 4) + 1e-3
    smooth = np.stack([gaussian_filter(lab[..., c] * mask, 4) / weight for c in range(3)], -1)
    energy = np.sqrt(((lab - smooth)[inner] ** 2).sum(-1).mean())
    if energy < 4:
        return "plain"
    if energy < 8:
        return ""
    gy, gx = np.gradient(gaussian_filter(lab[..., 0], 0.7))
    jxx, jyy, jxy = (gx * gx)[inner].mean(), (gy * gy)[inner].mean(), (gx * gy)[inner].mean()
    coherence = np.hypot(jxx - jyy, 2 * jxy) / (jxx + jyy + 1e-6)
    return "striped" if coherence > 0.55 else "patterned"


def describe(pixels: np.ndarray, mask: np.ndarray | None) -> dict[str, str]:
    """Measured on the picture shrunk to a short side of 128. Without a mask the garment is taken to be in the middle
    and the background at the margin."""
    k = 128 / min(pixels.shape[:2])
    size = (round(pixels.shape[1] * k), round(pixels.shape[0] * k))
    lab = rgb2lab(np.asarray(Image.fromarray(np.asarray(pixels)).resize(size, Image.LANCZOS)))
    h, w = lab.shape[:2]
    if mask is None:
        inside = np.zeros((h, w), bool)
        inside[int(h * 0.3) : int(h * 0.7), int(w * 0.3) : int(w * 0.7)] = True
        outside = np.ones((h, w), bool)
        outside[h // 10 : -h // 10, w // 10 : -w // 10] = False
    else:
        inside = np.asarray(Image.fromarray(mask).resize(size)) > 127
        outside = ~inside
    return {
        "colour": colour_word(lab[inside]),
        "pattern": pattern_word(lab, inside),
        "background": colour_word(lab[outside]),
    }


def features(pictures: Pictures) -> torch.Tensor:
    """EfficientNet-Lite0 features (n, 1280) of the pictures shrunk to 128 x 128."""
    net, out = Lite0(), []
    for i in range(len(pictures)):
        x = np.array(Image.fromarray(np.asarray(pictures[i])).resize((128, 128), Image.LANCZOS))
        out.append(net(torch.from_numpy(x).permute(2, 0, 1)[None] / 255))
    return torch.from_numpy(np.concatenate(out))


def fit_garments(x: torch.Tensor, labels: list[str]):
    """A logistic regression: features -> (words, probabilities)."""
    words = sorted(set(labels))
    y = torch.tensor([words.index(label) for label in labels])
    mean, std = x.mean(0), x.std(0) + 1e-3
    layer = torch.nn.Linear(x.shape[1], len(words))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=3e-3, weight_decay=0.3)
    for _ in range(200):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer((x - mean) / std), y).backward()
        optimizer.step()
    return words, lambda v: layer((v - mean) / std).softmax(-1).detach()


def caption(words: dict, domain: str, rng: random.Random, full: bool = False) -> str:
    """One caption; parts are left out at random unless `full`. Domain `photo` or `render`."""

    def keep(share: float) -> bool:
        return full or rng.random() < share

    prefix = "a photo" if domain == "photo" else "a 3d render"
    garment = words["garment"] if words["garment"] and keep(0.75) else "clothes"
    parts = [words[k] for k in ("pattern", "colour") if words[k] and keep(0.7)]
    article = "" if garment in NO_ARTICLE else "a "
    body = " of " + article + " ".join([*parts, garment])
    if words.get("worn"):
        body = " of a person in " + " ".join([*parts, "clothes"])
    elif not keep(0.9):
        return prefix
    return prefix + body + (f" on a {words['background']} background" if keep(0.5) else "")


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--data", type=Path, required=True)
    ap.add_argument("--cache", type=Path, required=True)
    args = ap.parse_args()
    torch.set_num_threads(1)
    known = Pictures(args.cache, "photos", "train")
    labels = [item["name"].split("_")[0] for item in known.index]
    garments, guess = fit_garments(features(known), [CLASS_WORDS.get(label, label) for label in labels])
    for name in SETS:
        for split in ("eval", "train"):
            target = args.cache / f"words_{name}_{split}.json"
            if target.exists():
                continue
            pictures, out = Pictures(args.cache, name, split), []
            found = guess(features(pictures)) if name == "renders512" else None
            for i, item in enumerate(pictures.index):
                mask = None
                if name != "photos":
                    file = f"mask_{item['name'].removeprefix('mh_')}.png"
                    mask = np.asarray(Image.open(args.data / name / split / file).convert("L"))
                words = describe(pictures[i], mask)
                label = item["name"].split("_")[0]
                words["garment"] = CLASS_WORDS.get(label, label) if name == "photos" else ""
                if found is not None and found[i].max() > 0.6:
                    words["garment"] = garments[int(found[i].argmax())]
                words["worn"] = name == "renders"
                out.append(words)
            target.write_text(json.dumps(out))
            print(
                name,
                split,
                caption(out[0], "photo" if name == "photos" else "render", random.Random(0), True),
                flush=True,
            )


if __name__ == "__main__":
    main()
