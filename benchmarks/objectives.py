"""Which objective gives the better embedding, at equal compute: KID of translations at equal SSIM in the garment.

    python benchmarks/objectives.py --train DIR --train-photos DIR --renders DIR --photos DIR [--seeds 3] [--steps 100]

--train, --train-photos are learnt from; --renders, --photos are held out. Trained are

    all timesteps    plain textual inversion: reconstruct, timesteps 0 to 999
    restricted       reconstruct, the timesteps that a translation at the training's strength uses
    contrastive      those, and real photos with guidance in the loss

with the same number of UNet passes: a photo's row costs 5/2 of a render's (a prediction without gradient, and one with
it), so contrastive takes 2/5 of the steps. Every embedding translates the renders at several strengths; KID is read off
at one SSIM by a straight line between the two strengths around it. Prints the rows as they come, then a table of means
over the seeds with their largest distance from the mean.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib_negtrans.embeddings.files import read_embedding  # noqa: E402
from lib_negtrans.evaluation.configurations import parse_configurations  # noqa: E402
from lib_negtrans.evaluation.crops import load_photos, load_render, spread  # noqa: E402
from lib_negtrans.evaluation.run import evaluate  # noqa: E402
from lib_negtrans.models.standalone import default_model_path, load_model  # noqa: E402
from lib_negtrans.pictures.feature_network import Lite0, missing_packages  # noqa: E402
from lib_negtrans.pictures.tree import image_files  # noqa: E402
from lib_negtrans.training.params import TrainingParams  # noqa: E402
from lib_negtrans.training.request import TrainingRequest  # noqa: E402
from lib_negtrans.training.run import Training  # noqa: E402
from lib_negtrans.translation.negatives import Negative  # noqa: E402

NAME = "neg-objective"
KINDS = {
    "all timesteps": {"max_timestep": 999},
    "restricted": {},
    "contrastive": {"objective": "contrastive"},
}
SHARE = {"contrastive": 2 / 5}  # of the steps, for as many UNet passes


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train", "train-photos", "renders", "photos"):
        parser.add_argument(f"--{name}", required=True, metavar="DIR")
    parser.add_argument("--model")
    parser.add_argument("--pattern", default="", help="of the renders' file names (default: all)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--lr", default="2e-2")
    parser.add_argument("--vectors", type=int, default=8)
    parser.add_argument("--init-text", default="3d render")
    parser.add_argument("--strength", type=float, default=0.4, help="the training's (default: .4)")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.3, 0.5], help="the translations'")
    parser.add_argument("--count", type=int, default=24, help="renders to judge on (default: 24)")
    parser.add_argument("--at-ssim", type=float, default=0.92)
    parser.add_argument("--photo-weight", type=float, nargs="+", default=[1.0], help="a contrastive row for each")
    parser.add_argument("--photo-guidance", type=float, default=7.5)
    return parser.parse_args(argv)


def at(points: list[tuple[float, float, float]], ssim: float, column: int) -> float:
    """A column of (SSIM, KID, garment KID) points at an SSIM, by the line through the two nearest to it."""
    near = sorted(points, key=lambda point: abs(point[0] - ssim))[:2]
    (x0, y0), (x1, y1) = ((point[0], point[column]) for point in near)
    return y0 + (y1 - y0) * (ssim - x0) / (x1 - x0)


def main() -> None:
    args = parse_arguments()
    if missing := missing_packages():
        sys.exit(missing)
    host = load_model(args.model or default_model_path())
    renders = [load_render(path, path.name) for path in spread(image_files(Path(args.renders)), args.count)]
    network = Lite0(host.device)
    photos = network(load_photos(image_files(Path(args.photos)), args.size))
    kinds = {kind: dict(values) for kind, values in KINDS.items() if kind != "contrastive"}
    for weight in args.photo_weight:
        kinds[f"contrastive, photo weight {weight:g}"] = KINDS["contrastive"] | {
            "photo_weight": weight, "photo_guidance": args.photo_guidance,
        }  # fmt: skip
    found: dict[str, list[list[tuple[float, float, float]]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            for kind, values in kinds.items():
                vectors = train(args, host, kind, values, seed, Path(folder))
                text = ",".join(f"default:strength={strength:g}" for strength in args.strengths)
                ways = parse_configurations(text, None, [Negative(NAME, vectors)])
                result = evaluate(host, renders, photos, ways, network, size=args.size)
                points = [(row.ssim, row.kid.value, row.kid_garment.value) for row in result.rows[1:]]
                found[kind].append(points)
                line = ", ".join(f"KID {kid:.3f} (garment {own:.3f}) at SSIM {ssim:.3f}" for ssim, kid, own in points)
                print(f"seed {seed}, {kind}: {line}; renders {result.rows[0].kid.value:.3f}", flush=True)
    strengths = [f"strength {strength:g}: KID | SSIM" for strength in args.strengths]
    print(f"\n| objective | {' | '.join(strengths)} | KID at SSIM {args.at_ssim:g} | KID garment there |")
    print(f"|---|{'---:|' * (2 * len(strengths) + 2)}")
    for kind, seeds in found.items():
        cells = []
        for number in range(len(args.strengths)):
            cells += [told([points[number][1] for points in seeds]), told([points[number][0] for points in seeds])]
        cells += [told([at(points, args.at_ssim, column) for points in seeds]) for column in (1, 2)]
        print(f"| {kind} | {' | '.join(cells)} |")


def told(values: list[float]) -> str:
    """Mean, and the largest distance from it."""
    mean = statistics.fmean(values)
    return f"{mean:.3f} ± {max(abs(value - mean) for value in values):.3f}"


def train(args: argparse.Namespace, host, kind: str, values: dict, seed: int, folder: Path):
    """The vectors of one training."""
    steps = round(args.steps * SHARE.get(kind.split(",")[0], 1.0))
    params = TrainingParams.from_dict(
        {
            "steps": steps, "lr": args.lr, "vectors": args.vectors, "init_text": args.init_text, "size": args.size,
            "strength": args.strength, "batch_size": args.batch, "accumulation": 1, "template": "name", "seed": seed,
            "pattern": args.pattern, "aspect": "square", "latent_cache": "disk", "save_every": steps, **values,
        }
    )  # fmt: skip
    out = folder / f"{kind.replace(' ', '-').replace(',', '')}-{seed}" / f"{NAME}.pt"
    request = TrainingRequest(NAME, Path(args.train), params, photos=Path(args.train_photos))
    for _ in Training(request, host, folder / out.parent.name, out).run():
        pass
    return read_embedding(out).vectors


if __name__ == "__main__":
    main()
