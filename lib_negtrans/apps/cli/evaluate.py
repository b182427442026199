"""`python -m lib_negtrans evaluate`: a table of KID, SSIM, CIEDE2000 and cost, and a sheet of pictures."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sized
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lib_negtrans.embeddings.files import check_width
from lib_negtrans.evaluation.ablation import ablation, ablation_table
from lib_negtrans.evaluation.configurations import describe_names, parse_configurations
from lib_negtrans.evaluation.crops import Render, load_photos, load_render, spread
from lib_negtrans.evaluation.judged_pair import PairItem, PairJob, PairMeasures, Pairs, pairs_of
from lib_negtrans.evaluation.reference import load_photo_features
from lib_negtrans.evaluation.report import SHEET_PICTURES, evaluation_data, evaluation_sheet, markdown_table, row_data
from lib_negtrans.evaluation.run import RENDERS, THROUGH_VAE, Evaluation, Judge, TableRow, evaluate
from lib_negtrans.files import place, store_errors
from lib_negtrans.lora.merge import Loras
from lib_negtrans.models.standalone import usable_device
from lib_negtrans.pictures.feature_network import Lite0, missing_packages
from lib_negtrans.pictures.images import ImageError, save_png
from lib_negtrans.pictures.tree import image_files
from lib_negtrans.runners.runner import ItemFailed, make_item
from lib_negtrans.translation.params import TranslationParams

from .common_options import add_concept, add_negative, add_params, given, load_host, load_negatives, model_choice
from .engine import add_engine, for_engine, runner_of, shared_place
from .reporting import CallError, Reporter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--renders", required=True, metavar="DIR",
        help="folder of renders, with a mask_NAME.png beside each, or with transparency",
    )  # fmt: skip
    parser.add_argument(
        "--photos", metavar="DIR", help="folder of photographs to compare with (default: features of 200 photographs)"
    )
    parser.add_argument(
        "--outputs", metavar="DIR",
        help="judge the pictures in this folder, named as the renders; nothing is translated",
    )  # fmt: skip
    add_negative(parser)
    names = describe_names().replace("%", "%%")
    parser.add_argument(
        "--configs", default="default,no-tac,none", metavar="NAME[:FIELD=VALUE]..,..",
        help=f"the configurations to compare. {names}",
    )  # fmt: skip
    parser.add_argument(
        "--ablation", action="store_true",
        help="compare the parts of the method instead of --configs. --lora names the LoRA of photographs, --negative "
        "one embedding, or several from trainings with other seeds: then the table gives their mean",
    )  # fmt: skip
    parser.add_argument(
        "--base-negative", action="append", default=[], metavar="FILE[:WEIGHT]",
        help="for --ablation: an embedding that was trained without the LoRA, for the row without it and rows that "
        "exchange the two kinds; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--region", choices=("crop", "full"), default="crop", help="translate crops of the garment, or whole renders"
    )
    parser.add_argument("--size", type=int, default=128, help="side of the judged crops in pixels (default: 128)")
    parser.add_argument(
        "--judged-background", choices=("same", "mean"), default="same",
        help="what replaces the backgrounds for the column KID garment",
    )  # fmt: skip
    parser.add_argument("--count", type=int, metavar="N", help="use only N of the renders, spread evenly")
    parser.add_argument("--batch", type=int, default=8, help="pictures translated together (default: 8)")
    parser.add_argument("--sheet", metavar="PNG", help="write a sheet of pictures: a row for each configuration")
    add_engine(parser)
    add_concept(parser)
    add_params(parser, TranslationParams, skip=("concepts",))


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Evaluate and print the table; 0 done, 1 some pictures failed. Raises CallError for a wrong call."""
    missing = missing_packages()
    if missing is not None:
        raise CallError(missing)
    if args.size < 64 or args.size % 8:
        raise CallError(f"--size must be a multiple of 8 from 64 on, not {args.size}.")
    if args.batch < 1 or (args.count is not None and args.count < 3):
        raise CallError("--batch must be at least 1 and --count at least 3.")
    if args.engine != "local" and not args.outputs:
        raise CallError("--engine ray judges pictures that are there: translate first, and name them with --outputs.")
    files = _pictures(args.renders, "--renders", args.count)
    photos = _photos(args)
    with report.bar(unit="picture") as bar:
        work = _judge if args.outputs else _translate
        evaluation, failed = work(args, report, bar, files, photos)
    _tell(args, report, evaluation)
    return 1 if failed else 0


def _pictures(text: str, option: str, count: int | None) -> list[Path]:
    folder = place(text)
    with store_errors(folder):
        if not folder.is_dir():
            raise CallError(f"{option} {folder} is not a folder.")
    files = spread(image_files(folder), count)
    if len(files) < 3:
        raise CallError(f"{option} {folder} holds {len(files)} pictures: at least 3 are needed.")
    return files


def _photos(args: argparse.Namespace):
    """Photo pixels (M, 3, size, size), or with --outputs their features; or those kept with the project."""
    try:
        if args.photos is None:
            return load_photo_features()
        files = _pictures(args.photos, "--photos", None)
        if not args.outputs:
            return load_photos(files, args.size)
        network = Lite0(usable_device(args.device))
        return np.concatenate([network(load_photos([path], args.size)) for path in files])
    except ImageError as error:
        raise CallError(f"--photos {args.photos}: {error}") from error
    except (OSError, ValueError) as error:
        raise CallError(f"the photos' features cannot be read ({error}): name photographs with --photos.") from error


