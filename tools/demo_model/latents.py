"""Latents of whole pictures, with their words, in shards that the UNet's training may read while more are written.

Photographs and renders alternate, each picture once at its own resolution and once shrunk to SHRUNK of it, mirrored.
A shard LATENTS/SPLIT_NNN.pt is a list of dicts: domain, words (captions.py), latent (float16 (4, h/8, w/8), already
times 0.18215).
"""

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
from autoencoder import SCALE, encode, make_autoencoder
from export import load_autoencoder
from pictures import NOT_SHRUNK, SETS, SHRUNK, Pictures, resized
from training import save


def plan(cache: Path, split: str) -> list[tuple[str, int, bool, bool]]:
    """(set, index, mirrored, shrunk) in the order of encoding: shuffled, the smaller sets of renders early and evenly,
    shrunk pictures beside the others from a fifth on."""
    jobs = []
    for name in SETS:
        pictures = Pictures(cache, name, split)
        order = list(range(len(pictures)))
        random.Random(name).shuffle(order)
        early = 1.0 if name == "photos" else 0.2  # where in the whole this set's last picture comes
        for place, i in enumerate(order):
            mirrored = split == "train" and i % 2 == 1
            jobs.append((place / len(order) * early, name, i, mirrored, False))
            if split == "train":
                jobs.append((0.2 + place / len(order) * early * 0.8, name, i, not mirrored, True))
    return [job[1:] for job in sorted(jobs)]


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--cache", type=Path, required=True)
    ap.add_argument("--autoencoder", type=Path, required=True, help="a training's checkpoint, or an exported model")
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--shard", type=int, default=200)
    ap.add_argument("--seconds", type=float, default=1e9, help="stop after the shard during which they are over")
    ap.add_argument("--device", default="cpu")
    args = ap.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.autoencoder.suffix == ".safetensors":
        vae = load_autoencoder(args.autoencoder)
    else:
        vae = make_autoencoder(soft=True)
        vae.load_state_dict(torch.load(args.autoencoder, map_location="cpu", weights_only=True)["average"])
    vae.to(args.device).requires_grad_(False)
    start = time.monotonic()
    for split in ("eval", "train"):
        pictures = {name: Pictures(args.cache, name, split) for name in SETS}
        words = {name: json.loads((args.cache / f"words_{name}_{split}.json").read_text()) for name in SETS}
        jobs = plan(args.cache, split)
        if split == "eval":
            jobs = jobs[: args.shard]
        for number in range(0, len(jobs), args.shard):
            path = args.out / f"{split}_{number // args.shard:03d}.pt"
            if path.exists():
                continue
            if time.monotonic() - start > args.seconds:
                return
            items = []
            for name, i, mirrored, shrunk in jobs[number : number + args.shard]:
                pixels = np.array(pictures[name][i][:, ::-1] if mirrored else pictures[name][i])
                if shrunk and min(pixels.shape[:2]) > NOT_SHRUNK:
                    pixels = resized(pixels, *(round(side * SHRUNK) // 8 * 8 for side in pixels.shape[:2]))
                x = torch.from_numpy(pixels).to(args.device).permute(2, 0, 1)[None].float() / 127.5 - 1
                latent = (encode(vae, x)[0] * SCALE).half().cpu()
                domain = "photo" if name == "photos" else "render"
                items.append({"domain": domain, "words": words[name][i], "latent": latent})
            save(items, path)
            print(f"{path.name}: {len(items)} pictures, {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
