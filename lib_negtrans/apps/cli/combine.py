"""`python -m lib_negtrans combine`: a new embedding made of others."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib_negtrans.embeddings.arithmetic import WAYS, combine
from lib_negtrans.embeddings.card import save
from lib_negtrans.embeddings.files import read_embedding
from lib_negtrans.files import file_and_weight

from .reporting import EXIT_DONE, Reporter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "embeddings", nargs="+", metavar="FILE[:WEIGHT]", help="embeddings; a weight scales the vectors of that file"
    )
    parser.add_argument(
        "--how", default="concatenate", choices=WAYS,
        help="put all vectors one after the other, or take their weighted mean",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="FILE", help="NAME.pt, NAME.safetensors or NAME.bin")
    parser.add_argument("--overwrite", action="store_true", help="replace an embedding of this name")


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Write an embedding made of others."""
    out = Path(args.out)
    named = [file_and_weight(text) for text in args.embeddings]
    embedding = combine([(read_embedding(path), weight) for path, weight in named], args.how, out.stem)
    for complaint in save(out, embedding, args.overwrite):
        report.problem(complaint)
    line = f"{out}: {len(embedding.vectors)} vectors, {embedding.metadata['made_from']}."
    report.event("written", line, path=str(out), name=embedding.name, vectors=len(embedding.vectors))
    return EXIT_DONE
