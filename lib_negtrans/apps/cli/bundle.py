"""`python -m lib_negtrans bundle`: a LoRA and an embedding in one file, which the webui uses as both."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib_negtrans.embeddings.files import read_embedding, validate_name
from lib_negtrans.lora.bundle import ENDING, bundle_path, write_bundle
from lib_negtrans.lora.files import read_lora

from .reporting import EXIT_DONE, Reporter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lora", metavar="LORA", help="a LoRA or LoCon file")
    parser.add_argument("embedding", metavar="EMBEDDING", help="a negative embedding; its file's name is its word")
    parser.add_argument("--out", metavar="FILE", help=f"the file to write (default: LORA's name with {ENDING})")
    parser.add_argument("--overwrite", action="store_true", help="replace a file, or an embedding in it, of this name")


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Write one file of both. Raises LoraError, EmbeddingError, OSError."""
    lora, embedding = read_lora(args.lora), read_embedding(args.embedding)
    name = validate_name(embedding.name)
    out = Path(args.out) if args.out else bundle_path(lora.path)
    write_bundle(out, lora, {name: embedding.vectors}, args.overwrite)
    line = (
        f"{out}: {len(lora.pairs)} modules and the embedding {name}. In the webui put it into models/Lora, then "
        f"<lora:{out.stem}:1> into the prompt and {name} into the negative prompt; here name it with --lora."
    )
    report.event("written", line, path=str(out), name=out.stem, embedding=name, modules=len(lora.pairs))
    return EXIT_DONE
