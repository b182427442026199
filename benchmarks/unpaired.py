"""A translator that knows no diffusion, trained on the same pictures: CUT, written anew from its paper.

    python benchmarks/unpaired.py --renders DIR --photos DIR --out FILE [--hours 1] [--threads 1] [--resume]

Contrastive unpaired translation (arXiv 2007.15651): a generator of residual blocks; a discriminator of patches with
least squares; and a loss by which a place of the output, in the generator's own features, is nearer to the same place
of the input than to 255 others, also for photographs that should stay what they are. Half of the paper's widths, six
blocks of its nine, parts of 128 pixels of the crops of 256 that are judged. `rivals.py` puts it into a table.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from lib_negtrans.evaluation.crops import cut, load_photos, load_render  # noqa: E402
from lib_negtrans.pictures.images import ImageError  # noqa: E402
from lib_negtrans.pictures.tree import image_files  # noqa: E402

SIZE, PART = 256, 128  # pixels: of what is cut from a picture, and of what is trained on
WIDTH, BLOCKS = 32, 6
PLACES, TEMPERATURE, PROJECTED = 256, 0.07, 256
BATCH, RATE, DECAY = 1, 2e-4, 0.999  # DECAY: of the moving average that is saved
SAVE_EVERY = 500


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(*convolution(width, width, 3), *convolution(width, width, 3)[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def convolution(of: int, to: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    pad = {"padding": kernel // 2, "padding_mode": "reflect"}
    return [nn.Conv2d(of, to, kernel, stride, **pad), nn.InstanceNorm2d(to), nn.ReLU()]


class Generator(nn.Module):
    """(B, 3, H, W) in [0, 1], sides a multiple of 4, to the same."""

    def __init__(self) -> None:
        super().__init__()
        w = WIDTH
        self.encoder = nn.ModuleList(
            [
                nn.Sequential(*convolution(3, w, 7)),
                nn.Sequential(*convolution(w, 2 * w, 3, 2)),
                nn.Sequential(*convolution(2 * w, 4 * w, 3, 2)),
                nn.Sequential(*(Block(4 * w) for _ in range(BLOCKS // 2))),
            ]
        )
        self.decoder = nn.Sequential(
            *(Block(4 * w) for _ in range(BLOCKS - BLOCKS // 2)),
            nn.Upsample(scale_factor=2, mode="bilinear"), *convolution(4 * w, 2 * w, 3),
            nn.Upsample(scale_factor=2, mode="bilinear"), *convolution(2 * w, w, 3),
            nn.Conv2d(w, 3, 7, padding=3, padding_mode="reflect"),
        )  # fmt: skip

    def features(self, image: Tensor) -> list[Tensor]:
        """What the contrastive loss compares: the picture itself, and what each part of the encoder makes of it."""
        return list(itertools.accumulate(self.encoder, lambda x, layer: layer(x), initial=2 * image - 1))

    def result(self, features: list[Tensor]) -> Tensor:
        return (torch.tanh(self.decoder(features[-1])) + 1) / 2

    def forward(self, image: Tensor) -> Tensor:
        return self.result(self.features(image))


class Projections(nn.ModuleList):
    """Two layers for each of the generator's features."""

    def __init__(self) -> None:
        widths = (3, WIDTH, 2 * WIDTH, 4 * WIDTH, 4 * WIDTH)
        super().__init__(
            nn.Sequential(nn.Linear(width, PROJECTED), nn.ReLU(), nn.Linear(PROJECTED, PROJECTED)) for width in widths
        )


def discriminator() -> nn.Sequential:
    """(B, 3, H, W) to a score of each patch of 70 pixels."""
    w = 2 * WIDTH
    layers: list[nn.Module] = [nn.Conv2d(3, w, 4, 2, 1), nn.LeakyReLU(0.2)]
    for of, to, stride in ((w, 2 * w, 2), (2 * w, 4 * w, 2), (4 * w, 4 * w, 1)):
        layers += [nn.Conv2d(of, to, 4, stride, 1), nn.InstanceNorm2d(to), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(4 * w, 1, 4, 1, 1))


def contrast(projections: Projections, source: list[Tensor], result: list[Tensor]) -> Tensor:
    """The paper's PatchNCE: each place of the result should be told from the others by its own place in the source."""
    losses = []
    for layer, a, b in zip(projections, source, result, strict=True):
        places = torch.randperm(a.shape[2] * a.shape[3])[:PLACES]
        there, here = (F.normalize(layer(x.flatten(2)[..., places].transpose(1, 2)), dim=2) for x in (a, b))
        scores = here @ there.detach().transpose(1, 2) / TEMPERATURE
        own = torch.arange(len(places)).expand(len(here), -1)
        losses.append(F.cross_entropy(scores.flatten(0, 1), own.flatten()))
    return torch.stack(losses).mean()


