"""Latents, pixels and captions the demonstration model is trained on.

`python tools/demo_model/data.py --data DIR --out LATENTS` encodes DIR/photos/train and DIR/renders/train (and,
as held-out shards that no training reads, DIR/*/eval) into shards `NAME.pt`. A shard is a list of dicts: domain,
name, label, colour, pattern, pixels (uint8 CHW) and latent (float16, already times 0.18215). The first shards are
the ones training needs first: it may start while later shards are still being written.
"""

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.color import rgb2lab
from torch import nn

SCALE = 0.18215
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


class TaesdBlock(nn.Module):
    """Residual block of TAESD: three 3x3 convolutions and a rectified sum."""

    def __init__(self, width: int = 64):
        super().__init__()
        conv = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(conv[0], nn.ReLU(), conv[1], nn.ReLU(), conv[2])

    def forward(self, x):
        return torch.relu(self.conv(x) + x)


class Clamp(nn.Module):
    def forward(self, x):
        return torch.tanh(x / 3) * 3


def taesd(data: Path) -> tuple[nn.Module, nn.Module]:
    """The teacher: images in [0, 1] <-> SD1 latents already times 0.18215 (MIT, Ollin Boer Bohan)."""
    from safetensors.torch import load_file

    def conv(i, o, **kw):
        return nn.Conv2d(i, o, 3, padding=1, **kw)

    enc = [conv(3, 64), TaesdBlock()]
    for _ in range(3):
        enc += [conv(64, 64, stride=2, bias=False), TaesdBlock(), TaesdBlock(), TaesdBlock()]
    encoder = nn.Sequential(*enc, conv(64, 4))
    dec = [Clamp(), conv(4, 64), nn.ReLU()]
    for _ in range(3):
        dec += [TaesdBlock(), TaesdBlock(), TaesdBlock(), nn.Upsample(scale_factor=2), conv(64, 64, bias=False)]
    decoder = nn.Sequential(*dec, TaesdBlock(), conv(64, 3))
    encoder.load_state_dict(load_file(data / "taesd" / "taesd_encoder.safetensors"))
    decoder.load_state_dict(load_file(data / "taesd" / "taesd_decoder.safetensors"))
    return encoder.eval().requires_grad_(False), decoder.eval().requires_grad_(False)


def describe(pixels: np.ndarray, mask: np.ndarray) -> tuple[str, str]:
    """Dominant colour word and, where statistics are clear, a pattern word, of the masked pixels."""
    from scipy.ndimage import binary_erosion, gaussian_filter

    if mask.sum() < 64:
        return "", ""
    lab = rgb2lab(pixels)
    near = np.linalg.norm(lab[mask][:, None] - PALETTE_LAB[None], axis=-1).argmin(1)
    colour = list(PALETTE)[np.bincount(near, minlength=len(PALETTE)).argmax()]
    weight = gaussian_filter(mask.astype(np.float64), 4) + 1e-3
    inner = binary_erosion(mask, iterations=3)
    if inner.sum() < 200:
        return colour, ""
    smooth = np.stack([gaussian_filter(lab[..., c] * mask, 4) / weight for c in range(3)], -1)
    detail = (lab - smooth)[inner]
    energy = np.sqrt((detail**2).sum(-1).mean())
    gy, gx = np.gradient(gaussian_filter(lab[..., 0], 0.7))
    jxx, jyy, jxy = (gx * gx)[inner].mean(), (gy * gy)[inner].mean(), (gx * gy)[inner].mean()
    coherence = np.hypot(jxx - jyy, 2 * jxy) / (jxx + jyy + 1e-6)
    if energy < 4.0:
        return colour, "plain"
    if energy > 8.0:
        return colour, "striped" if coherence > 0.55 else "patterned"
    return colour, ""


def caption(item: dict, rng: random.Random, domain: str | None = None, full: bool = False) -> str:
    """One caption naming domain, garment, colour and pattern; parts are dropped at random unless `full`."""
    domain = item["domain"] if domain is None else domain
    prefix = "a photo of" if domain == "photo" else "a 3d render of"
    words = [item[key] if full or rng.random() < 0.7 else "" for key in ("pattern", "colour")]
    label = item["label"] if full or rng.random() < 0.8 else "clothes"
    body = " ".join([w for w in words if w] + [label])
    article = "" if label in ("clothes", "pants", "shorts", "shoes") else "a "
    if label == "person":
        body = "a person in " + " ".join([w for w in words if w] + ["clothes"])
        article = ""
    if not full and rng.random() < 0.1:
        body, article = "", ""
        prefix = "a photo" if domain == "photo" else "a 3d render"
    return f"{prefix} {article}{body}".strip()


def bounding_box(mask: np.ndarray, rng: random.Random, jitter: float = 0.0) -> tuple[int, int, int, int]:
    """Square box around the mask inside the picture, its centre and side moved by `jitter`."""
    ys, xs = np.nonzero(mask)
    h, w = mask.shape
    side = max(np.ptp(ys), np.ptp(xs)) + 9
    side = int(min(side * (1 + rng.uniform(-0.45, 0.1) * jitter), h, w))
    cy = (ys.min() + ys.max()) / 2 + rng.uniform(-0.15, 0.15) * side * jitter
    cx = (xs.min() + xs.max()) / 2 + rng.uniform(-0.15, 0.15) * side * jitter
    y0 = int(min(max(cy - side / 2, 0), h - side))
    x0 = int(min(max(cx - side / 2, 0), w - side))
    return x0, y0, x0 + side, y0 + side


