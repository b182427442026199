"""How embeddings lie in files: the layouts of A1111, diffusers and kohya's sd-scripts, as bytes. Tensors in, bytes out.

    a1111      .pt             {"string_to_param": {"*": (n, width)}, "string_to_token", "name", "step", ..}
    diffusers  .safetensors    {name: (n, width)}, the metadata in the file's header
               .bin            {name: (n, width)} and nothing else: diffusers refuses a second key
    kohya      .safetensors    {"emb_params": (n, width)}, the metadata in the file's header
               .pt             {"emb_params": (n, width)} and nothing else: kohya takes the first key, A1111 wants one

Every one of them is read by the webui too.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lib_negtrans.models.safetensors_writer import write_safetensors

METADATA_KEY = "negtrans"
KOHYA_KEY = "emb_params"
LAYOUTS: dict[str, tuple[str, ...]] = {
    "a1111": (".pt",),
    "diffusers": (".safetensors", ".bin"),
    "kohya": (".safetensors", ".pt"),
}
DEFAULT_LAYOUT = {".pt": "a1111", ".safetensors": "diffusers", ".bin": "diffusers"}
# what the webui accepts in a .pt and torch needs; the serialization id would differ between versions of torch
_HOST_ENTRY = re.compile(r"archive/(data\.pkl|version|byteorder|data/\d+)")


def layout_of(data: Mapping[str, Any]) -> str:
    """The layout of what a file holds."""
    if "string_to_param" in data:
        return "a1111"
    return "kohya" if KOHYA_KEY in data else "diffusers"


def encode_layout(
    suffix: str, layout: str | None, name: str, vectors: Tensor, metadata: Mapping[str, Any], facts: Mapping[str, Any]
) -> bytes:
    """The bytes of a file with this ending: vectors (n, width) float32 on the CPU.

    metadata: plain data with "checkpoint_hash"; facts: "step" and "checkpoint_name", for which A1111 has fields of its
    own. layout None is the usual one of the ending. Raises ValueError for an ending that the layout does not have.
    """
    layout = layout or DEFAULT_LAYOUT.get(suffix)
    if layout is None:
        raise ValueError(f"embeddings end in {', '.join(DEFAULT_LAYOUT)}.")
    if layout not in LAYOUTS:
        raise ValueError(f"there is no layout {layout}: there are {', '.join(LAYOUTS)}.")
    if suffix not in LAYOUTS[layout]:
        raise ValueError(f"the layout {layout} is for files that end in {' or '.join(LAYOUTS[layout])}.")
    key = KOHYA_KEY if layout == "kohya" else name
    if suffix == ".safetensors":
        written = io.BytesIO()
        write_safetensors(written, {key: vectors}, {METADATA_KEY: json.dumps(dict(metadata) | dict(facts))})
        return written.getvalue()
    if layout != "a1111":
        return _pickle({key: vectors})
    fingerprint = metadata.get("checkpoint_hash")
    data = {
        "string_to_token": {"*": 265},
        "name": name,
        "step": facts["step"],
        "sd_checkpoint": fingerprint[:10] if fingerprint else None,
        "sd_checkpoint_name": facts["checkpoint_name"],
        METADATA_KEY: dict(metadata),
    }
    # fresh objects: a pickle refers back to objects that it has met, so shared ones would change the bytes
    return _pickle(json.loads(json.dumps(data)) | {"string_to_param": {"*": vectors}})


def _pickle(data: dict[str, Any]) -> bytes:
    """torch's zip with the entries and dates that are the same everywhere."""
    saved = io.BytesIO()
    torch.save(data, saved)
    packed = io.BytesIO()
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            # newer torch adds entries that the webui refuses; torch reads the file without them
            if _HOST_ENTRY.fullmatch(name):
                entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                entry.create_system = 3  # the same on Windows
                target.writestr(entry, source.read(name))
    return packed.getvalue()
