"""Trains the UNet and the text encoder together on the latents of latents.py.

Mostly crops of 16x16 latents; for the last part of the hours also 32x32 and 64x48, so that attention over thousands of
positions is known. The empty caption means a photograph (30 % of them have it, 2 % of the renders), as in SD1, few of
whose pictures are renders: with equal shares it says nothing, and a negative has no effect.
"""

import argparse
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from captions import caption
from model import CLIP, Tokens, alphas_cumprod, load_tokenizer, make_text_encoder, make_unet
from torch import Tensor, nn
from training import Average, Clock, muon, save

RANGES = [(0, 100), (100, 200), (200, 300), (300, 600), (600, 1000)]
WORN_SHARE = 0.25  # of the figures drawn that are taken: garments on floors are what is judged
EMPTY = {"photo": 0.3, "render": 0.02}


class Latents:
    """Both domains' items, read again when new shards have appeared."""

    def __init__(self, folder: Path, split: str = "train"):
        self.folder, self.split, self.count, self.items = folder, split, 0, {}
        self.refresh()

    def refresh(self) -> None:
        paths = sorted(self.folder.glob(f"{self.split}_*.pt"))
        for path in paths[self.count :]:
            for item in torch.load(path, weights_only=True):
                self.items.setdefault(item["domain"], []).append(item)
        if len(paths) != self.count:
            print(", ".join(f"{len(v)} {k}s" for k, v in self.items.items()), flush=True)
        self.count = len(paths)

    def batch(self, n: int, height: int, width: int, rng: random.Random) -> tuple[Tensor, list[str]]:
        """Crops (n, 4, height, width), more of them from the middle, domains in turn, with a caption each."""
        latents, captions = [], []
        while len(latents) < n:
            domain = "photo" if (len(latents) + (n == 1) * rng.randint(0, 1)) % 2 else "render"
            item = rng.choice(self.items[domain])
            h, w = item["latent"].shape[1:]
            if h < height or w < width or (item["words"]["worn"] and rng.random() > WORN_SHARE):
                continue
            y, x = (round((rng.random() + rng.random()) / 2 * room) for room in (h - height, w - width))
            latents.append(item["latent"][:, y : y + height, x : x + width])
            captions.append("" if rng.random() < EMPTY[domain] else caption(item["words"], domain, rng))
        return torch.stack(latents).float(), captions


def shape(share: float, rng: random.Random) -> tuple[int, int, int]:
    """(pictures, height, width) of a step, by the share of the hours that is over."""
    draw = rng.random()
    if share > 0.85 and draw < 0.1:
        return 2, 64, 48
    return (6, 32, 32) if share > 0.6 and draw < 0.35 else (24, 16, 16)


def draw_timesteps(n: int, low_share: float) -> Tensor:
    low, full = torch.randint(0, 320, (n,)), torch.randint(0, 1000, (n,))
    return torch.where(torch.rand(n) < low_share, low, full)


def add_noise(z: Tensor, eps: Tensor, t: Tensor, bars: Tensor) -> Tensor:
    a = bars[t].view(-1, 1, 1, 1)
    return a.sqrt() * z + (1 - a).sqrt() * eps


@torch.no_grad()
def held_out(unet: nn.Module, text: nn.Module, tokens: Tokens, latents: Latents) -> str:
    """A line per domain and range of t: the loss, and how much higher it is, in per cent, under the other domain's
    caption and under the empty one. Centre crops of 16 x 16."""
    bars, lines = alphas_cumprod(), ["range: loss, with the other domain's caption, with the empty one"]
    for domain, other in (("photo", "render"), ("render", "photo")):
        items = [i for i in latents.items[domain] if not i["words"]["worn"]][:48]
        crops = []
        for item in items:
            h, w = item["latent"].shape[1:]
            y, x = (h - 16) // 2, (w - 16) // 2
            crops.append(item["latent"][:, y : y + 16, x : x + 16])
        z, rng = torch.stack(crops).float(), random.Random(0)
        said = [[caption(i["words"], d, rng, full=True) for i in items] for d in (domain, other)]
        contexts = [text(tokens(c))[0] for c in (*said, [""] * len(items))]
        generator = torch.Generator().manual_seed(1)
        for low, high in RANGES:
            losses = torch.zeros(3)
            for _ in range(2):
                t = torch.randint(low, high, (len(items),), generator=generator)
                eps = torch.randn(z.shape, generator=generator)
                noisy = add_noise(z, eps, t, bars)
                losses += torch.stack([F.mse_loss(unet(noisy, t, c).sample, eps) for c in contexts]) / 2
            gaps = (losses / losses[0] - 1) * 100
            lines.append(f"  {domain:6s} {low:3d}-{high:4d}: {losses[0]:.4f}  {gaps[1]:+.2f} %  {gaps[2]:+.2f} %")
    return "\n".join(lines)