def parts(pictures: Tensor) -> Tensor:
    """BATCH random parts (B, 3, PART, PART) of pictures (N, 3, SIZE, SIZE) uint8, mirrored half of the time."""
    found = []
    for number in torch.randint(len(pictures), (BATCH,)).tolist():
        y, x = torch.randint(SIZE - PART + 1, (2,)).tolist()
        part = pictures[number, :, y : y + PART, x : x + PART] / 255
        found.append(part.flip(2) if torch.rand(()) < 0.5 else part)
    return torch.stack(found)


def train(renders: Tensor, photos: Tensor, out: Path, hours: float, resume: bool) -> None:
    """Train for so long, or on from `out`; its moving average is what `translate_all` uses."""
    generator, projections, judge, average = Generator(), Projections(), discriminator(), Generator()
    average.load_state_dict(generator.state_dict())
    own = torch.optim.Adam([*generator.parameters(), *projections.parameters()], RATE, (0.5, 0.999))
    other = torch.optim.Adam(judge.parameters(), RATE, (0.5, 0.999))
    kept = {"generator": generator, "projections": projections, "judge": judge, "average": average}
    kept |= {"own": own, "other": other}
    step, spent = 0, 0.0
    if resume:
        state = torch.load(out, weights_only=True)
        for name, part in kept.items():
            part.load_state_dict(state[name])
        step, spent = state["step"], state["seconds"]
    began = time.process_time() - spent
    while (seconds := time.process_time() - began) < hours * 3600:
        render, photo = parts(renders), parts(photos)
        features = generator.features(torch.cat([render, photo]))
        both = generator.result(features)
        made = both[:BATCH]
        for part in judge.parameters():
            part.requires_grad_(False)
        keeping = contrast(projections, features, generator.features(both))  # half of it of renders, half of photos
        fooling = (judge(2 * made - 1) - 1).square().mean()
        own.zero_grad()
        (fooling + keeping).backward()
        own.step()
        for part in judge.parameters():
            part.requires_grad_(True)
        told = ((judge(2 * photo - 1) - 1).square().mean() + judge(2 * made.detach() - 1).square().mean()) / 2
        other.zero_grad()
        told.backward()
        other.step()
        step += 1
        with torch.no_grad():
            for kept_weight, weight in zip(average.parameters(), generator.parameters(), strict=True):
                kept_weight.lerp_(weight, 1 - min(DECAY, step / (step + 10)))
        if step % SAVE_EVERY == 0:
            print(f"{step} steps, {seconds / 60:.0f} min: contrast {keeping:.3f}, judge {told:.3f}", flush=True)
            save(out, kept, step, seconds)
    save(out, kept, step, time.process_time() - began)
    print(f"{out}: {step} steps in {hours:g} hours.")


def save(out: Path, kept: dict, step: int, seconds: float) -> None:
    part = out.with_suffix(".part")
    torch.save({name: module.state_dict() for name, module in kept.items()} | {"step": step, "seconds": seconds}, part)
    part.replace(out)


@torch.no_grad()
def translate_all(file: Path, pictures: list[Tensor]) -> list[Tensor]:
    """Pictures (3, H, W) in [0, 1], sides a multiple of 4, by a trained generator."""
    generator = Generator()
    generator.load_state_dict(torch.load(file, weights_only=True)["average"])
    return [generator(picture[None])[0] for picture in pictures]


def load_all(folder: Path, what) -> Tensor:
    """(N, 3, SIZE, SIZE) uint8; files that cannot be read are left out, and said."""
    found = []
    for path in image_files(folder):
        try:
            found.append((what(path) * 255).round().byte())
        except ImageError as error:
            print(f"left out: {path.name}: {error}", file=sys.stderr)
    if not found:
        sys.exit(f"{folder} holds no pictures.")
    return torch.stack(found)


def render_crop(path: Path) -> Tensor:
    render = load_render(path)
    return cut(render.rgb, render.box, SIZE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--renders", type=Path, required=True, help="renders, with a mask_NAME.png beside each")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--hours", type=float, default=1.0, help="of processor time, with --resume in all (default: 1)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on with FILE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    renders = load_all(args.renders, render_crop)
    photos = load_all(args.photos, lambda path: load_photos([path], SIZE)[0])
    print(f"{len(renders)} renders, {len(photos)} photographs.", flush=True)
    train(renders, photos, args.out, args.hours, args.resume)


if __name__ == "__main__":
    main()
