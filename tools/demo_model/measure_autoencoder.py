"""Measures autoencoders on whole held-out pictures at their own size: ours (a training checkpoint or the exported
folder) beside the teacher and the former model.

Columns: decibels (mean over pictures), ST-LPIPS, mean and largest CIEDE2000 of the mean colours, mean absolute error
of the outer 16 pixels by that of the rest, and standard deviation and distance of the latents to TAESD's.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from autoencoder import SCALE, decode, encode, make_autoencoder
from export import load_autoencoder
from perceptual import PerceptualDistance
from pictures import Pictures
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab
from taesd import load_taesd
from torch import Tensor

Codec = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]  # pictures in [0, 1] <-> scaled latents


def ours(path: Path) -> Codec:
    """The averaged weights of a training checkpoint."""
    vae = make_autoencoder(soft=True)
    vae.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["average"])
    return lambda x: encode(vae, x * 2 - 1) * SCALE, lambda z: decode(vae, z / SCALE) / 2 + 0.5


def exported(path: Path, **changes) -> Codec:
    """The autoencoder inside a single-file checkpoint."""
    vae = load_autoencoder(path, **changes)
    return lambda x: vae.encode(x * 2 - 1).latent_dist.mean * SCALE, lambda z: vae.decode(z / SCALE).sample / 2 + 0.5


def border_ratio(error: Tensor) -> float:
    """Mean absolute error of the outer 16 pixels by that of the inside."""
    inside = error[..., 16:-16, 16:-16]
    outer = (error.sum() - inside.sum()) / (error.numel() - inside.numel())
    return (outer / inside.mean()).item()


def mean_lab(x: Tensor) -> np.ndarray:
    return rgb2lab(x[0].permute(1, 2, 0).numpy()).mean((0, 1))


@torch.no_grad()
def measure(codec: Codec, pictures: list[np.ndarray], teacher: Codec, distance, sheet: Path | None = None) -> str:
    rows = []
    for i, pixels in enumerate(pictures):
        x = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255
        z = codec[0](x)
        y = codec[1](z).clamp(0, 1)
        y = (y * 255).round() / 255
        colour = deltaE_ciede2000(mean_lab(x), mean_lab(y)).item()
        apart = (z - teacher[0](x)).square().mean().sqrt().item()
        decibels = -10 * (x - y).square().mean().log10().item()
        far = distance(x * 2 - 1, y * 2 - 1).item() if distance else float("nan")
        rows.append((decibels, far, colour, border_ratio((x - y).abs()), z.std().item(), apart))
        if sheet:
            both = torch.cat([x, y], 3)[0].permute(1, 2, 0)
            Image.fromarray((both * 255).byte().numpy()).save(f"{sheet}_{i}.png")
    means, most = np.mean(rows, 0), np.max(rows, 0)
    decibels, far, colour, border, std, apart = means
    line = f"{decibels:.2f} dB  ST-LPIPS {far:.4f}  colour {colour:.2f} (at most {most[2]:.2f})"
    return f"{line}  border {border:.2f}  latents {std:.3f}, apart {apart:.3f}"


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--data", type=Path, required=True)
    ap.add_argument("--cache", type=Path, required=True)
    ap.add_argument("--autoencoder", type=Path, help="checkpoint of train_autoencoder.py")
    ap.add_argument("--exported", type=Path, help="single-file checkpoint")
    ap.add_argument("--former", type=Path, help="the former model's single-file checkpoint")
    ap.add_argument("--teacher", action="store_true")
    ap.add_argument("--sets", default="renders512,photos")
    ap.add_argument("--count", type=int, default=6)
    ap.add_argument("--sheets", type=Path, help="folder for pictures: each beside its round trip")
    ap.add_argument("--fast", action="store_true", help="without ST-LPIPS")
    args = ap.parse_args()
    torch.set_num_threads(1)
    teacher = load_taesd(args.data)
    codecs = {"ours": ours(args.autoencoder)} if args.autoencoder else {}
    if args.exported:
        codecs["exported"] = exported(args.exported)
    if args.former:
        codecs["former"] = exported(args.former, block_out_channels=(32, 64, 64, 96))
    if args.teacher:
        codecs["TAESD"] = teacher
    distance = None if args.fast else PerceptualDistance()
    for name in args.sets.split(","):
        pictures = Pictures(args.cache, name, "eval")
        chosen = [pictures[i] for i in np.linspace(0, len(pictures) - 1, args.count).astype(int)]
        for label, codec in codecs.items():
            sheet = None
            if args.sheets:
                args.sheets.mkdir(parents=True, exist_ok=True)
                sheet = args.sheets / f"{name}_{label}"
            print(f"{name:10s} {label:8s}", measure(codec, chosen, teacher, distance, sheet), flush=True)


if __name__ == "__main__":
    main()
