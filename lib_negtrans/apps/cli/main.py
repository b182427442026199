"""The command line: `python -m lib_negtrans COMMAND`. Exit codes: 0 done, 1 some inputs failed, 2 a wrong call or file.

Each command is a module with `add_arguments(parser)`, its own options beside the common ones, and `run(arguments,
reporter)`, which gives the exit code.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from lib_negtrans import __version__
from lib_negtrans.errors import UserError

from .reporting import EXIT_INTERRUPTED, EXIT_WRONG_CALL, Reporter

# command -> module of this folder and help
COMMANDS = {
    "demo": ("demo", "train and translate on the bundled renders"),
    "app": ("app", "train and translate on a local web page"),
    "translate": ("translate", "turn renders into photographs"),
    "train-negative": ("train", "learn what makes a folder of renders look rendered"),
    "train-positive": ("train_positive", "teach the model how garments look on photographs"),
    "distill": ("distill", "teach a student to translate in one call of the model, from translations"),
    "adapt": ("adapt", "learn from photographs, then from renders, into one file"),
    "prepare": ("prepare", "make a training folder from any folder of pictures"),
    "caption": ("caption", "write a caption beside each picture"),
    "evaluate": ("evaluate", "measure translations against photographs"),
    "inspect": ("inspect", "say what an embedding or checkpoint file is"),
    "combine": ("combine", "merge, average or scale embeddings"),
    "bundle": ("bundle", "put a LoRA and an embedding into one file"),
    "compare": ("compare", "show checkpoints side by side on one render"),
}


def _common_options() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--model", help="an SD1 .safetensors/.ckpt or diffusers folder (default: the demonstration model)"
    )
    common.add_argument(
        "--lora", action="append", default=[], metavar="FILE[:WEIGHT]",
        help="a LoRA or LoCon to use with the model, in kohya's, diffusers' or peft's layout; may be repeated",
    )  # fmt: skip
    common.add_argument("--device", help="cpu, cuda, cuda:1, mps, .. (default: a graphics card if there is one)")
    common.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: float16 on cuda")
    common.add_argument(
        "--feature-memory", type=float, metavar="MB",
        help="memory for a picture's captured attention; what does not fit is computed again (default: half of what is "
        "free)",
    )  # fmt: skip
    common.add_argument("--quiet", action="store_true", help="print tables and what went wrong only")
    common.add_argument("--json", action="store_true", help="print one JSON object per event")
    return common


def build_parser(argv: list[str]) -> argparse.ArgumentParser:
    """The command line, with the options of the command that `argv` names.

    Only that command's module is imported: torch and diffusers take seconds, and `--help` or a misspelt command should
    not wait for them.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lib_negtrans", description="Rendered-to-real fashion translation with negative embeddings."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = _common_options()
    for name, (module_name, text) in COMMANDS.items():
        command = commands.add_parser(name, parents=[common], help=text)
        if argv[:1] == [name]:
            module = import_module(f"{__package__}.{module_name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command and give its exit code; known errors are one line on standard error, never a traceback."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is ever fetched
    argv = sys.argv[1:] if argv is None else argv
    args = build_parser(argv).parse_args(argv)
    report = Reporter(args.json, args.quiet)
    try:
        return args.run(args, report)
    except (UserError, OSError) as error:
        report.problem(f"error: {error}")
        return EXIT_WRONG_CALL
    except KeyboardInterrupt:
        report.problem("interrupted; run the same command again to go on.")
        return EXIT_INTERRUPTED
