"""Runs the stub job on a cluster; prints what became of the items as JSON."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path

from lib_negtrans.files import place, walk
from lib_negtrans.runners.ray_cluster import RayOptions, RayRunner
from tests.ray.stub import TextJob, Texts


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--address")
    parser.add_argument("--block", type=int)
    parser.add_argument("--actors", type=int)
    parser.add_argument("--cpus", type=float, default=1)
    parser.add_argument("--timeout", type=float, default=0)
    args = parser.parse_args()
    names = sorted(f"{below}/{name}".strip("/") for below, files in walk(place(args.input)) for name in files)
    items = Texts(names, place(args.input), place(args.out))
    counts, errors, wheres = Counter(), {}, set()
    options = RayOptions(args.address, 0, args.cpus, args.block, args.timeout, args.actors)
    with RayRunner(options) as runner:
        began = time.perf_counter()
        for done in runner.run(TextJob(Path(args.log)), items):
            counts["failed" if done.error else "skipped" if done.skipped else "made"] += 1
            if done.error:
                errors[done.item.source.name] = done.error
            if done.where:
                wheres.add(done.where)
        seconds = time.perf_counter() - began
    print(json.dumps({"counts": counts, "errors": errors, "actors": len(wheres), "seconds": seconds}))


if __name__ == "__main__":
    main()
