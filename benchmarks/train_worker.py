"""One trainer of benchmarks/train.py in this process: started as its users start it, ended after some steps."""

from __future__ import annotations

import importlib
import itertools
import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tools")]
WARM_UP, NAME = 2, "bench"


class Enough(SystemExit):
    """Ends a trainer: no SystemExit is taken for a failed step."""


class StepClock:
    """Notes when AdamW steps, and ends the process's trainer after enough of them."""

    def __init__(self, steps: int, card: float | None) -> None:
        import torch
        from memory import PeakMemory, limit_memory

        limit_memory(card)
        self.wanted = WARM_UP + steps
        self.times: list[float] = []
        self.cpu: list[float] = []
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.memory = PeakMemory(self.device)
        real = torch.optim.AdamW.step

        def step(optimizer, *args, **options):
            result = real(optimizer, *args, **options)
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            self.times.append(time.perf_counter())
            self.cpu.append(time.process_time())
            if len(self.times) > self.wanted:
                raise Enough
            return result

        torch.optim.AdamW.step = step

    def begin(self) -> None:
        """The model is loaded, the trainer starts."""
        self.memory.begin()

    def result(self) -> dict[str, Any]:
        import torch

        def taken(times: list[float]) -> float:
            return statistics.median([b - a for a, b in itertools.pairwise(times)][WARM_UP - 1 :])

        return {
            "seconds": taken(self.times), "cpu": taken(self.cpu), "above": self.memory.above(),
            "whole": self.memory.whole(), "torch": torch.__version__,
        }  # fmt: skip


def pictures(job: dict, name: str = "pictures") -> Path:
    """A folder of this name with the job's pictures, without captions."""
    folder = Path(job["folder"]) / name
    folder.mkdir(parents=True)
    for path in job["pictures"]:
        shutil.copy(path, folder)
    return folder


def ours(job: dict, clock: StepClock, host: Any) -> None:
    from lib_negtrans.training.kinds import KINDS
    from lib_negtrans.training.request import TrainingRequest
    from lib_negtrans.training.run import Training

    kind = KINDS[job["kind"]]
    # what its peers do too: one vector, rank 16 in the attention layers, no moving average of a checkpoint
    own = {"vectors": 1, "template": "name"} if job["kind"] == "negative" else {"lr": "1e-6", "ema": 0}
    if job["kind"] == "lora":
        own = {"lr": "1e-4", "rank": 16}
    params = kind.options(
        steps=1000, size=job["size"], batch_size=job["batch"], accumulation=1, aspect="square", save_every=1000,
        gradient_checkpointing="checkpointing" in job["name"], precision=job["precision"], **own,
    )  # fmt: skip
    request = TrainingRequest(NAME, pictures(job), params, kind=job["kind"])
    folder = Path(job["folder"])
    training = Training(request, host, folder / "run", folder / f"{NAME}{kind.suffix}")
    clock.begin()
    for _ in training.run():
        pass


def ours_alone(job: dict, clock: StepClock) -> None:
    import torch
    from models import RANDOM_SD15, benchmark_host

    from lib_negtrans.memory import allow_reuse

    allow_reuse()  # as the command line does
    # a full finetune trains a float32 checkpoint, the other kinds what is loaded
    half = job["precision"] == "fp16" and job["kind"] != "full"
    host = benchmark_host(RANDOM_SD15, dtype=torch.float16 if half else torch.float32)
    if job["kind"] == "full":
        # a full finetune asks for its checkpoint's file, but reads it only when all steps are made
        host.path = Path(job["folder"]) / "random.safetensors"
        host.path.touch()
    ours(job, clock, host)


def ours_in_webui(job: dict, clock: StepClock) -> None:
    from train_peers import webui_model

    webui_model(job)
    from lib_negtrans.models.a1111 import current_host

    ours(job, clock, current_host())


OURS = {"ours": ours_alone, "ours-webui": ours_in_webui}


if __name__ == "__main__":
    given_job = json.loads(sys.argv[1])
    the_clock = StepClock(given_job["steps"], given_job["card"])
    name = given_job["name"].removesuffix("-checkpointing")
    trainer = OURS[name] if name in OURS else getattr(importlib.import_module("train_peers"), name)
    try:
        trainer(given_job, the_clock)
    except Enough:
        print("RESULT " + json.dumps(the_clock.result()), flush=True)
