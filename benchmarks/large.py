"""Peak memory of one large picture, mask on, on a model of SD1.5's size: `python benchmarks/large.py`.

One sampling step is enough: memory does not grow with the number of steps beyond the captured attention, whose size is
printed and which is bounded by a budget (core/features.py).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from torch.nn.functional import interpolate

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from memory import PeakMemory  # noqa: E402
from models import RANDOM_SD15, benchmark_host  # noqa: E402

from lib_negtrans.memory import allow_reuse  # noqa: E402
from lib_negtrans.pictures.images import load_picture, parse_size  # noqa: E402
from lib_negtrans.translation.params import TranslationParams  # noqa: E402
from lib_negtrans.translation.pipeline import translate  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=RANDOM_SD15, help="default: random weights of SD1.5's size, float32")
    parser.add_argument("--size", default="768x1024", metavar="WxH")
    parser.add_argument("--background", default="translate", choices=("translate", "keep"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    width, height = parse_size(args.size)
    folder = ROOT / "assets" / "renders" / "eval"
    render = next(iter(sorted(folder.glob("fl_*.jpg"))))
    allow_reuse()  # as the command line does
    host = benchmark_host(args.model, "cpu", torch.float32)
    peak = PeakMemory(host.device)
    loaded = peak.whole()
    picture = load_picture(render).rgb[None]
    garment = load_picture(folder / f"mask_{render.stem}.png").rgb.mean(0)[None, None]
    picture, mask = (
        interpolate(plane, size=(height, width), mode="bilinear").clamp(0, 1) for plane in (picture, garment)
    )
    params = TranslationParams(
        steps=50, strength=0.02, tac_ratio=1.0, negative_prompt="3d render", mask="file", background=args.background
    )
    began = time.perf_counter()
    done = translate(host, picture, params, mask=mask)
    seconds = time.perf_counter() - began
    print(f"{width}x{height}, mask on, background {args.background}, one step: {done.forwards}, {seconds:.0f} s")
    print(f"peak resident memory {peak.whole():.0f} MiB; {loaded:.0f} MiB when the model had been made")


if __name__ == "__main__":
    main()
