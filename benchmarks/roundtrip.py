"""How exactly a render comes back: inverted, then sampled with the same prompt, cfg 1, no attention control.

    python benchmarks/roundtrip.py [--model PATH] [--renders DIR] [--count 20] [--size 256]

Prints a Markdown table over the fixed-point iterations K (up to K times the steps, where they are needed), on all steps
of the grid. Latent PSNR: 20 log10(6 std / RMSE), std of the latents, the range of about 6 deviations taken as peak.
Image: PSNR to the render, beside the VAE's own round trip.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib_negtrans.evaluation.crops import spread  # noqa: E402
from lib_negtrans.models.standalone import default_model_path, load_model  # noqa: E402
from lib_negtrans.pictures.images import fit_within, flatten_alpha, load_picture, pad_to_multiple  # noqa: E402
from lib_negtrans.pictures.tree import image_files  # noqa: E402
from lib_negtrans.translation.params import TranslationParams  # noqa: E402
from lib_negtrans.translation.pipeline import translate  # noqa: E402


def psnr(error: torch.Tensor, peak: float) -> float:
    """20 log10(peak / RMSE), mean over the batch, in dB."""
    rmse = error.square().flatten(1).mean(1).sqrt()
    return float((20 * torch.log10(peak / rmse)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None)
    parser.add_argument("--renders", default=str(ROOT / "assets" / "renders" / "eval"))
    parser.add_argument("--count", type=int, default=20, help="renders at most (default: 20)")
    parser.add_argument("--size", type=int, default=256, help="longest side (default: 256)")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--strength", type=float, default=0.3)
    parser.add_argument("--iterations", type=int, nargs="+", default=[0, 1, 2, 3], metavar="K")
    args = parser.parse_args()

    host = load_model(args.model or default_model_path())
    files = spread(image_files(Path(args.renders)), args.count)
    size = (args.size, args.size)
    images = [pad_to_multiple(fit_within(flatten_alpha(load_picture(path)), size)[None]) for path in files]
    print(f"{len(images)} renders, {args.steps} steps at strength {args.strength:g}, {host.checkpoint_name}\n")
    print("| K | latent PSNR | latent RMSE | image PSNR | VAE alone | forwards |")
    print("|---:|---:|---:|---:|---:|---:|")
    for iterations in args.iterations:
        params = TranslationParams(
            strength=args.strength, steps=args.steps, step_share=1.0, cfg_scale=1.0, tac_ratio=0.0,
            fixed_point=iterations,
        )  # fmt: skip
        rows = []
        for image in images:
            result = translate(host, image.to(host.device), params)
            error = (result.latent - result.source_latent).cpu()
            vae = host.decode_latent(result.source_latent).cpu()
            rows.append(
                (
                    psnr(error, 6 * float(result.source_latent.std())),
                    float(error.square().mean().sqrt()),
                    psnr(result.image.cpu() - image, 1.0),
                    psnr(vae - image, 1.0),
                    float(result.forwards.total),
                )
            )
        latent, rmse, decoded, vae, forwards = torch.tensor(rows).mean(0).tolist()
        print(
            f"| {iterations} | {latent:.1f} dB | {rmse:.5f} | {decoded:.2f} dB | {vae:.2f} dB | {forwards:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
