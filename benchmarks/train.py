"""What a training step costs: ours, beside the trainers that people know.

    python benchmarks/train.py [--kind negative] [--diffusers DIR] [--webui DIR --webui-python PYTHON]
    python benchmarks/train.py --kind lora|full [--diffusers DIR] [--kohya DIR] [--peers-python PYTHON]

DIRs are a clone of huggingface/diffusers (its examples textual_inversion.py, train_text_to_image_lora.py and
train_text_to_image.py), a clone of kohya-ss/sd-scripts (train_network.py and fine_tune.py), and an installed
AUTOMATIC1111 webui with the Python of its environment. PYTHON of --peers-python has what those scripts import. All
train on the same pictures with the same size, batch and precision, the same optimizer (AdamW) and, for a LoRA, the same
rank 16, on networks of SD1.5's size with random weights; each in a process of its own, one after the other. kohya's
trainers keep the latents in memory, as ours does, and train the same 192 layers of a LoRA; diffusers' examples encode
the picture at every step, and train 128 of those layers. A full finetune needs about 16 GB of memory.

A step is the time from one call of the optimizer to the next; the first two are not counted. CPU seconds hardly depend
on what else the machine does. "Above weights" is the peak of memory from the trainer's start to the last step, above
what the loaded model holds. Prints a Markdown table. --flops counts instead what each kind of step of a negative
computes, without weights and in a second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORKER = ROOT / "benchmarks" / "train_worker.py"
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

OURS = {"ours": "this project", "ours-checkpointing": "this project, gradient checkpointing"}
TRAINERS = {
    "negative": {
        **OURS,
        "diffusers": "diffusers' textual_inversion.py",
        "webui": "the webui's own trainer",
        "ours-webui": "this project in the webui",
        "ours-webui-checkpointing": "this project in the webui, gradient checkpointing",
    },
    "lora": {**OURS, "diffusers": "diffusers' train_text_to_image_lora.py", "kohya": "kohya's train_network.py"},
    "full": {**OURS, "diffusers": "diffusers' train_text_to_image.py", "kohya": "kohya's fine_tune.py"},
}
PICTURES = 5
COMPARED = (
    ("ours", "diffusers"),
    ("ours", "kohya"),
    ("ours", "webui"),
    ("ours-webui", "webui"),
    ("ours-checkpointing", "webui"),
    ("ours-webui-checkpointing", "webui"),
)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=tuple(TRAINERS), default="negative", help="what is trained")
    parser.add_argument("--diffusers", metavar="DIR", help="a clone of huggingface/diffusers")
    parser.add_argument("--kohya", metavar="DIR", help="a clone of kohya-ss/sd-scripts")
    parser.add_argument("--peers-python", metavar="PYTHON", default=sys.executable, help="for diffusers' and kohya's")
    parser.add_argument("--webui", metavar="DIR", help="an installed AUTOMATIC1111 webui")
    parser.add_argument("--webui-python", metavar="PYTHON", help="the Python of its environment")
    parser.add_argument("--images", default=str(ROOT / "assets/renders/eval"), help="pictures to train on")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed (default: 5)")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    every = sorted({name for names in TRAINERS.values() for name in names})
    parser.add_argument("--only", nargs="+", choices=every, help="default: all that can run")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32", help="mixed, but for fp32")
    parser.add_argument("--card", type=float, metavar="GB", help="as on a graphics card with so much memory")
    parser.add_argument("--flops", action="store_true", help="count the work of a step instead of timing it")
    args = parser.parse_args(argv)
    if args.webui and not args.webui_python:
        parser.error("--webui needs --webui-python, the Python of its environment.")
    return args


def main() -> None:
    args = parse_arguments()
    if args.flops:
        return print_flops(args.size, args.batch)
    from translate import machine

    names, rows = TRAINERS[args.kind], {}
    for name in names:
        possible = name.startswith("ours") or getattr(args, name)
        if possible and (args.webui or "webui" not in name) and (not args.only or name in args.only):
            rows[name] = measure(name, args)
            print(f"{names[name]}: {json.dumps(rows[name])}", file=sys.stderr, flush=True)
    print(
        f"{args.kind}, {args.size}x{args.size}, batch {args.batch}, {args.precision}, {args.steps} steps timed;",
        end=" ",
    )
    print(f"{args.threads} threads; {machine()}\n")
    measures = ("seconds a step", "CPU seconds", "steps a second", "peak above weights", "peak in all")
    titles = ["trainer", *measures, "torch"]
    print(f"| {' | '.join(titles)} |\n|---|{'---:|' * (len(titles) - 2)}---|")
    for name, row in rows.items():
        if "error" in row:
            print(f"| {names[name]} | failed: {row['error']} {'| ' * (len(titles) - 1)}|")
            continue
        cells = [names[name], f"{row['seconds']:.2f}", f"{row['cpu']:.2f}", f"{1 / row['seconds']:.3f}"]
        print(f"| {' | '.join([*cells, *(f'{row[key]:.0f} MiB' for key in ('above', 'whole')), row['torch']])} |")
    print()
    for ours, theirs in COMPARED:
        if "seconds" in rows.get(ours, {}) and "seconds" in rows.get(theirs, {}):
            ratio, work = (rows[theirs][key] / rows[ours][key] for key in ("seconds", "cpu"))
            less = (rows[theirs]["above"] - rows[ours]["above"]) / 1024
            text = f"{ratio:.2f} times the steps a second of {names[theirs]} ({work:.2f} by CPU time)"
            print(f"{names[ours]}: {text}, {less:+.2f} GiB less memory.")


def print_flops(size: int, batch: int) -> None:
    """Of UNet and VAE in SD1.5's size, on tensors without content; the text encoder is the same for all."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, **blocks)
        latent, image = torch.zeros(batch, 4, size // 8, size // 8), torch.zeros(batch, 3, size, size)
        context, time = torch.zeros(batch, 77, 768, requires_grad=True), torch.zeros(batch, dtype=torch.long)

    def count(frozen: bool, backward: bool = True, pixels: bool = False) -> float:
        unet.requires_grad_(not frozen)
        with FlopCounterMode(display=False) as counter:
            if pixels:
                vae.encode(image)
            out = unet(latent, time, encoder_hidden_states=context).sample
            if backward:
                out.sum().backward()
        return counter.get_total_flops() / 1e9

    ours, again = count(frozen=True), count(frozen=True, backward=False)
    print(f"{size}x{size}, batch {batch}\n\n| step | GFLOPs | to ours |\n|---|---:|---:|")
    for text, flops in (
        ("this project: frozen UNet, latents encoded once", ours),
        ("this project, gradient checkpointing: forward twice", ours + again),
        ("diffusers' example: frozen UNet, the picture encoded at every step", count(frozen=True, pixels=True)),
        ("the webui's trainer: gradients of all weights, forward twice", count(frozen=False) + again),
    ):
        print(f"| {text} | {flops:.0f} | {flops / ours:.2f} |")


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One trainer in a process of its own: {"seconds", "above", "whole", "torch"} or {"error"}."""
    from lib_negtrans.pictures.tree import image_files

    python = args.webui_python if "webui" in name else sys.executable if name in OURS else args.peers_python
    threads = {key: str(args.threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    with tempfile.TemporaryDirectory() as folder:
        job = {
            "name": name, "kind": args.kind, "folder": folder, "steps": args.steps, "size": args.size,
            "batch": args.batch, "precision": args.precision, "card": args.card,
            "clone": str(Path(getattr(args, name, args.webui) or ".").resolve()),
            "pictures": [str(path.resolve()) for path in image_files(Path(args.images))[:PICTURES]],
        }  # fmt: skip
        done = subprocess.run(
            [python, str(WORKER), json.dumps(job)], capture_output=True, text=True,
            env=os.environ | threads | {"HF_HOME": folder, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
    line = next((text for text in reversed(done.stdout.splitlines()) if text.startswith("RESULT ")), None)
    if line is None:
        print(done.stderr[-3000:], file=sys.stderr)
        said = [text for text in done.stderr.splitlines() if "Error" in text]
        return {"error": said[-1] if said else f"exit code {done.returncode}"}
    return json.loads(line.removeprefix("RESULT "))


if __name__ == "__main__":
    main()
