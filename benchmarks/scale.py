"""What `--engine ray` costs beside the pictures themselves: `python benchmarks/scale.py [--names 1000000]`.

Pictures are a wait of known time, so more actors than cores may be measured. busy: the share of the actors' time, from
the first picture's begin to the last one's end, that went into pictures; overhead: the rest of it, for each picture.
Names: how long it takes to list a folder of so many renders, all of them translated, and to find that none is left.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATHS = [str(ROOT), str(ROOT / "benchmarks")]
sys.path[:0] = PATHS
os.environ["PYTHONPATH"] = os.pathsep.join(PATHS)  # of the cluster's processes

PER_FOLDER = 1000


def engine(folder: Path, actors: int, pictures: int, seconds: float) -> None:
    """Prints a row for so many pictures on so many actors."""
    from sleeping import Names, SleepJob

    from lib_negtrans.runners.ray_cluster import RayOptions, RayRunner

    names = [f"{number:06}" for number in range(pictures * actors)]
    began = time.time()
    share = (os.cpu_count() or 1) / max(actors, os.cpu_count() or 1)
    folder.mkdir()
    with RayRunner(RayOptions(gpus=0, cpus=share, actors=actors)) as runner:
        spans = [done.made for done in runner.run(SleepJob(seconds), Names(names, folder)) if done.made]
    whole = time.time() - began
    window = max(end for _, end in spans) - min(begin for begin, _ in spans)
    busy = len(spans) * seconds / (actors * window)
    overhead = 1000 * (actors * window / len(spans) - seconds)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    row = f"| {actors} | {len(spans)} of {seconds:g} s | {window:.1f} | {busy:.1%} | {overhead:.1f} |"
    print(f"{row} {whole - window:.1f} | {memory:.0f} |", flush=True)


def names(count: int) -> None:
    """Prints a row for so many names in a folder of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        for place, suffix, number in (("in", "jpg", count), ("out", "png", count)):
            for start in range(0, number, PER_FOLDER):
                here = Path(folder, place, f"{start // PER_FOLDER:05}")
                here.mkdir(parents=True)
                for index in range(start, min(number, start + PER_FOLDER)):
                    os.close(os.open(f"{here}/garment_{index:08}.{suffix}", os.O_CREAT | os.O_WRONLY))
        subprocess.run([sys.executable, __file__, "--listing", folder], check=True)


def listing(folder: Path) -> None:
    """In a process of its own, so that its memory can be told."""
    from lib_negtrans.runners.runner import still_to_make
    from lib_negtrans.translation.folder import plan

    began = time.perf_counter()
    items = plan(folder / "in", folder / "out")
    listed = time.perf_counter()
    left = still_to_make(items)
    done = time.perf_counter()
    lines = Path("/proc/self/status").read_text().splitlines()  # of this process alone, unlike ru_maxrss
    memory = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    print(
        f"| {len(items)} | {len(items) - len(left)} | {listed - began:.1f} | {done - listed:.1f} | {memory:.0f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actors", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--pictures", type=int, default=40, help="of each actor")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--names", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--listing", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.listing:
        listing(args.listing)
        return
    if args.actors:
        print("| actors | pictures | s | busy | overhead, ms a picture | start and end, s | memory of the call, MB |")
        print("|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for actors in args.actors:
            engine(Path(folder, str(actors)), actors, args.pictures, args.seconds)
    if args.names:
        print("\n| names | translated | list, s | subtract, s | peak memory, MB |")
        print("|---:|---:|---:|---:|---:|", flush=True)
    for count in args.names:
        names(count)


if __name__ == "__main__":
    main()
