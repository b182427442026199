"""What a translation costs and how near it comes to a fine grid's result; beside it the published code, on request.

    python benchmarks/translate.py [--peer DIR] [--model random-sd15|PATH] [--size 512] [--steps 50] [--only NAME ..]

DIR is a clone of Style3D/FashionR2R. Each configuration runs in a process of its own: model, then one picture from
pixels to pixels; then for our presets the same picture with another negative prompt, its inversion, its latent
and its own decoding (for the colours) from the cache, whose memory was held before. `student` is one with untrained
weights, merged as trained ones are, which cost the same.
Forwards are UNet rows, each counted whole; "whole" is the same work by FLOPs, where a row that is cut short or shared
counts its part. "Above weights" is the peak of memory above what was held when the picture began. Fewer --steps take
less time and keep the ratios nearly: fast takes 0.4 of them, rounded.

--fidelity N measures on N renders at 128 px (the demonstration model or another real one; --curve with more step
counts, and with the inversion's iterations spread otherwise): the result against that of a grid of 29 steps up to the
same timestep, exactly inverted, as 20 log10(6 std / RMSE) of the latents; the round trip (same prompt, CFG 1, no
attention control) against the picture's own latent in the same measure; the RMSE of the source trajectory to the fine
grid's at the timesteps that both have, and to the exact inverse of DDIM sampling on the configuration's own grid, which
is what an inversion is to find.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

PEER = "published"
OURS = ("fashionr2r", "default", "fast", "single")
STUDENT = "student"
NEGATIVES = ("a 3d render of a dress on a mannequin", "cgi, plastic")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="random-sd15, a checkpoint or a diffusers folder (default: the demonstration)")
    parser.add_argument("--peer", metavar="DIR", help="also run the published code of this clone")
    parser.add_argument("--image", default=str(ROOT / "assets/renders/eval/fl_62_000.jpg"))
    parser.add_argument("--size", default="512", metavar="N|WxH", help="picture size (default: 512)")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--strength", type=float, help="of all (default: the preset's, .3 for the published code)")
    parser.add_argument("--only", nargs="+", choices=(PEER, *OURS, STUDENT), help="configurations (default: all)")
    parser.add_argument("--once", action="store_true", help="leave out the second runs from the cache")
    parser.add_argument("--device")
    parser.add_argument("--card", type=float, metavar="GB", help="as on a graphics card with so much memory")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--fidelity", type=int, default=0, metavar="N", help="measure fidelity, on N renders, instead")
    parser.add_argument("--curve", action="store_true", help="with --fidelity: over step counts and both solvers")
    parser.add_argument("--worker", choices=(PEER, *OURS, STUDENT), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if PEER in (args.only or ()) and not args.peer:
        parser.error(f"{PEER} needs --peer DIR, a clone of Style3D/FashionR2R.")
    return args


def picture_size(text: str) -> tuple[int, int]:
    """(width, height) of "512" or "768x1024". Exits for what is no multiple of 8."""
    try:
        width, height = (int(n) for n in (text.split("x") if "x" in text else (text, text)))
    except ValueError:
        sys.exit(f"--size {text} is not a number or WIDTHxHEIGHT.")
    if width % 8 or height % 8 or min(width, height) < 64:
        sys.exit(f"--size {text}: width and height must be multiples of 8 and at least 64.")
    return width, height


def work(args: argparse.Namespace) -> list[dict]:
    """One configuration in this process: a measurement of each run."""
    import torch
    from memory import PeakMemory, limit_memory
    from models import benchmark_host
    from PIL import Image

    torch.set_num_threads(args.threads)
    limit_memory(args.card)
    host = benchmark_host(args.model, args.device)
    with Image.open(args.image) as file:
        picture = file.convert("RGB").resize(picture_size(args.size), Image.Resampling.LANCZOS)
    memory = PeakMemory(host.device)
    if args.worker == PEER:
        from peer import Peer

        peer = Peer(Path(args.peer), host)
        memory.begin()
        began = time.perf_counter()
        result = peer.translate(picture, NEGATIVES[0], steps=args.steps, strength=args.strength or 0.3)
        seconds = time.perf_counter() - began
        return [measurement(PEER, result.rows, result.rows, seconds, memory)]

    import numpy as np

    from benchmarks.cost import source_share, whole_rows
    from lib_negtrans.core.attention import AttentionControl
    from lib_negtrans.core.colour import PIXEL_WAYS
    from lib_negtrans.memory import allow_reuse
    from lib_negtrans.translation.cache import TrajectoryCache
    from lib_negtrans.translation.params import translation_preset
    from lib_negtrans.translation.pipeline import translate, translate_image
    from lib_negtrans.translation.plan import tac_plan_of

    allow_reuse()  # as the command line does
    image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].to(host.device) / 255
    if args.worker == STUDENT:
        return [student_work(host, image, memory)]
    wanted = {} if args.strength is None else {"strength": args.strength}
    params = translation_preset(args.worker, steps=args.steps, **wanted)
    latent_size = (image.shape[2] // 8, image.shape[3] // 8)
    share = source_share(
        host.unet, AttentionControl(tac_plan_of(params, host.unet, latent_size).layers), latent_size,
        (77, host.embedding_width),
    )  # fmt: skip
    cache, rows = TrajectoryCache(), []
    for name in (args.worker,) if args.once else (args.worker, f"{args.worker}, again"):
        again = name != args.worker
        if again:  # as after a first translation: its inversion, latent and decoded source are kept, and memory is held
            steps = translate_image(host, image, params, cache=cache)
            while next(steps).phase == "inversion":
                pass
            steps.close()
            if params.colour in PIXEL_WAYS:
                cache.decoded(host, cache.encoded(host, image))
        params.negative_prompt = NEGATIVES[again]
        memory.begin()
        began = time.perf_counter()
        result = translate(host, image, params, cache=cache if again else None)
        seconds = time.perf_counter() - began
        rows.append(measurement(name, result.forwards.total, whole_rows(result.forwards, share), seconds, memory))
        rows[-1]["features"] = result.forwards.features
        del result
    return rows


def student_work(host, image, memory) -> dict:
    """A picture by a student."""
    import torch

    from lib_negtrans.student.network import StudentDesign, StudentNetwork
    from lib_negtrans.translation.student import student_params, translate_with_student

    network = StudentNetwork(host, StudentDesign())
    network.merge(network.initial(lambda _name: torch.Generator().manual_seed(0)))
    memory.begin()
    began = time.perf_counter()
    translate_with_student(network, image, student_params())
    return measurement(STUDENT, 1, 1.0, time.perf_counter() - began, memory)


def measurement(name: str, rows: int, whole: float, seconds: float, memory) -> dict:
    """What a run took, as plain data."""
    return {
        "name": name, "rows": rows, "whole": whole, "seconds": seconds, "above": memory.above(),
        "peak": memory.whole(),
    }  # fmt: skip


def run_worker(args: argparse.Namespace, name: str) -> list[dict]:
    """A configuration in a fresh process. Exits with its message when it fails."""
    command = [sys.executable, __file__, *sys.argv[1:], "--worker", name]
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed with exit code {done.returncode}.")
    return json.loads(done.stdout.splitlines()[-1])


def cost_table(args: argparse.Namespace) -> None:
    """Run every configuration and print the table, a row as soon as it is there."""
    names = args.only or [*([PEER] if args.peer else []), *OURS, STUDENT]
    width, height = picture_size(args.size)
    print(
        f"{args.model or 'demonstration model'}, {width}x{height}, {args.steps} steps, "
        f"{args.device or 'default device'}, {args.threads} threads; {machine()}\n"
    )
    print("| configuration | forwards | whole | ratio | seconds | ratio | above weights, MB | ratio | peak, MB |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    peer: dict | None = None
    for name in names:
        for row in run_worker(args, name):
            peer = row if name == PEER else peer
            ratio = {key: f"{row[key] / peer[key]:.3f}" if peer else "-" for key in ("whole", "seconds", "above")}
            print(
                f"| {row['name']} | {row['rows']} | {row['whole']:.1f} | {ratio['whole']} | {row['seconds']:.2f} | "
                f"{ratio['seconds']} | {row['above']:.0f} | {ratio['above']} | {row['peak']:.0f} |",
                flush=True,
            )


def machine() -> str:
    """Processor and library, in words."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} processors, torch {torch.__version__}"


def main() -> None:
    args = parse_arguments()
    if args.worker:
        print(json.dumps(work(args)))
    elif args.fidelity:
        from fidelity import fidelity_table

        fidelity_table(args.model, args.device, args.fidelity, args.threads, NEGATIVES[0], args.curve)
    else:
        cost_table(args)


if __name__ == "__main__":
    main()
