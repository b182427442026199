"""`python -m lib_negtrans evaluate`: a table of KID, SSIM, CIEDE2000 and cost, and a sheet of pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib_negtrans.embeddings.files import check_width
from lib_negtrans.evaluation.ablation import ablation, ablation_table
from lib_negtrans.evaluation.configurations import describe_names, parse_configurations
from lib_negtrans.evaluation.crops import Render, load_photos, load_render, spread
from lib_negtrans.evaluation.feature_network import Lite0, missing_packages
from lib_negtrans.evaluation.reference import load_photo_features
from lib_negtrans.evaluation.report import evaluation_data, evaluation_sheet, markdown_table, row_data
from lib_negtrans.evaluation.run import Evaluation, TableRow, evaluate, judge_pictures, round_trip
from lib_negtrans.lora.merge import Loras
from lib_negtrans.pictures.images import ImageError, flatten_alpha, load_picture, save_png
from lib_negtrans.pictures.tree import image_files
from lib_negtrans.translation.params import TranslationParams

from .common_options import add_negative, add_params, given, load_host, load_negatives
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
    add_params(parser, TranslationParams)


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Evaluate and print the table; 0 done, 1 some pictures failed. Raises CallError for a wrong call."""
    missing = missing_packages()
    if missing is not None:
        raise CallError(missing)
    if args.size < 64 or args.size % 8:
        raise CallError(f"--size must be a multiple of 8 from 64 on, not {args.size}.")
    if args.batch < 1 or (args.count is not None and args.count < 3):
        raise CallError("--batch must be at least 1 and --count at least 3.")
    files, failed = _pictures(args.renders, "--renders", args.count), 0
    renders: list[Render] = []
    for path in files:
        try:
            renders.append(load_render(path, str(path.relative_to(args.renders))))
        except ImageError as error:
            failed += 1
            report.problem(f"failed: {path}: {error}", source=str(path))
    photos = _photos(args)
    with report.bar(unit="picture") as bar:
        if args.outputs:
            evaluation, lacking = _judge(args, report, renders, photos)
            failed += lacking
        else:
            _enough(renders)
            evaluation = _translate(args, report, bar, renders, photos)
    _tell(args, report, evaluation)
    return 1 if failed else 0


def _pictures(folder: str, option: str, count: int | None) -> list[Path]:
    if not Path(folder).is_dir():
        raise CallError(f"{option} {folder} is not a folder.")
    files = spread(image_files(Path(folder)), count)
    if len(files) < 3:
        raise CallError(f"{option} {folder} holds {len(files)} pictures: at least 3 are needed.")
    return files


def _photos(args: argparse.Namespace):
    """Photo pixels (M, 3, size, size), or the features kept with the project."""
    try:
        if args.photos is None:
            return load_photo_features()
        return load_photos(_pictures(args.photos, "--photos", None), args.size)
    except ImageError as error:
        raise CallError(f"--photos {args.photos}: {error}") from error
    except (OSError, ValueError) as error:
        raise CallError(f"the photos' features cannot be read ({error}): name photographs with --photos.") from error


def _enough(renders: list) -> None:
    if len(renders) < 3:
        raise CallError(f"only {len(renders)} renders can be judged: at least 3 are needed.")


def _judge(args, report: Reporter, renders: list[Render], photos) -> tuple[Evaluation, int]:
    folder = Path(args.outputs)
    # the suffix may differ (translate writes PNG), the place in the tree may not
    by_stem = {str(p.relative_to(folder).with_suffix("")): p for p in image_files(folder)} if folder.is_dir() else {}
    judged, outputs = [], []
    for render in renders:
        path = by_stem.get(str(Path(render.name).with_suffix("")))
        try:
            if path is None:
                raise ImageError(f"has no picture in {folder}.")
            picture = flatten_alpha(load_picture(path))
            shape, own = picture.shape[1:], render.rgb.shape[1:]
            if abs(shape[0] * own[1] - shape[1] * own[0]) > max(own) * 2:
                raise ImageError(f"is {own[1]}x{own[0]} but its translation {shape[1]}x{shape[0]}: another shape.")
        except ImageError as error:
            report.problem(f"failed: {render.name}: {error}", source=render.name)
            continue
        judged.append(render)
        outputs.append(picture)
    _enough(judged)
    # without the model SSIM and CIEDE2000 contain the VAE's own loss
    pictures = [r.rgb for r in judged]
    base = ("renders through the VAE", round_trip(load_host(args), pictures)) if args.model else ("renders", pictures)
    sets = {folder.name or "outputs": outputs}
    sizes = {"size": args.size, "background": args.judged_background}
    result = judge_pictures(judged, base, sets, photos, Lite0(), **sizes)
    return result, len(renders) - len(judged)


def _translate(args, report: Reporter, bar, renders: list[Render], photos) -> Evaluation:
    values = given(args, TranslationParams)
    parse_configurations(args.configs, values)  # a misspelt name is told before a model is loaded
    negatives = load_negatives(args)
    rows = {}
    if args.ablation:
        if not (negatives and args.lora):
            raise CallError("--ablation needs --negative and --lora: the two halves that it leaves out in turn.")
        rows = ablation(values, negatives, Loras.named(args.lora).read())
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
        report.event("ablation", ablation_table(evaluation, rows) + "\n")
    return evaluation


def _tell(args: argparse.Namespace, report: Reporter, evaluation: Evaluation) -> None:
    report.event("evaluation", markdown_table(evaluation, args.judged_background), **evaluation_data(evaluation))
    if args.sheet:
        try:
            save_png(Path(args.sheet), evaluation_sheet(evaluation))
        except OSError as error:
            raise CallError(f"--sheet {args.sheet} cannot be written: {error}") from error
        report.event("sheet", f"{args.sheet}", path=str(args.sheet))
