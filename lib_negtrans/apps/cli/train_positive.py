"""`python -m lib_negtrans train-positive`: a LoRA or a full finetune on photographs."""

from __future__ import annotations

import argparse

from lib_negtrans.training.positive_params import FullParams, LoraParams

from .common_options import add_params
from .train import add_run_arguments, run

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options and the parameters of both kinds; the common ones are the caller's."""
    parser.add_argument("--images", metavar="DIR", help="photographs to learn from, sub-folders included")
    parser.add_argument(
        "--kind", choices=("lora", "full"),
        help="lora (the default): a small file used beside the model. full: a whole checkpoint",
    )  # fmt: skip
    parser.add_argument("--renders", metavar="DIR", help="renders, for validation, previews and --prior base")
    parser.add_argument("--validation", metavar="DIR", help="photographs to validate on (default: some of --images)")
    parser.add_argument("--validation-renders", metavar="DIR", help="renders to validate on (default: --renders)")
    parser.add_argument("--class-images", metavar="DIR", help="folder of class pictures, for --prior")
    parser.add_argument("--name", help="what the file is called: a-z, 0-9, - and _")
    parser.add_argument("--preview", metavar="FILE", help="the render that previews translate (default: of --renders)")
    add_run_arguments(parser, "NAME.safetensors")
    add_params(parser, LoraParams)
    add_params(parser, FullParams, skip=tuple(LoraParams.options()))
