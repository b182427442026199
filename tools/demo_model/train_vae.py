"""Distils an autoencoder in the SD1 layout from TAESD.

The encoder's mean regresses the teacher's latents (as the shards of data.py hold them); the decoder learns latents ->
the ORIGINAL pixels, so that it may become better than the teacher's. For the first --warm steps the decoder sees the
teacher's latents, then the encoder's own, with its gradient. As in train_unet.py a file `decay` in the output folder
starts the end.

With --decoder-only the encoder stays as it is and the decoder goes on with the latents of --latents, which data.py then
has made with this very encoder, on crops of 128 to 256 pixels: group norms and the attention in the middle see whole
pictures then, and a decoder trained on 64 pixel crops alone loses 4 dB at 256.
"""

import argparse
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from data import SCALE, load_shards, taesd
from model import Average, freeze_log_variance, make_vae


def load_vae(path: Path):
    """The averaged weights of a checkpoint."""
    vae = make_vae()
    vae.load_state_dict(torch.load(path, weights_only=True)["average"]["vae"])
    return vae.eval().requires_grad_(False)


def psnr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return -10 * (a - b).square().mean((1, 2, 3)).log10()


def pixel_loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """L1 and a little squared error, L1 of the gradients, and L1 of two coarser scales; values in [-1, 1]."""
    loss = (x - y).abs().mean() + (x - y).square().mean()
    for dim in (2, 3):
        loss = loss + 0.5 * (x.diff(dim=dim) - y.diff(dim=dim)).abs().mean()
    for _ in range(2):
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        loss = loss + 0.5 * (x - y).abs().mean()
    return loss


@torch.no_grad()
def compare(vae, items, data: Path, count: int = 60) -> str:
    """PSNR of the round trip on held-out pictures beside the teacher's, and how far apart the latents are."""
    decoder = taesd(data)[1]
    lines = []
    for domain in ("photo", "render"):
        chosen = [i for i in items if i["domain"] == domain]
        chosen = chosen[:: max(1, len(chosen) // count)][:count]
        ours, teachers, apart, spread = [], [], [], []
        for item in chosen:
            x = item["pixels"][None].float() / 255
            z = item["latent"][None].float()
            mean = vae.encode(x * 2 - 1).latent_dist.mean
            apart.append((mean * SCALE - z).square().mean())
            spread.append(z.square().mean())
            y = vae.decode(mean).sample / 2 + 0.5
            ours.append(psnr(y.clamp(0, 1), x))
            teachers.append(psnr(decoder(z).clamp(0, 1), x))
        rmse, std = torch.stack(apart).mean().sqrt(), torch.stack(spread).mean().sqrt()
        text = f"{domain}s: PSNR {torch.cat(ours).mean():.2f} dB, teacher {torch.cat(teachers).mean():.2f} dB"
        lines.append(f"  {text}, latent RMSE {rmse:.3f} (rms {std:.3f}, {len(chosen)} pictures)")
    return "\n".join(lines)


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--data", type=Path, required=True)
    ap.add_argument("--latents", type=Path, required=True, help="shards of data.py made with the teacher")
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--steps", type=int, default=1_000_000)
    ap.add_argument("--decay", type=int, default=0)
    ap.add_argument("--warm", type=int, default=150)
    ap.add_argument("--lr", type=float, default=1.5e-3)
    ap.add_argument("--batch", type=int, default=16)
    ap.add_argument("--crop", type=int, default=64)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--bf16", action="store_true", help="bfloat16 autocast: twice as fast where the processor has AMX")
    ap.add_argument("--resume", action="store_true")
    ap.add_argument("--only-compare", action="store_true")
    ap.add_argument("--decoder-only", action="store_true")
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "vae.pt"
    evals = load_shards(args.latents, held_out=True)
    if args.only_compare:
        print(compare(load_vae(path), evals, args.data, 200))
        return
    vae = make_vae()
    if args.decoder_only:
        vae.encoder.requires_grad_(False)
    params = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=args.lr, weight_decay=1e-4, betas=(0.9, 0.99))
    average = Average({"vae": vae}, decay=0.99)
    step = decay_from = 0
    decay_steps = args.decay
    if args.resume and path.exists():
        state = torch.load(path, weights_only=True)
        vae.load_state_dict(state["vae"])
        if len(state["optimizer"]["param_groups"][0]["params"]) == len(params):
            optimizer.load_state_dict(state["optimizer"])
        average.shadow, average.count, step = state["average"], state["count"], state["step"]
        decay_from = step
    rng = random.Random(f"{args.seed} {step}")
    items = load_shards(args.latents)
    names = set(args.latents.glob("*.pt"))

    def save() -> None:
        state = {"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        state.update(average=average.shadow, count=average.count)
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    start, began, losses = time.time(), step, []
    while step < args.steps:
        if step % 20 == 0 and (args.out / "decay").exists() and not decay_steps:
            decay_steps, decay_from = int((args.out / "decay").read_text()), step
            print(f"decay over {decay_steps} steps from step {step}", flush=True)
        rate = min(1, (step - began + 1) / 100)
        if decay_steps:
            done = (step - decay_from) / decay_steps
            if done >= 1:
                break
            rate *= 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate
        pixels, latents = [], []
        k, n = args.crop // 8, args.batch
        if args.decoder_only:
            k, n = rng.choice(((16, 6), (16, 6), (24, 3), (32, 2)))
        while len(pixels) < n:
            item = rng.choice(items)
            _, h, w = item["latent"].shape
            # renders are smooth and soon learned: two photographs for each of them
            if (item["domain"] == "render" and rng.random() < 0.4) or min(h, w) < k:
                continue
            i, j = rng.randint(0, h - k), rng.randint(0, w - k)
            pixels.append(item["pixels"][:, i * 8 : (i + k) * 8, j * 8 : (j + k) * 8])
            latents.append(item["latent"][:, i : i + k, j : j + k])
        x = torch.stack(pixels).float() / 127.5 - 1
        target = torch.stack(latents).float() / SCALE
        mean = target
        if not args.decoder_only:
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                mean = vae.encode(x).latent_dist.mean.float()
        # the outer ring of the teacher's latents saw pixels beyond the crop
        anchor = F.mse_loss(mean[..., 1:-1, 1:-1], target[..., 1:-1, 1:-1]) * SCALE**2
        source = target if step < args.warm else mean
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            y = vae.decode(source + torch.randn_like(source) * 0.1).sample.float()
        rebuilt = pixel_loss(y, x)
        loss = rebuilt + (4.0 if step < args.warm else 1.0) * anchor
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        freeze_log_variance(vae)
        average.update()
        losses.append((rebuilt.item(), anchor.item()))
        step += 1
        if step % 20 == 0:
            a, b = torch.tensor(losses[-20:]).mean(0).tolist()
            now, speed = time.strftime("%H:%M:%S"), (step - began) / (time.time() - start)
            line = f"{now} step {step} pixels {a:.4f} anchor {b:.4f} lr {args.lr * rate:.1e} {speed:.2f} step/s"
            print(line, flush=True)
        if step % 100 == 0:
            save()
            if set(args.latents.glob("*.pt")) != names:
                items, names = load_shards(args.latents), set(args.latents.glob("*.pt"))
        if step % 200 == 0:
            print(compare(load_vae(path), evals, args.data), flush=True)
    save()


if __name__ == "__main__":
    main()
