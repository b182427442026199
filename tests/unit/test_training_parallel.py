"""Several processes that train one embedding together: the same result as one, and only one of them writes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lib_negtrans.embeddings.files import read_embedding
from lib_negtrans.models.standalone import load_model
from lib_negtrans.training.events import StepDone
from lib_negtrans.training.parallel import ALONE, Workers, joined
from lib_negtrans.training.params import TrainingParams
from tests.tiny_model import tiny_host, tiny_networks, write_folder
from tests.training_job import training_job

ROOT = Path(__file__).resolve().parents[2]
NAME = "neg-x"


def test_how_rows_are_batched_changes_nothing(place):
    """In float64: a random network's large derivatives make much of float32's rounding."""
    host, found = tiny_host(dtype=torch.float64), []
    for batch, accumulation in ((1, 4), (2, 2), (4, 1)):
        params = TrainingParams(
            steps=2, size=64, vectors=2, batch_size=batch, accumulation=accumulation, latent_sampling="step", flip=True,
            template="filewords", clip_grad_norm=0.01,
        )  # fmt: skip
        out = place / f"batch-{batch}"
        job = training_job(
            host, params, images=place / "renders", name=NAME, run_folder=out / "run", out=out / f"{NAME}.pt"
        )
        found.append([(event.loss, event.grad_norm) for event in job.run() if isinstance(event, StepDone)])
    for other in found[1:]:
        assert other == [pytest.approx(pair, rel=1e-5) for pair in found[0]]


@given(st.integers(0, 50), st.integers(1, 9))
def test_shares_are_everything_once(count, processes):
    items = list(range(count))
    shares = [Workers(rank, processes).share(items) for rank in range(processes)]
    assert [item for share in shares for item in share] == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone():
    value = torch.tensor([1.0, 2.0])
    assert ALONE.main and ALONE.sum(value) is value and ALONE.share([1, 2]) == [1, 2]
    assert ALONE.any(True) is True and ALONE.any(False) is False
    ALONE.wait()
    with joined(torch.device("cpu")) as workers:
        assert workers is ALONE


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model as a folder, and renders of several shapes."""
    folder = tmp_path_factory.mktemp("parallel")
    # smooth, because the order of a sum of rows depends on the processes, and its last digit must stay one
    write_folder(tiny_networks(norm_groups=8), folder / "model")
    (folder / "renders").mkdir()
    for number, size in enumerate([(64, 64), (64, 64), (64, 96), (96, 64), (64, 64)]):
        values = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / "renders" / f"{number} coat.png")
    return folder


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def train(place, out, processes, accumulation, *more):
    """The events of the main process, and everything that was said beside them."""
    # what `accelerate launch --multi_gpu` starts; by itself that does not start several on the CPU
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    launch += ["--master_port", free_port()]
    call = [
        *launch, "-m", "lib_negtrans", "train-negative", "--model", str(place / "model"), "--images",
        str(place / "renders"), "--name", NAME, "--out", str(place / out), "--size", "64", "--vectors", "2", "--json",
        "--batch-size", "1", "--accumulation", str(accumulation), "--save-every", "2", "--clip-grad-norm", "0.5",
        "--latent-sampling", "step", "--template", "filewords", "--device", "cpu", *more,
    ]  # fmt: skip
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(call, cwd=ROOT, env=os.environ | quiet, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")], done.stderr


def test_two_processes_give_what_one_gives(place):
    """Four rows a step: 1 process x 4 and 2 x 2; stopped by its number of steps, and gone on with."""
    params = TrainingParams(
        steps=5, size=64, vectors=2, batch_size=1, accumulation=4, save_every=2, clip_grad_norm=0.5,
        latent_sampling="step", template="filewords",
    )  # fmt: skip
    out, host = place / "one", load_model(place / "model", device="cpu")
    list(training_job(
        host, params, images=place / "renders", name=NAME, run_folder=out / f"{NAME}.run", out=out / f"{NAME}.pt"
    ).run())  # fmt: skip
    events, _ = train(place, "two", 2, 2, "--steps", "3")
    names = [event["event"] for event in events]
    assert names.count("started") == names.count("finished") == 1 and names.count("step_done") == 3
    train(place, "two", 2, 2, "--steps", "5", "--resume", "--overwrite")
    one, two = (read_embedding(place / out / f"{NAME}.pt") for out in ("one", "two"))
    assert two.step == one.step == 5
    start = torch.load(place / "one" / f"{NAME}.pt", weights_only=True)  # as A1111 reads it
    assert torch.equal(start["string_to_param"]["*"], one.vectors)
    assert torch.allclose(one.vectors, two.vectors, rtol=0, atol=2e-5), (one.vectors - two.vectors).abs().max()
    losses = [(place / out / f"{NAME}.run" / "loss.csv").read_text().splitlines() for out in ("one", "two")]
    assert len(losses[0]) == len(losses[1]) == 6
    for a, b in zip(*(table[1:] for table in losses), strict=True):
        assert [float(x) for x in a.split(",")] == pytest.approx([float(x) for x in b.split(",")], rel=1e-3, abs=1e-5)
