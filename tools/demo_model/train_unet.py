"""Trains the UNet and the text encoder together on cached latents.

The learning rate is constant after a warm-up; a file named `decay` beside the checkpoint holding a number of steps
(or --decay N from the start) begins a cosine decay to zero over that many steps, after which the run ends: so that it
can be told at any time to finish by a chosen hour. --resume goes on from OUT/unet.pt, if wished on other latents.
"""

import argparse
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from data import caption, load_shards
from model import Average, Tokens, alphas_cumprod, load_tokenizer, make_text_encoder, make_unet

RANGES = [(0, 100), (100, 200), (200, 300), (300, 600), (600, 1000)]


def take_crop(latent: torch.Tensor, size: int, rng: random.Random, centre: bool = False) -> torch.Tensor:
    """A random square crop; half of the time (or always, `centre`) drawn towards the middle, where the garment lies."""
    _, h, w = latent.shape
    place = []
    for n in (h, w):
        room = n - size
        mid = centre or rng.random() < 0.5
        place.append(room // 2 if centre else round(rng.triangular(0, room, room / 2)) if mid else rng.randint(0, room))
    return latent[:, place[0] : place[0] + size, place[1] : place[1] + size]


def draw_timesteps(n: int, low_share: float, generator: torch.Generator) -> torch.Tensor:
    low = torch.randint(0, 320, (n,), generator=generator)
    full = torch.randint(0, 1000, (n,), generator=generator)
    return torch.where(torch.rand(n, generator=generator) < low_share, low, full)


class Pool:
    """Items of both domains, read again when new shards have appeared."""

    def __init__(self, folder: Path):
        self.folder, self.names = folder, None
        self.refresh()

    def refresh(self) -> None:
        names = sorted(p.name for p in self.folder.glob("*.pt"))
        if names != self.names:
            self.names = names
            items = load_shards(self.folder)
            for item in items:
                item.pop("pixels")
            self.photos = [i for i in items if i["domain"] == "photo"]
            self.renders = [i for i in items if i["domain"] == "render"]
            print(f"{len(self.photos)} photo latents, {len(self.renders)} render latents", flush=True)

    def largest(self) -> int:
        """The largest square that both domains have pictures of."""
        return min(max(min(i["latent"].shape[1:]) for i in pool) for pool in (self.photos, self.renders))

    def batch(self, n: int, size: int, rng: random.Random, empty: dict) -> tuple[torch.Tensor, list[str]]:
        latents, captions = [], []
        for k in range(n):
            pool = self.photos if k % 2 else self.renders
            while True:
                item = rng.choice(pool)
                if min(item["latent"].shape[1:]) >= size:
                    break
            latents.append(take_crop(item["latent"], size, rng))
            captions.append("" if rng.random() < empty[item["domain"]] else caption(item, rng))
        return torch.stack(latents).float(), captions


@torch.no_grad()
def held_out(unet, text, tokens, items, bars, count: int = 48, size: int = 16) -> dict:
    """Loss per range of t and domain, and the domain gap: loss under the other domain's caption minus under its own."""
    result = {}
    for domain in ("photo", "render"):
        chosen = [i for i in items if i["domain"] == domain]
        chosen = chosen[:: max(1, len(chosen) // count)][:count]
        z = torch.stack([take_crop(i["latent"], size, None, centre=True) for i in chosen]).float()
        rng = random.Random(0)
        wrong = "render" if domain == "photo" else "photo"
        own = text(tokens([caption(i, rng, full=True) for i in chosen]))[0]
        other = text(tokens([caption(i, rng, wrong, full=True) for i in chosen]))[0]
        empty = text(tokens([""] * len(chosen)))[0]
        gen = torch.Generator().manual_seed(1)
        for lo, hi in RANGES:
            t = torch.randint(lo, min(hi, 1000), (len(chosen),), generator=gen)
            eps = torch.randn(z.shape, generator=gen)
            a = bars[t].view(-1, 1, 1, 1)
            noisy = a.sqrt() * z + (1 - a).sqrt() * eps
            losses = [F.mse_loss(unet(noisy, t, c).sample, eps).item() for c in (own, other, empty)]
            result[f"{domain} {lo}-{hi}"] = (losses[0], losses[1] - losses[0], losses[2] - losses[0])
    return result


def report(result: dict) -> str:
    lines = ["range: loss, +gap with the other domain's caption, +gap with the empty caption"]
    lines += [f"  {k:16s} {a:.4f}  +{b:.4f}  +{c:.4f}" for k, (a, b, c) in result.items()]
    return "\n".join(lines)


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--latents", type=Path, required=True)
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--steps", type=int, default=1_000_000)
    ap.add_argument("--decay", type=int, default=0, help="begin the decay at once, over so many steps")
    ap.add_argument("--lr", type=float, default=8e-4)
    ap.add_argument("--batch", type=int, default=16)
    ap.add_argument("--low-share", type=float, default=0.7, help="share of the timesteps drawn below 320")
    ap.add_argument("--empty", type=float, default=0.3, help="share of empty captions among the photos")
    ap.add_argument("--empty-renders", type=float, default=0.02, help="the same among the renders")
    ap.add_argument("--large-share", type=float, default=0.0, help="share of steps on 24x24 and 32x32 latents")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--resume", action="store_true")
    ap.add_argument(
        "--only-compare", action="store_true", help="with --resume: held-out losses of the averaged weights"
    )
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "unet.pt"
    unet, text = make_unet(), make_text_encoder()
    tokens = Tokens(load_tokenizer(args.out / "clip"))
    bars = alphas_cumprod()
    # the empty caption means a photograph, as in SD1, few of whose pictures are renders; with equal shares the
    # network takes the domain from the picture itself, the empty caption says nothing, and a negative has no effect
    empty = {"photo": args.empty, "render": args.empty_renders}
    params = list(unet.parameters()) + list(text.parameters())
    optimizer = torch.optim.AdamW(params, lr=args.lr, weight_decay=0.01, betas=(0.9, 0.99))
    average = Average({"unet": unet, "text": text})
    step = decay_from = 0
    decay_steps = args.decay
    if args.resume and path.exists():
        state = torch.load(path, weights_only=True)
        unet.load_state_dict(state["unet"])
        text.load_state_dict(state["text"])
        optimizer.load_state_dict(state["optimizer"])
        average.shadow, average.count, step = state["average"], state["count"], state["step"]
        decay_from = step
    rng = random.Random(f"{args.seed} {step}")
    gen = torch.Generator().manual_seed(args.seed + step)
    pool = Pool(args.latents)
    evals = load_shards(args.latents, held_out=True)

    def save() -> None:
        state = {"unet": unet.state_dict(), "text": text.state_dict(), "optimizer": optimizer.state_dict()}
        state.update(average=average.shadow, count=average.count, step=step)
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def compare() -> None:
        u, e = make_unet(), make_text_encoder()
        u.load_state_dict(average.shadow["unet"])
        e.load_state_dict(average.shadow["text"])
        print(report(held_out(u, e, tokens, evals, bars)), flush=True)

    if args.only_compare:
        compare()
        return
    start, began, losses = time.time(), step, []
    while step < args.steps:
        if step % 100 == 0 and (args.out / "decay").exists() and not decay_steps:
            decay_steps, decay_from = int((args.out / "decay").read_text()), step
            print(f"decay over {decay_steps} steps from step {step}", flush=True)
        rate = min(1, (step + 1) / 300)
        if decay_steps:
            done = (step - decay_from) / decay_steps
            if done >= 1:
                break
            rate *= 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate
        size, n = 16, args.batch
        if rng.random() < args.large_share:
            sizes = [(s, k) for s, k in ((24, args.batch // 2), (32, args.batch // 4)) if s <= pool.largest()]
            size, n = rng.choice(sizes or [(16, args.batch)])
        z, captions = pool.batch(n, size, rng, empty)
        t = draw_timesteps(n, args.low_share, gen)
        eps = torch.randn(z.shape, generator=gen)
        a = bars[t].view(-1, 1, 1, 1)
        prediction = unet(a.sqrt() * z + (1 - a).sqrt() * eps, t, text(tokens(captions))[0]).sample
        loss = F.mse_loss(prediction, eps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        average.update()
        losses.append(loss.item())
        step += 1
        if step % 100 == 0:
            speed = (step - began) / (time.time() - start)
            mean = sum(losses[-100:]) / len(losses[-100:])
            now = time.strftime("%H:%M:%S")
            print(f"{now} step {step} loss {mean:.4f} lr {args.lr * rate:.1e} {speed:.2f} step/s", flush=True)
            pool.refresh()
        if step % 500 == 0 or step == 100:
            save()
        if step % 1000 == 0 and evals:
            compare()
    save()


if __name__ == "__main__":
    main()
