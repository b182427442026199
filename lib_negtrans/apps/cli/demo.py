"""`python -m lib_negtrans demo`: the whole job on the bundled renders, in minutes on a CPU.

Trains a negative embedding on one set of renders, translates held-out ones, writes a before/after sheet and a table.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from PIL import Image
from torch import Tensor

from lib_negtrans.embeddings.files import Embedding, read_embedding
from lib_negtrans.evaluation.configurations import parse_configurations
from lib_negtrans.evaluation.crops import Render, load_render, spread
from lib_negtrans.evaluation.feature_network import Lite0, missing_packages
from lib_negtrans.evaluation.reference import load_photo_features
from lib_negtrans.evaluation.report import evaluation_data, markdown_table
from lib_negtrans.evaluation.run import Cost, judge_pictures, round_trip, translate_pictures
from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.pictures.images import save_png, to_pil
from lib_negtrans.pictures.sheet import contact_sheet
from lib_negtrans.pictures.tree import image_files
from lib_negtrans.training import events
from lib_negtrans.training.params import TrainingParams
from lib_negtrans.training.request import TrainingRequest
from lib_negtrans.training.run import Training
from lib_negtrans.translation.negatives import Negative

from .common_options import load_host, output_folder
from .reporting import EXIT_DONE, EXIT_INTERRUPTED, CallError, Reporter
from .train import show_event, stop_on_signals

RENDERS = Path(__file__).resolve().parents[3] / "assets" / "renders"
NAME = "neg-render-demo"
THROUGH_VAE = "renders through the VAE"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="demo-out", metavar="DIR", help="folder for all results (default: demo-out)")
    parser.add_argument("--steps", type=int, default=150, help="training steps (default: 150)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training (default: 0)")
    parser.add_argument("--count", type=int, default=12, help="held-out renders to translate (default: 12)")


def training_params(steps: int, seed: int) -> TrainingParams:
    """What suits the demonstration model: its scale of pictures, and few steps of many pictures."""
    return TrainingParams.from_dict(
        {
            "steps": steps, "lr": f"2e-2:{max(1, steps * 2 // 3)}, 4e-3", "vectors": 8, "init_text": "3d render",
            "size": 128, "batch_size": 8, "accumulation": 1, "template": "name", "pattern": "mh_*", "seed": seed,
        }
    )  # fmt: skip


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Train, translate, measure, write the sheet; 0 done, 130 interrupted. Raises CallError."""
    began = time.perf_counter()
    out, host = output_folder("--out", args.out), load_host(args)
    if args.count < 3:
        raise CallError(f"--count must be at least 3, not {args.count}.")
    report.event("phase", f"1/2  Training {NAME} on the renders of {RENDERS / 'train'} ..", phase="training")
    request = TrainingRequest(NAME, RENDERS / "train", training_params(args.steps, args.seed), overwrite=True)
    job = Training(request, host, out / f"{NAME}.run", out / f"{NAME}.pt")
    with stop_on_signals(job, report), report.bar(unit="step") as bar:
        for event in job.run():
            show_event(event, report, bar)
    if not isinstance(event, events.Finished):
        return EXIT_INTERRUPTED
    embedding = read_embedding(job.out)
    for complaint in event.complaints:
        report.problem(complaint)

    files = spread(image_files(RENDERS / "eval"), args.count)
    renders = [load_render(path, path.name) for path in files]
    report.event("phase", f"2/2  Translating {len(renders)} held-out renders three ways ..", phase="translating")
    pictures, costs = _translate(host, renders, embedding, report)
    sheet = out / "before-after.png"
    save_png(sheet, _sheet(renders, pictures))
    for render, result in zip(renders, pictures["default"], strict=True):
        save_png(out / "translated" / render.name, to_pil(result))
    _tell(report, renders, pictures, costs)
    seconds = time.perf_counter() - began
    line = (
        f"{seconds:.0f} s. Look at {sheet}; the pictures are in {out / 'translated'}, the embedding is {out / NAME}.pt."
    )
    report.event("done", line, seconds=seconds, sheet=str(sheet), embedding=str(out / f"{NAME}.pt"))
    return EXIT_DONE


def _translate(
    host: ModelHost, renders: list[Render], embedding: Embedding, report: Reporter
) -> tuple[dict[str, list[Tensor]], dict[str, Cost]]:
    """Whole pictures (3, H, W) by the name of what was done with them, and what each way cost."""
    originals = [render.rgb for render in renders]
    pictures, costs = {THROUGH_VAE: round_trip(host, originals)}, {}
    ways = parse_configurations("default,no-tac,none", None, [Negative(embedding.name, embedding.vectors)])
    with report.bar(total=len(ways) * len(renders), unit="picture") as bar:
        for number, way in enumerate(ways):

            def on_picture(done: int, before: int = number * len(renders)) -> None:
                bar.update(before + done - bar.n)

            pictures[way.name], costs[way.name] = translate_pictures(host, originals, way, 4, on_picture)
    return pictures, costs


def _sheet(renders: list[Render], pictures: dict[str, list[Tensor]]) -> Image.Image:
    """A row for each of the first six renders: before, after with and without attention control."""
    columns = {"default": "translated", "no-tac": "without attention control", "none": "without the embedding"}
    rows = [
        [to_pil(render.rgb), *(to_pil(pictures[name][number]) for name in columns)]
        for number, render in enumerate(renders[:6])
    ]
    return contact_sheet(rows, ["render", *columns.values()], title="Before and after", cell=256)


def _tell(report: Reporter, renders: list[Render], pictures: dict[str, list[Tensor]], costs: dict[str, Cost]) -> None:
    """Print what changed in numbers, on garment crops, or what to install for that."""
    lacking = missing_packages()
    if lacking is not None:
        report.event("table", f"No numbers: {lacking}", message=lacking)
        return
    base, translated = (THROUGH_VAE, pictures[THROUGH_VAE]), {name: pictures[name] for name in costs}
    evaluation = judge_pictures(renders, base, translated, load_photo_features(), Lite0(), costs=costs)
    report.event("table", f"\n{markdown_table(evaluation)}\n", **evaluation_data(evaluation))
