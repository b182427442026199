"""Trains the autoencoder: the encoder near TAESD's latents, encoder and decoder together on the pictures themselves.

Crops of 64 to 192 pixels, most of them at the pictures' own resolution. The learning rate follows the hours trained
(--hours, over all runs; going on with more hours raises it again): flat for a quarter, then down to 0. The last block
of the decoder joins after --join of them, starting as the identity; the perceptual loss after --perceptual-from. With
--start, --decoder-only and --adversary the decoder of a finished one is sharpened, and the latents stay valid.
"""

import argparse
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from adversary import adversarial_loss, discriminator_loss, make_discriminator
from autoencoder import IDENTITY, SCALE, decode, encode, make_autoencoder
from perceptual import PerceptualDistance
from pictures import Mixture
from taesd import load_taesd
from torch import Tensor
from training import Average, Clock, muon, save

SHAPES = [(6, 64, 64), (6, 64, 64), (2, 96, 128), (1, 128, 192)]  # pictures, height, width: equal numbers of pixels
SHARES = {"photos": 0.5, "renders512": 0.43, "renders": 0.07}


def pixel_loss(y: Tensor, x: Tensor) -> Tensor:
    """L1, each picture's root mean square error (as the decibels count), gradients, and the means of 8x8 pixels."""
    error = y - x
    loss = error.abs().mean() + (error.square().mean((1, 2, 3)) + 1e-4).sqrt().mean()
    loss = loss + 0.25 * (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean())
    return loss + 0.5 * F.avg_pool2d(error, 8).abs().mean()


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--data", type=Path, required=True, help="for DATA/taesd")
    ap.add_argument("--cache", type=Path, required=True, help="of pictures.py")
    ap.add_argument("--out", type=Path, required=True, help="checkpoint; an existing one is gone on with")
    ap.add_argument("--start", type=Path, help="a checkpoint whose averaged weights to begin with")
    ap.add_argument("--hours", type=float, default=2.0)
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--join", type=float, default=0.3)
    ap.add_argument("--anchor", type=float, default=1.5, help="weight of the latents' distance to the teacher's")
    ap.add_argument("--perceptual", type=float, default=1.0, help="weight of ST-LPIPS, in every second step")
    ap.add_argument("--perceptual-from", type=float, default=0.55)
    ap.add_argument("--adversary", type=float, default=0.0, help="weight of the patch discriminator")
    ap.add_argument("--decoder-only", action="store_true", help="the encoder stays, and with it cached latents")
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--threads", type=int, default=1)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    vae = make_autoencoder(soft=True)
    for block in (vae.encoder.down_blocks[0].resnets[0], vae.decoder.up_blocks[3].resnets[1]):
        torch.nn.init.zeros_(block.conv2.weight)
        torch.nn.init.zeros_(block.conv2.bias)
    if args.start and not args.out.exists():
        vae.load_state_dict(torch.load(args.start, map_location="cpu", weights_only=True)["average"])
    vae.to(args.device)
    teacher = load_taesd(args.data)[0].to(args.device)
    distance = PerceptualDistance().to(args.device)
    critic = make_discriminator().to(args.device)
    critic_optimizer = torch.optim.Adam(critic.parameters(), 4e-4, betas=(0.5, 0.99))
    optimizer = muon([vae], args.lr)
    average = Average(vae)
    clock, step = Clock(args.hours), 0
    if args.out.exists():
        state = torch.load(args.out, map_location=args.device, weights_only=True)
        vae.load_state_dict(state["model"])
        critic.load_state_dict(state["critic"])
        optimizer.load_state_dict(state["optimizer"])
        average.shadow, average.count, step = state["average"], state["count"], state["step"]
        clock = Clock(args.hours, state["seconds"])
    if args.decoder_only:
        vae.encoder.requires_grad_(False)
    rng = random.Random(step)
    pictures = Mixture(args.cache, SHARES)
    log, saved, anchor, told = [], time.monotonic(), torch.tensor(0.0), torch.tensor(0.0)

    def checkpoint() -> None:
        state = {"model": vae.state_dict(), "critic": critic.state_dict(), "average": average.shadow}
        state["optimizer"] = optimizer.state_dict()
        save(state | {"count": average.count, "step": step, "seconds": clock.seconds()}, args.out)

    while clock.share() < 1:
        skip = IDENTITY if clock.share() > args.join else IDENTITY | {"up3.1"}
        for group in optimizer.param_groups:
            group["lr"] = args.lr * clock.rate() * min(1, (step + 1) / 200)
        x = pictures.batch(*rng.choice(SHAPES), rng).to(args.device)
        z = encode(vae, x, skip)
        y = decode(vae, z, skip)
        pixels = pixel_loss(y, x)
        loss, early = pixels, step < 500
        if not args.decoder_only and (early or step % 4 == 0):
            with torch.no_grad():
                target = teacher(x / 2 + 0.5)
            anchor = F.mse_loss(z * SCALE, target)
            loss = loss + (2.0 if early else args.anchor) * anchor
        if step % 2 and clock.share() > args.perceptual_from:
            loss = loss + args.perceptual * distance(y, x).mean()
        if args.adversary:
            told = discriminator_loss(critic, x, y)
            critic_optimizer.zero_grad(set_to_none=True)
            told.backward()
            critic_optimizer.step()
            weight = args.adversary * min(1, step / 300)
            loss = loss + adversarial_loss(critic, y, loss, vae.decoder.conv_out.weight, weight)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        average.update()
        step += 1
        decibels = -10 * ((y - x) / 2).square().mean().log10().item()
        log.append((pixels.item(), anchor.item(), decibels, told.item()))
        if step % 50 == 0:
            a, b, c, d = torch.tensor(log[-50:]).mean(0).tolist()
            rate = optimizer.param_groups[0]["lr"]
            now, share = time.strftime("%H:%M:%S"), clock.share()
            line = f"{now} step {step} share {share:.3f} pixels {a:.4f} latents {b:.4f} {c:.2f} dB"
            print(f"{line} discriminator {d:.2f} lr {rate:.1e}", flush=True)
        if time.monotonic() - saved > 180:
            checkpoint()
            saved = time.monotonic()
    checkpoint()


if __name__ == "__main__":
    main()