def _enough(renders: Sized) -> None:
    if len(renders) < 3:
        raise CallError(f"only {len(renders)} renders can be judged: at least 3 are needed.")


def _judge(
    args: argparse.Namespace, report: Reporter, bar: tqdm, files: list[Path], photos: np.ndarray
) -> tuple[Evaluation, int]:
    """The table of --outputs, and how many of the pairs have failed."""
    renders = [path.relative_to(place(args.renders)).as_posix() for path in files]
    source, folder = (shared_place(args, place(text)) for text in (args.renders, args.outputs))
    items, without = pairs_of(renders, source, folder)
    for name in without:
        report.problem(f"failed: {name}: has no picture in {folder}.", source=name)
    _enough(items)
    model = for_engine(args, model_choice(args)) if args.model else None
    job = PairJob(args.size, args.judged_background, model, args.device)
    measured: dict[PairItem, PairMeasures] = {}
    bar.total = len(items)
    for item, made, error in _measured(args, job, items):
        bar.update()
        if made is not None:
            measured[item] = made
        else:
            name = _at_fault(item)
            report.problem(f"failed: {name}: {error}", source=name)
    _enough(measured)
    judged = [item for item in items if item in measured]  # in the renders' order, whoever was first
    judge, names = Judge(photos), (THROUGH_VAE if args.model else RENDERS, folder.name or "outputs")
    judge.add(names[0], [measured[item].base for item in judged])
    judge.add(names[1], [measured[item].output for item in judged])
    parts = [torch.empty(0, 3, args.size, args.size)] * 3 + [torch.empty(0, args.size, args.size)]
    if args.sheet:  # only what it shows is looked at again
        worker = job.start()
        shown = [worker.crops(*worker.read(item)) for item in judged[:SHEET_PICTURES]]
        parts = [torch.cat(part) for part in zip(*shown, strict=True)]
    crops = dict(zip(names, parts[1:3], strict=True))
    evaluation = judge.evaluation([item.name for item in judged], parts[0], crops, parts[3])
    return evaluation, len(files) - len(judged)


def _measured(
    args: argparse.Namespace, job: PairJob, items: Pairs
) -> Iterator[tuple[PairItem, PairMeasures | None, str | None]]:
    """Each item with its measures, or with the sentence that says why there are none."""
    if args.engine != "local":
        with runner_of(args, items.out) as runner:
            yield from ((done.item, done.made, done.error) for done in runner.run(job, items))
        return
    worker = job.start()
    for item in items:
        try:
            yield item, make_item(worker, item), None
        except ItemFailed as error:
            yield item, None, str(error)


def _at_fault(item: PairItem) -> str:
    """What a failure is said of: the render's file if that cannot be used, else the pair by its name."""
    try:
        load_render(item.source)
    except ImageError:
        return str(item.source)
    return item.name


def _translate(
    args: argparse.Namespace, report: Reporter, bar: tqdm, files: list[Path], photos: Tensor | np.ndarray
) -> tuple[Evaluation, int]:
    """The table of configurations, and how many renders cannot be read."""
    renders: list[Render] = []
    for path in files:
        try:
            renders.append(load_render(path, path.relative_to(place(args.renders)).as_posix()))
        except ImageError as error:
            report.problem(f"failed: {path}: {error}", source=str(path))
    _enough(renders)
    values = given(args, TranslationParams)
    parse_configurations(args.configs, values)  # a misspelt name is told before a model is loaded
    negatives = load_negatives(args)
    rows = {}
    if args.ablation:
        if not (negatives and args.lora):
            raise CallError("--ablation needs --negative and --lora: the two halves that it leaves out in turn.")
        base_negatives = load_negatives(args, "base_negative")
        rows = ablation(values, negatives, Loras.named(args.lora).read(), base_negatives)
        negatives += base_negatives
    host = load_host(args, with_loras=not rows)  # the ablation's configurations bring them
    for negative in negatives:
        check_width(negative.name, negative.vectors, host.embedding_width)
    configurations = [c for members in rows.values() for c in members]
    configurations = configurations or parse_configurations(args.configs, values, negatives)
    bar.total = len(renders) * len(configurations)

    def on_progress(name: str, done: int, total: int) -> None:
        number = next(i for i, c in enumerate(configurations) if c.name == name)
        bar.set_postfix_str(name, refresh=False)
        bar.update(number * total + done - bar.n)

    def on_row(row: TableRow) -> None:
        line = f"{row.name}: KID {row.kid.value:.3f} ± {row.kid.error:.3f}"
        report.event("configuration", line, **row_data(row))

    evaluation = evaluate(
        host, renders, photos, configurations, Lite0(host.device), region=args.region, size=args.size,
        batch=args.batch, background=args.judged_background, on_progress=on_progress, on_row=on_row,
    )  # fmt: skip
    if rows:
        report.result("ablation", ablation_table(evaluation, rows) + "\n")
    return evaluation, len(files) - len(renders)


def _tell(args: argparse.Namespace, report: Reporter, evaluation: Evaluation) -> None:
    report.result("evaluation", markdown_table(evaluation, args.judged_background), **evaluation_data(evaluation))
    if args.sheet:
        try:
            save_png(Path(args.sheet), evaluation_sheet(evaluation))
        except OSError as error:
            raise CallError(f"--sheet {args.sheet} cannot be written: {error}") from error
        report.event("sheet", f"{args.sheet}", path=str(args.sheet))
