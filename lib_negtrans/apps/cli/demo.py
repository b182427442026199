"""`python -m lib_negtrans demo`: the whole job on the bundled renders, in minutes on a CPU.

With the bundled LoRA of photographs, trains a negative embedding on one set of renders, translates held-out ones with
and without each part of the method, and writes a sheet and a table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from lib_negtrans.embeddings.files import read_embedding
from lib_negtrans.evaluation.ablation import FULL, NO_NEGATIVE, NO_POSITIVE, NO_TAC, ablation, ablation_table
from lib_negtrans.evaluation.configurations import Configuration
from lib_negtrans.evaluation.crops import Render, load_render, spread
from lib_negtrans.evaluation.reference import load_photo_features
from lib_negtrans.evaluation.report import evaluation_data
from lib_negtrans.evaluation.run import RENDERS as BASE
from lib_negtrans.evaluation.run import judge_pictures, translate_pictures
from lib_negtrans.lora.merge import Loras, merged
from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.pictures.feature_network import Lite0, missing_packages
from lib_negtrans.pictures.images import save_png, to_pil
from lib_negtrans.pictures.sheet import contact_sheet
from lib_negtrans.pictures.tree import image_files
from lib_negtrans.training import events
from lib_negtrans.training.params import TrainingParams
from lib_negtrans.training.request import TrainingRequest
from lib_negtrans.training.run import Training
from lib_negtrans.translation.cache import TrajectoryCache
from lib_negtrans.translation.negatives import Negative

from .common_options import load_host, output_folder
from .reporting import EXIT_DONE, EXIT_INTERRUPTED, CallError, Reporter
from .train import show_event, stop_on_signals

ASSETS = Path(__file__).resolve().parents[3] / "assets"
RENDERS, PHOTO_LORA = ASSETS / "renders", ASSETS / "lora" / "demo-photo.safetensors"
NAME = "neg-render-demo"
COLUMNS = {
    FULL: "translated",
    NO_TAC: "without attention control",
    NO_NEGATIVE: "without the negative embedding",
    NO_POSITIVE: "without the LoRA of photographs",
}
SIZE = 256  # of the pictures in training, and of the crops that are judged
READING = (
    "How to read it: KID garment says how far the garments are from photographs (lower is nearer), SSIM how much of "
    "the render's texture is kept (1 is all), dE00 how far its colours have moved. These are very few pictures, so KID "
    "may be off by a tenth or two: look at the pictures first."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="demo-out", metavar="DIR", help="folder for all results (default: demo-out)")
    parser.add_argument("--steps", type=int, default=120, help="training steps (default: 120)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training (default: 0)")
    parser.add_argument("--count", type=int, default=3, help="held-out renders to translate (default: 3)")


def training_params(steps: int, seed: int) -> TrainingParams:
    """What suits the demonstration model: its scale of pictures, and few steps of several pictures."""
    return TrainingParams.from_dict(
        {
            "steps": steps, "lr": f"2e-2:{max(1, steps * 2 // 3)}, 4e-3", "vectors": 8, "init_text": "3d render",
            "size": SIZE, "batch_size": 4, "accumulation": 1, "template": "name", "seed": seed,
        }
    )  # fmt: skip


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Train, translate, measure, write the sheet; 0 done, 130 interrupted. Raises CallError."""
    began = time.perf_counter()
    if args.count < 3:
        raise CallError(f"--count must be at least 3, not {args.count}.")
    # each configuration puts the LoRA in for itself; the bundled one fits the bundled model alone
    loras = Loras.named(args.lora or ([] if args.model else [PHOTO_LORA])).read()
    out, host = output_folder("--out", args.out), load_host(args, with_loras=False)
    report.event("phase", f"1/2  Training {NAME} on the renders of {RENDERS / 'train'} ..", phase="training")
    request = TrainingRequest(NAME, RENDERS / "train", training_params(args.steps, args.seed), overwrite=True)
    with merged(host, loras):
        job = Training(request, host, out / f"{NAME}.run", out / f"{NAME}.pt")
        with stop_on_signals(job, report), report.bar(unit="step") as bar:
            for event in job.run():
                show_event(event, report, bar)
    if not isinstance(event, events.Finished):
        return EXIT_INTERRUPTED
    embedding = read_embedding(job.out)
    for complaint in event.complaints:
        report.problem(complaint)

    rows = ablation({}, [Negative(embedding.name, embedding.vectors)], loras)
    ways = {name: rows[name] for name in COLUMNS if loras or name != NO_POSITIVE}
    renders = [load_render(path, path.name) for path in spread(image_files(RENDERS / "eval"), args.count)]
    line = f"2/2  Translating {len(renders)} held-out renders: with the whole method, then with one part left out .."
    report.event("phase", line, phase="translating")
    pictures = _translate(host, renders, ways, report)
    sheet = out / "before-after.png"
    save_png(sheet, _sheet(renders, pictures))
    for render, result in zip(renders, pictures[FULL], strict=True):
        save_png(out / "translated" / f"{Path(render.name).stem}.png", to_pil(result))
    _tell(report, renders, pictures, ways)
    seconds = time.perf_counter() - began
    line = f"{seconds:.0f} s. Look at {sheet}; the pictures are in {out / 'translated'}, the embedding is {job.out}."
    report.event("done", line, seconds=seconds, sheet=str(sheet), embedding=str(job.out))
    return EXIT_DONE


def _translate(
    host: ModelHost, renders: list[Render], ways: Mapping[str, Sequence[Configuration]], report: Reporter
) -> dict[str, list[Tensor]]:
    """Whole pictures (3, H, W) by the name of what was done with them."""
    originals = [render.rgb for render in renders]
    pictures: dict[str, list[Tensor]] = {name: [] for name in ways}
    cache = TrajectoryCache()  # two of the ways begin with the same inversion
    with report.bar(total=len(ways) * len(renders), unit="picture") as bar:
        for original in originals:
            for name, (way,) in ways.items():
                pictures[name] += translate_pictures(host, [original], way, cache=cache)[0]
                bar.update(1)
            cache.clear()
    return pictures


def _sheet(renders: list[Render], pictures: dict[str, list[Tensor]]) -> Image.Image:
    """A row for each of the first six renders, at their own size: before, and after with and without each part."""
    names = [name for name in COLUMNS if name in pictures]
    rows = [
        [to_pil(render.rgb), *(to_pil(pictures[name][number]) for name in names)]
        for number, render in enumerate(renders[:6])
    ]
    side = max(max(render.rgb.shape[1:]) for render in renders)
    return contact_sheet(rows, ["render", *(COLUMNS[name] for name in names)], title="Before and after", cell=side)


def _tell(
    report: Reporter,
    renders: list[Render],
    pictures: dict[str, list[Tensor]],
    ways: Mapping[str, Sequence[Configuration]],
) -> None:
    """Print what changed in numbers, on garment crops, or what to install for that."""
    lacking = missing_packages()
    if lacking is not None:
        report.event("table", f"No numbers: {lacking}", message=lacking)
        return
    translated = {way.name: pictures[name] for name, (way,) in ways.items()}
    base = (BASE, [render.rgb for render in renders])
    evaluation = judge_pictures(renders, base, translated, load_photo_features(), Lite0(), size=SIZE)
    table = ablation_table(evaluation, ways, without=["photo-like"])  # a classifier needs more pictures
    report.event("table", f"\n{table}\n\n{READING}\n", **evaluation_data(evaluation))
