"""The method beside other programs on the same garment crops: the published code, and a translator without diffusion.

    python benchmarks/rivals.py --renders DIR --photos DIR --negative FILE .. [--lora FILE] [--peer DIR]
        [--unpaired FILE] [--presets default single] [--sheet PNG]

--negative may be repeated, with trainings of other seeds: then the table gives the mean, ± the largest distance to it.
--peer: a clone of Style3D/FashionR2R, run with the same model, LoRA and negatives. --unpaired: what `unpaired.py` has
trained. The columns are those of `evaluate --ablation`.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

if TYPE_CHECKING:
    from lib_negtrans.evaluation.configurations import Configuration
    from lib_negtrans.evaluation.run import Translator
    from lib_negtrans.translation.negatives import Negative

SIZE = 256


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--renders", type=Path, required=True, help="renders, with a mask_NAME.png beside each")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--negative", action="append", required=True, metavar="FILE")
    parser.add_argument("--lora", action="append", default=[], metavar="FILE[:WEIGHT]")
    parser.add_argument("--model", help="a checkpoint (default: the demonstration model)")
    parser.add_argument("--peer", type=Path, metavar="DIR")
    parser.add_argument("--unpaired", type=Path, metavar="FILE")
    parser.add_argument("--presets", nargs="+", default=["default", "single"])
    parser.add_argument("--sheet", type=Path, metavar="PNG")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def published(args: argparse.Namespace, negative: Negative) -> Translator:
    """The published code on a model of its own, with its own settings."""
    from peer import Peer

    from lib_negtrans.lora.apply import load_model
    from lib_negtrans.models.standalone import default_model_path
    from lib_negtrans.pictures.images import to_pil

    def translate_all(pictures):
        peer = Peer(args.peer, load_model(args.model or default_model_path(), loras=args.lora))
        peer.add_embedding(negative.name, negative.vectors)
        return [peer.translate(to_pil(picture), negative.name, steps=50, strength=0.3).image[0] for picture in pictures]

    return translate_all


def main() -> None:
    args = parse_arguments()
    import torch
    from unpaired import translate_all

    from lib_negtrans.apps.cli.common_options import load_negatives
    from lib_negtrans.evaluation.ablation import ablation_table
    from lib_negtrans.evaluation.configurations import parse_configurations
    from lib_negtrans.evaluation.crops import load_photos, load_render
    from lib_negtrans.evaluation.report import evaluation_sheet
    from lib_negtrans.evaluation.run import evaluate
    from lib_negtrans.lora.apply import load_model
    from lib_negtrans.models.standalone import default_model_path
    from lib_negtrans.pictures.feature_network import Lite0
    from lib_negtrans.pictures.images import save_png
    from lib_negtrans.pictures.tree import image_files

    torch.set_num_threads(args.threads)
    negatives = load_negatives(args)
    configurations: list[Configuration] = []
    rows: dict[str, list[SimpleNamespace]] = defaultdict(list)  # row -> what it is the mean of, by name
    others: dict[str, Translator] = {}
    for number, negative in enumerate(negatives, 1):
        for found in parse_configurations(",".join(args.presets), {}, [negative]):
            configurations.append(replace(found, name=f"{found.name} [{number}]"))
            rows[found.name].append(SimpleNamespace(name=configurations[-1].name))
        if args.peer:
            name = f"the published code [{number}]"
            others[name] = published(args, negative)
            rows["the published code"].append(SimpleNamespace(name=name))
    if args.unpaired:
        others["CUT (no diffusion)"] = lambda pictures: translate_all(args.unpaired, pictures)
    evaluation = evaluate(
        load_model(args.model or default_model_path(), loras=args.lora),
        [load_render(path) for path in image_files(args.renders)], load_photos(image_files(args.photos), SIZE),
        configurations, Lite0(), size=SIZE, others=others,
        on_row=lambda row: print(f"{row.name}: KID {row.kid.value:.3f}", file=sys.stderr, flush=True),
    )  # fmt: skip
    print(ablation_table(evaluation, rows))
    if args.sheet:
        save_png(args.sheet, evaluation_sheet(evaluation))


if __name__ == "__main__":
    main()