def start_from(path: Path, unet: nn.Module, text: nn.Module) -> None:
    """Takes UNet and text encoder of an exported single-file checkpoint."""
    from export import load_networks

    old_unet, old_text = load_networks(path)
    unet.load_state_dict(old_unet.state_dict())
    text.load_state_dict(old_text.state_dict())


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--latents", type=Path, required=True)
    ap.add_argument("--out", type=Path, required=True, help="checkpoint; an existing one is gone on with")
    ap.add_argument("--start", type=Path, help="single-file checkpoint whose UNet and text encoder to begin with")
    ap.add_argument("--hours", type=float, default=4.0, help="over all runs, as in train_autoencoder.py")
    ap.add_argument("--lr", type=float, default=1e-3)
    ap.add_argument("--low-share", type=float, default=0.75, help="share of the timesteps drawn below 320")
    ap.add_argument("--seed", type=int, default=0, help="two trainings that go on from one checkpoint need two seeds")
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--only-measure", action="store_true", help="held-out losses of the averaged weights")
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    nets = nn.ModuleDict({"unet": make_unet(), "text": make_text_encoder()})
    if args.start and not args.out.exists():
        start_from(args.start, nets["unet"], nets["text"])
    nets.to(args.device)
    tokens = Tokens(load_tokenizer(CLIP))
    bars = alphas_cumprod().to(args.device)
    optimizer, average = muon([nets], args.lr, decay=0.01), Average(nets, decay=0.999)
    clock, step = Clock(args.hours), 0
    if args.out.exists():
        state = torch.load(args.out, map_location=args.device, weights_only=True)
        nets.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average.shadow, average.count, step = state["average"], state["count"], state["step"]
        clock = Clock(args.hours, state["seconds"])
        torch.manual_seed(step + args.seed)
    rng = random.Random(step + args.seed)
    evals = Latents(args.latents, "eval")

    def measure() -> None:
        copy = nn.ModuleDict({"unet": make_unet(), "text": make_text_encoder()})
        copy.load_state_dict({k: v.cpu() for k, v in average.shadow.items()})
        print(held_out(copy["unet"], copy["text"], tokens, evals), flush=True)

    if args.only_measure:
        measure()
        return
    latents = Latents(args.latents)

    def checkpoint() -> None:
        state = {"model": nets.state_dict(), "optimizer": optimizer.state_dict(), "average": average.shadow}
        save(state | {"count": average.count, "step": step, "seconds": clock.seconds()}, args.out)

    losses, saved = [], time.monotonic()
    while clock.share() < 1:
        for group in optimizer.param_groups:
            group["lr"] = args.lr * clock.rate() * min(1, (step + 1) / 200)
        z, captions = latents.batch(*shape(clock.share(), rng), rng)
        t, eps = draw_timesteps(len(z), args.low_share), torch.randn(z.shape)
        z, t, eps, ids = (v.to(args.device) for v in (z, t, eps, tokens(captions)))
        loss = F.mse_loss(nets["unet"](add_noise(z, eps, t, bars), t, nets["text"](ids)[0]).sample, eps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(nets.parameters(), 1.0)
        optimizer.step()
        average.update()
        losses.append(loss.item())
        step += 1
        if step % 50 == 0:
            mean, rate = sum(losses[-50:]) / len(losses[-50:]), optimizer.param_groups[0]["lr"]
            now, share = time.strftime("%H:%M:%S"), clock.share()
            print(f"{now} step {step} share {share:.3f} loss {mean:.4f} lr {rate:.1e}", flush=True)
            latents.refresh()
        if time.monotonic() - saved > 180:
            checkpoint()
            saved = time.monotonic()
        if step % 1000 == 0:
            measure()
    checkpoint()


if __name__ == "__main__":
    main()
