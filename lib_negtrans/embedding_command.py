"""`inspect` and `combine` of the command line: what embeddings are, other formats of them, and new ones from old."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .embedding_arithmetic import WAYS, combine, convert
from .embedding_card import write_card
from .embedding_layouts import LAYOUTS
from .embeddings import EmbeddingError, read_embedding, write_embedding
from .hosts.protocol import HostError
from .inspection import describe_file

if TYPE_CHECKING:
    from .cli import Reporter


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `inspect`; the common ones are the caller's."""
    parser.add_argument("file")
    parser.add_argument(
        "--convert", metavar="OUT", help="write the embedding to this .pt, .safetensors or .bin instead"
    )
    layouts = "; ".join(f"{layout}: {' or '.join(suffixes)}" for layout, suffixes in LAYOUTS.items())
    parser.add_argument(
        "--layout", choices=tuple(LAYOUTS), help=f"whose layout {layouts} (default: a1111 for .pt, else diffusers)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file that --convert names")


def add_combine_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `combine`; the common ones are the caller's."""
    parser.add_argument(
        "embeddings", nargs="+", metavar="FILE[:WEIGHT]", help="embeddings; a weight scales the vectors of one"
    )
    parser.add_argument(
        "--how", default="concatenate", choices=WAYS, help="all vectors one after the other, or their weighted mean"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="NAME.pt, NAME.safetensors or NAME.bin")
    parser.add_argument("--overwrite", action="store_true", help="replace an embedding of this name")


def run_inspect(args: argparse.Namespace, report: Reporter) -> int:
    """Say what a file is, with --model also the tokens nearest to each vector; or write it in another format."""
    from .cli import EXIT_DONE, CallError, load_host

    if args.layout and not args.convert:
        raise CallError("--layout is for --convert: name the file to write with it.")
    if not args.convert:
        host = load_host(args) if args.model else None
        try:
            facts = describe_file(Path(args.file), host)
        except (EmbeddingError, HostError, OSError) as error:
            raise CallError(str(error)) from error
        report.event("inspect", "\n".join(f"{key}: {value}" for key, value in facts.items()), **facts)
        return EXIT_DONE
    try:
        embedding, complaints = convert(args.file, args.convert, args.layout, args.overwrite)
    except (EmbeddingError, OSError) as error:
        raise CallError(str(error)) from error
    for complaint in complaints:
        report.problem(complaint)
    line = f"{args.convert}: {len(embedding.vectors)} vectors; its trigger word is {embedding.name}."
    report.event("written", line, path=args.convert, name=embedding.name)
    return EXIT_DONE


def run_combine(args: argparse.Namespace, report: Reporter) -> int:
    """Write an embedding made of others."""
    from .cli import EXIT_DONE, CallError, parse_negative

    out = Path(args.out)
    try:
        named = [parse_negative(text) for text in args.embeddings]
        embedding = combine([(read_embedding(path), weight) for path, weight in named], args.how, out.stem)
        write_embedding(out, embedding, args.overwrite)
    except (EmbeddingError, OSError) as error:
        raise CallError(str(error)) from error
    for complaint in write_card(out, embedding):
        report.problem(complaint)
    line = f"{out}: {len(embedding.vectors)} vectors, {embedding.metadata['made_from']}."
    report.event("written", line, path=str(out), name=embedding.name, vectors=len(embedding.vectors))
    return EXIT_DONE
