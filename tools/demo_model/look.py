"""A sheet to look at: garment crops of held-out renders, inverted and sampled with a caption as negative.

Independent of lib_negtrans on purpose: an ascending inversion with one fixed-point iteration, and attention control in
the self-attention layers of at least a quarter of the latent's positions. Rows: render, autoencoder's round trip,
reconstruction (empty negative), negative caption, negative caption with attention control.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from data import SCALE, SHARDS, build
from export import load
from model import alphas_cumprod
from PIL import Image

GRID = [1 + 20 * i for i in range(15)]


def phi(z, eps, a_from, a_to):
    return a_to.sqrt() * (z - (1 - a_from).sqrt() * eps) / a_from.sqrt() + (1 - a_to).sqrt() * eps


class Control:
    """Records queries and keys of the shallow self-attention layers, or puts the recorded ones into the second half."""

    def __init__(self, unet, positions: int):
        self.store, self.mode, self.positions = {}, None, positions
        for name, module in unet.named_modules():
            if name.endswith(("attn1.to_q", "attn1.to_k")):
                module.register_forward_hook(self.hook(name))

    def hook(self, name):
        def run(module, args, out):
            if out.shape[1] * 4 < self.positions or self.mode is None:
                return None
            if self.mode == "record":
                self.store[name] = out
                return None
            half = len(out) // 2
            return torch.cat([out[:half], self.store[name]])

        return run


@torch.no_grad()
def translate(unet, z, empty, negative, control, guidance: float, tac: bool):
    """Inversion to t = 281 under the empty caption and back with guidance away from `negative`."""
    bars = alphas_cumprod()
    alphas = [bars[0]] + [bars[t] for t in GRID]
    kept = []
    context = empty.expand(len(z), -1, -1)
    for i, t in enumerate(GRID):
        eps = unet(z, GRID[max(i - 1, 0)], context).sample
        up = phi(z, eps, alphas[i], alphas[i + 1])
        control.mode, control.store = "record", {}
        z = phi(z, unet(up, t, context).sample, alphas[i], alphas[i + 1])
        kept.append(control.store)
        control.mode = None
    both = torch.cat([negative.expand(len(z), -1, -1), context])
    for i in reversed(range(len(GRID))):
        control.mode = "inject" if tac and i >= 2 else None
        control.store = kept[i]
        away, eps = unet(torch.cat([z, z]), GRID[i], both).sample.chunk(2)
        z = phi(z, away + guidance * (eps - away), alphas[i + 1], alphas[i])
    control.mode = None
    return z


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--model", type=Path, default=Path("assets/demo"))
    ap.add_argument("--data", type=Path, required=True)
    ap.add_argument("--out", type=Path, required=True, help="PNG")
    ap.add_argument("--count", type=int, default=10)
    ap.add_argument("--size", type=int, default=128, help="256: whole renders")
    ap.add_argument("--negative", default="a 3d render of clothes")
    ap.add_argument("--guidance", type=float, default=7.5)
    ap.add_argument("--zoom", type=int, default=1)
    args = ap.parse_args()
    torch.set_num_threads(1)
    unet, text, vae, tokenizer = load(args.model)
    ids = tokenizer(["", args.negative], padding="max_length", return_tensors="pt").input_ids
    empty, negative = text(ids)[0].chunk(2)
    shard = (*SHARDS[1][:4], {"size": args.size, "flip": False, "crop": args.size < 256, "jitter": 0.0})
    items = build(args.data, shard)
    items = items[:: len(items) // args.count][: args.count]
    x = torch.stack([i["pixels"] for i in items]).float() / 127.5 - 1
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mean * SCALE
    control = Control(unet, z.shape[2] * z.shape[3])
    rows = [x]
    latents = [z, translate(unet, z, empty, empty, control, args.guidance, False)]
    latents += [translate(unet, z, empty, negative, control, args.guidance, tac) for tac in (False, True)]
    for name, y in zip(("reconstruction", "negative", "negative, TAC"), latents[1:], strict=True):
        print(f"{name}: latent RMSE to the render's {(y - z).square().mean().sqrt():.4f} (std {z.std():.3f})")
    with torch.no_grad():
        rows += [vae.decode(y / SCALE).sample for y in latents]
    sheet = torch.cat([torch.cat(list(row), 2) for row in rows], 1).clamp(-1, 1)
    picture = Image.fromarray(((sheet + 1) * 127.5).round().byte().permute(1, 2, 0).numpy().astype(np.uint8))
    picture.resize([n * args.zoom for n in picture.size], Image.NEAREST).save(args.out)


if __name__ == "__main__":
    main()
