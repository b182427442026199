"""How near a student comes to its teacher, and what its one call costs.

    python benchmarks/student.py --renders DIR --teacher DIR --student DIR [--photos DIR] [--sheet PNG]
    python benchmarks/student.py --cost [--size 512]

The first compares folders that `translate` wrote of the same renders (which have masks beside them): garment KID, the
share of the teacher's gain in it, SSIM and CIEDE2000 inside the garment against the teacher's picture and against the
render. --sheet puts render, teacher and student side by side.

The second counts FLOPs at SD1.5's size on torch's meta device: of the student's UNet call, skips and VAE, beside the
published code's rows, which `benchmarks/translate.py --peer` counts; that too encodes and decodes a picture once.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

PUBLISHED_ROWS = 90
SHOWN = 4


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--renders", type=Path, help="renders, with a mask_NAME.png beside each")
    parser.add_argument("--teacher", type=Path, help="their translations by the teacher")
    parser.add_argument("--student", type=Path, nargs="+", default=[], help="and by students, a folder each")
    parser.add_argument("--photos", type=Path, help="photographs (default: features of 200)")
    parser.add_argument("--sheet", type=Path, metavar="PNG")
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--size", type=int, help="side in pixels: of the judged crops (256), with --cost (512)")
    args = parser.parse_args()
    if not args.cost and not (args.renders and args.teacher and args.student):
        parser.error("give --renders, --teacher and --student, or --cost.")
    return args


def quality_table(args: argparse.Namespace) -> None:
    """Print the table, and write the sheet."""
    from lib_negtrans.evaluation.crops import load_photos, load_render
    from lib_negtrans.evaluation.judged_pair import pairs_of
    from lib_negtrans.evaluation.reference import load_photo_features
    from lib_negtrans.evaluation.report import cell_table
    from lib_negtrans.evaluation.run import RENDERS, judge_pictures
    from lib_negtrans.pictures.feature_network import Lite0
    from lib_negtrans.pictures.images import fit_within, flatten_alpha, load_picture, save_png, to_pil
    from lib_negtrans.pictures.sheet import contact_sheet
    from lib_negtrans.pictures.tree import look_through

    size = args.size or 256
    names = look_through(args.renders).pictures
    folders = {folder.name: folder for folder in (args.teacher, *args.student)}
    if len(folders) < 1 + len(args.student):
        sys.exit("two folders have the same name: rename one, so that the table can tell them apart.")
    sets = {}
    for name, folder in folders.items():
        pairs, without = pairs_of(names, args.renders, folder)
        if without:
            sys.exit(f"{folder} has no translation of {without[0]}: translate the same renders.")
        sets[name] = [flatten_alpha(load_picture(pair.target)) for pair in pairs]
    renders = [load_render(args.renders / name, name) for name in names]
    shrunk = [
        fit_within(render.rgb, (picture.shape[2], picture.shape[1]))
        for render, picture in zip(renders, sets[args.teacher.name], strict=True)
    ]
    base = RENDERS, shrunk
    network = Lite0()
    photos = network(load_photos(sorted(args.photos.iterdir()), size)) if args.photos else load_photo_features()
    to_render = judge_pictures(renders, base, sets, photos, network, size=size)
    teacher = args.teacher.name, sets[args.teacher.name]
    others = {base[0]: base[1]} | {name: found for name, found in sets.items() if name != teacher[0]}
    to_teacher = {row.name: row for row in judge_pictures(renders, teacher, others, photos, network, size=size).rows}
    begin, end = (to_render.rows[number].kid_garment.value for number in (0, 1))
    cells = [
        [
            row.name, f"{row.kid_garment.value:.3f}", f"{(begin - row.kid_garment.value) / (begin - end):.0%}",
            f"{row.photo_share:.0%}", f"{to_teacher[row.name].ssim:.3f}", f"{to_teacher[row.name].delta_e:.2f}",
            f"{row.ssim:.3f}", f"{row.delta_e:.2f}",
        ]
        for row in to_render.rows
    ]  # fmt: skip
    header = [
        "pictures", "KID garment", "of the teacher's gain", "photo-like", "SSIM to the teacher", "dE00 to it",
        "SSIM to the render", "dE00 to it",
    ]  # fmt: skip
    print(cell_table(header, cells))
    print(f"\n{len(names)} renders, {len(photos)} photographs, garment crops of {size} pixels.")
    if args.sheet:
        chosen = [len(names) * number // SHOWN for number in range(SHOWN)]
        columns = {"render": shrunk} | sets
        rows = [[to_pil(pictures[number]) for number in chosen] for pictures in columns.values()]
        save_png(args.sheet, contact_sheet(rows, row_labels=list(columns)))


def cost_table(size: int) -> None:
    """Print FLOPs of a picture at SD1.5's size, of the student and of the published code's rows."""
    import torch
    from models import random_sd15
    from torch.utils.flop_counter import FlopCounterMode

    from lib_negtrans.evaluation.report import cell_table
    from lib_negtrans.student.network import LATENT_CHANGE, PICTURE_CHANGE, StudentDesign, StudentNetwork

    networks = random_sd15()
    unet, vae = networks.unet.to("meta"), networks.vae.to("meta")

    class Host:  # what the layers of a student are told by
        alphas_cumprod, prediction_type = networks.alphas_cumprod, "epsilon"
        text_encoder = networks.text_encoder

    Host.unet, Host.vae = unet, vae
    shapes = StudentNetwork(Host(), StudentDesign()).kernel_shapes
    del shapes[LATENT_CHANGE], shapes[PICTURE_CHANGE]  # they stand in the place of convolutions that are as large

    def flops(function, *shape: int) -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            function(torch.empty(*shape, device="meta"))
        return counter.get_total_flops()

    cells = size // 8
    context = torch.empty(1, 77, 768, device="meta")
    row = flops(lambda z: unet(z, torch.zeros(1, device="meta"), context), 1, 4, cells, cells)
    encoder = flops(vae.encode, 1, 3, size, size)
    decoder = flops(vae.decode, 1, 4, cells, cells)
    skips = sum(2 * out * into * (cells * 2**level) ** 2 for level, (out, into, _, _) in enumerate(shapes.values()))
    table = []
    published = PUBLISHED_ROWS * row
    for name, alone in (("published code", published), ("student", row + skips)):
        whole = alone + encoder + decoder
        numbers = alone / 1e12, alone / published, whole / 1e12, whole / (published + encoder + decoder)
        table.append([name, str(1 if name == "student" else PUBLISHED_ROWS), *(f"{number:.3f}" for number in numbers)])
    header = ["", "UNet rows", "TFLOP without the VAE", "ratio", "TFLOP with the VAE", "ratio"]
    print(cell_table(header, table))
    count = sum(out * into for out, into, _, _ in shapes.values())
    print(
        f"\n{size}x{size}. A UNet row {row / 1e12:.3f} TFLOP, encoder {encoder / 1e12:.3f}, decoder "
        f"{decoder / 1e12:.3f}, skips {skips / 1e12:.3f} ({count:,} parameters); LoRAs are merged and cost nothing."
    )


def main() -> None:
    args = parse_arguments()
    if args.cost:
        cost_table(args.size or 512)
    else:
        quality_table(args)


if __name__ == "__main__":
    main()
