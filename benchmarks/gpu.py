"""Everything that only a machine with a graphics card can tell: `make gpu`; writes docs/gpu.md as it goes on.

    python benchmarks/gpu.py [--out FILE] [--peer DIR] [--diffusers DIR] [--kohya DIR] [--peers-python PYTHON]

The tests of tests/device, then what a translation and a training cost, beside the published code and the trainers of
others where clones of them are named; at last both as on a card of 8 GB. A line that fails is written down with its
error, and the others are run. --dry-run does every line on the CPU, in small, and prints the page instead.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
CARD = 8


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "gpu.md")
    parser.add_argument("--peer", metavar="DIR", help="a clone of Style3D/FashionR2R")
    parser.add_argument("--diffusers", metavar="DIR", help="a clone of huggingface/diffusers")
    parser.add_argument("--kohya", metavar="DIR", help="a clone of kohya-ss/sd-scripts")
    parser.add_argument("--peers-python", metavar="PYTHON", default=sys.executable, help="for diffusers' and kohya's")
    parser.add_argument("--dry-run", action="store_true", help="every line on the CPU, in small")
    return parser.parse_args()


def sections(args: argparse.Namespace) -> dict[str, list[list[str]]]:
    """Title -> the commands whose output stands below it, without the Python that runs them."""
    tests = ["-m", "pytest", "-q", "-rs", "tests/device"]
    translate = ["benchmarks/translate.py", "--model", "random-sd15", "--device", "cuda"]
    train = ["benchmarks/train.py", "--size", "512", "--steps", "20"]
    precisions = ("fp16", "bf16")
    if args.dry_run:
        translate = ["benchmarks/translate.py", "--device", "cpu", "--steps", "10"]
        train = ["benchmarks/train.py", "--size", "64", "--steps", "1", "--only", "ours", "diffusers", "kohya"]
        precisions = ("fp32",)
    peer = ["--peer", args.peer] if args.peer else []
    peers = [
        word
        for name in ("diffusers", "kohya", "peers_python")
        if getattr(args, name)
        for word in (f"--{name.replace('_', '-')}", getattr(args, name))
    ]
    wide, square = ("96x128", "64") if args.dry_run else ("768x1024", "512")
    return {
        "Tests": [tests],
        "A translation": [[*translate, "--size", size, *peer] for size in (square, wide)],
        f"A translation with {CARD} GB": [[*translate, "--size", size, "--card", str(CARD)] for size in (square, wide)],
        "A training": [
            [*train, "--kind", kind, "--precision", precision, *peers]
            for kind in ("negative", "lora", "full")
            for precision in precisions
        ],
        f"A training with {CARD} GB": [
            [*train, "--kind", kind, "--precision", precisions[0], "--card", str(CARD)] for kind in ("negative", "lora")
        ],
    }


def output(command: list[str], environment: dict[str, str]) -> str:
    """What a command prints, and how it ended where that was badly."""
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    if not done.returncode:
        return done.stdout.strip()
    last = "\n".join(f"    {line}" for line in (done.stdout + done.stderr).strip().splitlines()[-20:])
    return f"Failed with exit code {done.returncode}:\n\n{last}"


def main() -> None:
    args = parse_arguments()
    import torch
    from translate import machine

    if not args.dry_run and not torch.cuda.is_available():
        sys.exit("There is no graphics card that torch can use here. --dry-run tries every line on the CPU.")
    environment = os.environ | ({"NEGTRANS_DEVICE": "cpu"} if args.dry_run else {})
    page = f"# Measured on a graphics card\n\n`make gpu` wrote this page: {machine()}.\n"
    clones = {folder: name.upper() for name in ("peer", "diffusers", "kohya") if (folder := getattr(args, name))}
    for title, commands in sections(args).items():
        page += f"\n## {title}\n"
        for command in commands:
            shown = shlex.join(clones.get(word, "PYTHON" if word == args.peers_python else word) for word in command)
            print(shown, file=sys.stderr, flush=True)
            page += f"\n`python {shown}`\n\n{output(command, environment)}\n"
            if not args.dry_run:
                args.out.write_text(page, encoding="utf-8")
    if args.dry_run:
        print(page)


if __name__ == "__main__":
    main()