def photo_item(path: Path, short: int, flip: bool) -> dict:
    image = Image.open(path).convert("RGB")
    k = short / min(image.size)
    size = [max(round(n * k / 8) * 8, short) for n in image.size]
    size = [min(n, short * 2) for n in size]
    pixels = np.asarray(image.resize(size, Image.LANCZOS))
    mask = np.zeros(pixels.shape[:2], bool)
    h, w = mask.shape
    mask[int(h * 0.3) : int(h * 0.7), int(w * 0.3) : int(w * 0.7)] = True
    colour, pattern = describe(pixels, mask)
    label = path.stem.split("_")[0]
    label = CLASS_WORDS.get(label, label)
    return _item("photo", path.stem, label, colour, pattern, pixels, flip)


def render_item(path: Path, size: int, flip: bool, crop: bool, jitter: float, rng: random.Random) -> dict:
    image = Image.open(path).convert("RGB")
    mask_image = Image.open(path.with_name(path.name.replace("mh_", "mask_"))).convert("L")
    mask = np.asarray(mask_image) > 127
    colour, pattern = describe(np.asarray(image), mask)
    if crop:
        image = image.crop(bounding_box(mask, rng, jitter))
    pixels = np.asarray(image.resize((size, size), Image.LANCZOS) if image.size != (size, size) else image)
    return _item("render", path.stem, "clothes" if crop else "person", colour, pattern, pixels, flip)


def _item(domain, name, label, colour, pattern, pixels, flip) -> dict:
    if flip:
        pixels = pixels[:, ::-1]
    pixels = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return {"domain": domain, "name": name, "label": label, "colour": colour, "pattern": pattern, "pixels": pixels}


# name, domain, split, share of the files, arguments; in the order in which training wants them
SHARDS = [
    ("eval_photos128", "photo", "eval", 1.0, {"short": 128, "flip": False}),
    ("eval_renders128", "render", "eval", 1.0, {"size": 128, "flip": False, "crop": True, "jitter": 0.0}),
    ("renders_crop128", "render", "train", 1.0, {"size": 128, "flip": False, "crop": True, "jitter": 0.0}),
    ("photos128", "photo", "train", 1.0, {"short": 128, "flip": False}),
    ("renders_crop128f", "render", "train", 1.0, {"size": 128, "flip": True, "crop": True, "jitter": 1.0}),
    ("renders_crop192", "render", "train", 1.0, {"size": 192, "flip": False, "crop": True, "jitter": 0.3}),
    ("photos192f", "photo", "train", 1.0, {"short": 192, "flip": True}),
    ("renders256", "render", "train", 1.0, {"size": 256, "flip": False, "crop": False, "jitter": 0.0}),
    ("renders_crop192f", "render", "train", 1.0, {"size": 192, "flip": True, "crop": True, "jitter": 1.0}),
    ("photos256", "photo", "train", 0.25, {"short": 256, "flip": False}),
    ("renders256f", "render", "train", 1.0, {"size": 256, "flip": True, "crop": False, "jitter": 0.0}),
    ("photos128f", "photo", "train", 1.0, {"short": 128, "flip": True}),
]


def build(data: Path, shard: tuple) -> list[dict]:
    """Pictures of one shard, without latents."""
    name, domain, split, share, kw = shard
    folder = data / ("photos" if domain == "photo" else "renders") / split
    paths = sorted(folder.glob("*.jpg" if domain == "photo" else "mh_*.png"))
    rng = random.Random(name)
    paths = [p for p in paths if share == 1 or rng.random() < share]
    if domain == "photo":
        return [photo_item(p, **kw) for p in paths]
    return [render_item(p, rng=rng, **kw) for p in paths]


@torch.no_grad()
def encode_items(items: list[dict], encode, pixel_budget: int = 16 * 128 * 128) -> None:
    """Adds item['latent']; pictures of one shape go through `encode` together."""
    by_shape: dict = {}
    for item in items:
        by_shape.setdefault(tuple(item["pixels"].shape), []).append(item)
    for shape, group in by_shape.items():
        n = max(1, pixel_budget // (shape[1] * shape[2]))
        for i in range(0, len(group), n):
            chunk = group[i : i + n]
            latents = encode(torch.stack([it["pixels"] for it in chunk]).float() / 255)
            for item, latent in zip(chunk, latents, strict=False):
                item["latent"] = latent.half().clone()


def load_shards(folder: Path, held_out: bool = False) -> list[dict]:
    items = []
    for path in sorted(folder.glob("*.pt")):
        if path.stem.startswith("eval_") == held_out:
            items += torch.load(path, weights_only=True)
    return items


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--data", type=Path, required=True)
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--vae", type=Path, help="checkpoint of train_vae.py; default the TAESD teacher")
    ap.add_argument("--pixels-from", type=Path, help="folder of shards whose pictures are encoded again")
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--part", default="0/1", help="encode every n-th shard only, as I/N")
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.vae:
        from train_vae import load_vae

        vae = load_vae(args.vae)

        def encode(x):
            return vae.encode(x * 2 - 1).latent_dist.mean * SCALE
    else:
        encode = taesd(args.data)[0]
    part, parts = map(int, args.part.split("/"))
    for shard in SHARDS[part::parts]:
        path = args.out / f"{shard[0]}.pt"
        if path.exists():
            continue
        start = time.time()
        source = args.pixels_from / path.name if args.pixels_from else None
        items = torch.load(source, weights_only=True) if source and source.exists() else build(args.data, shard)
        built = time.time()
        encode_items(items, encode)
        torch.save(items, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
        cost = f"built in {built - start:.0f} s, encoded in {time.time() - built:.0f} s"
        print(f"{path.name}: {len(items)} pictures, {cost}", flush=True)


if __name__ == "__main__":
    main()
