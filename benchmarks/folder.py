"""A folder with one process and with several: `python benchmarks/folder.py [--pictures 24] [--processes 2]`.

All cores are used either way: one process with as many threads, or the cores divided. Times are of whole processes,
model loading included. The processes know nothing of each other but the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(processes: int, cores: int, arguments: list[str]) -> tuple[float, list[int]]:
    """Seconds until the last has ended, and how many pictures each translated."""
    threads = str(max(1, cores // processes))
    env = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "lib_negtrans", "translate", "--json", *arguments]
    began = time.perf_counter()
    started = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    outputs = [process.communicate()[0] for process in started]
    seconds = time.perf_counter() - began
    if any(process.returncode for process in started):
        raise SystemExit("a process failed.")
    events = [[json.loads(line) for line in output.splitlines()] for output in outputs]
    return seconds, [sum(event["event"] == "translated" for event in own) for own in events]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    renders = sorted((ROOT / "assets" / "renders").rglob("fl_*.jpg"))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        source.mkdir()
        for number in range(args.pictures):
            shutil.copy(renders[number % len(renders)], source / f"{number:03}.jpg")
        options = ["--input", str(source), "--size", f"{args.size}x{args.size}", "--steps", str(args.steps)]
        options += ["--negative-prompt", "3d render"]
        for processes in (1, args.processes):
            out = Path(folder) / f"out{processes}"
            seconds, shares = run(processes, args.cores, [*options, "--out", str(out)])
            made = len(list(out.rglob("*.png")))
            print(
                f"{processes} process(es): {seconds:.1f} s, {made} pictures, translated by each: {shares}", flush=True
            )


if __name__ == "__main__":
    main()
