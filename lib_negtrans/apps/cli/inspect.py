"""`python -m lib_negtrans inspect`: what an embedding or checkpoint file is, or the embedding in another format."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib_negtrans.embeddings.arithmetic import convert
from lib_negtrans.embeddings.inspection import describe_file
from lib_negtrans.embeddings.layouts import LAYOUTS

from .common_options import load_host
from .reporting import EXIT_DONE, CallError, Reporter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file")
    parser.add_argument("--convert", metavar="OUT", help="write the embedding to this .pt, .safetensors or .bin file")
    layouts = "; ".join(f"{layout}: {' or '.join(suffixes)}" for layout, suffixes in LAYOUTS.items())
    parser.add_argument(
        "--layout", choices=tuple(LAYOUTS), help=f"file layout. {layouts} (default: a1111 for .pt, otherwise diffusers)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file that --convert names")


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Say what a file is, with --model also the tokens nearest to each vector; or write it in another format."""
    if args.layout and not args.convert:
        raise CallError("--layout is for --convert: name the file to write with it.")
    if not args.convert:
        facts = describe_file(Path(args.file), load_host(args) if args.model else None)
        report.event("inspect", "\n".join(f"{key}: {value}" for key, value in facts.items()), **facts)
        return EXIT_DONE
    embedding, complaints = convert(args.file, args.convert, args.layout, args.overwrite)
    for complaint in complaints:
        report.problem(complaint)
    line = f"{args.convert}: {len(embedding.vectors)} vectors; its trigger word is {embedding.name}."
    report.event("written", line, path=args.convert, name=embedding.name)
    return EXIT_DONE
