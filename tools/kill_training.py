"""Kill one training at random moments and resume it each time; its result must be that of a run that nobody disturbed.

    python tools/kill_training.py [--kills 20] [--steps 60] [--model PATH] [--images DIR] [--seed 0] [-- OPTION ...]

Options after "--" go to `train-negative`. Prints a line for every kill, and "equal" or "DIFFERENT" at the end; the exit
code is 0 only for equal. Runs on Linux and macOS, in a temporary folder.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = "neg-killed"


def command(args: argparse.Namespace, out: Path) -> list[str]:
    call = [sys.executable, "-m", "lib_negtrans", "train-negative", "--name", NAME, "--out", str(out), "--quiet"]
    call += ["--images", str(args.images), "--steps", str(args.steps), "--save-every", "3", "--resume"]
    return [*call, *(["--model", args.model] if args.model else []), *args.options]


def result(out: Path) -> tuple[str, str]:
    """sha256 of the embedding and of the loss CSV."""
    files = (out / f"{NAME}.pt", out / f"{NAME}.run" / "loss.csv")
    return tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)


def saved(out: Path) -> int:
    """The step of the newest checkpoint file."""
    found = [re.fullmatch(r"checkpoint-(\d+)\.safetensors", p.name) for p in (out / f"{NAME}.run").glob("checkpoint-*")]
    return max((int(match[1]) for match in found if match), default=0)


def kill_once(call: list[str], out: Path, generator: random.Random, most: int) -> float | None:
    """Start and kill; after how many seconds, or None when the run came to its end first.

    One in five is killed at any time from its start on, the others at any time after up to `most` steps.
    """
    began, before = time.monotonic(), saved(out)
    process = subprocess.Popen(call, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    early = generator.uniform(0, 20) if generator.random() < 0.2 else float("inf")
    wanted = before + generator.randint(1, max(1, most))
    while process.poll() is None:
        if saved(out) >= wanted or time.monotonic() - began > early:
            time.sleep(generator.uniform(0, 0.5))  # into the steps after it, or the next write
            process.send_signal(signal.SIGKILL)
            process.wait()
            return time.monotonic() - began
        time.sleep(0.01)
    if process.returncode:
        raise SystemExit(f"the training failed by itself:\n{process.stderr.read()}")
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--model")
    parser.add_argument("--images", type=Path, default=ROOT / "assets" / "renders" / "train")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("options", nargs="*", help="of train-negative, after --")
    args = parser.parse_args()
    args.images = args.images.resolve()
    generator, kills, starts = random.Random(args.seed), 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        whole, killed = Path(temporary, "whole"), Path(temporary, "killed")
        began = time.monotonic()
        subprocess.run(command(args, whole), cwd=ROOT, check=True)
        print(f"undisturbed: {args.steps} steps in {time.monotonic() - began:.1f} s", flush=True)
        call, most = command(args, killed), round(1.2 * args.steps / args.kills)
        while kills < args.kills and (seconds := kill_once(call, killed, generator, most)) is not None:
            kills += 1
            print(f"kill {kills}: after {seconds:.1f} s, checkpoint of step {saved(killed)}", flush=True)
        while starts == 0 or not (killed / f"{NAME}.pt").exists():
            subprocess.run(call, cwd=ROOT, check=True)
            starts += 1
        same = result(whole) == result(killed)
    print(f"{kills} kills: embedding and loss CSV are {'equal' if same else 'DIFFERENT'}")
    return 0 if same and kills == args.kills else 1


if __name__ == "__main__":
    raise SystemExit(main())
