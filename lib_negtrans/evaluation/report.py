"""An evaluation as a Markdown table, as plain data, and as a sheet of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from lib_negtrans.pictures.feature_network import SIZE
from lib_negtrans.pictures.images import to_pil
from lib_negtrans.pictures.sheet import contact_sheet

from .run import RENDERS, Evaluation, TableRow

SHEET_PICTURES = 8
HEADER = (
    "configuration", "KID", "change", "KID garment", "photo-like", "SSIM", "dE00", "dE00 mean", "s/picture", "forwards"
)  # fmt: skip
NOTE = (
    "KID: EfficientNet-Lite0 features at {side} px, unscaled, unbiased, ± standard error (jackknife); not "
    "comparable with published KID (Inception-v3). change: to the first row, paired error. KID garment: all "
    "backgrounds {what}. photo-like: share that a ridge probe takes for photos (its held-out accuracy {accuracy:.0%}). "
    "SSIM of luminance, dE00 (CIEDE2000, mean over pixels) and dE00 mean (of the mean colour): inside the garment "
    "mask, against the first row. forwards: UNet sample-forwards a picture."
)


def _pair(pair: tuple[float, float] | None, sign: str = "") -> str:
    return "-" if pair is None else f"{pair[0]:{sign}.3f} ± {pair[1]:.3f}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def table_cells(row: TableRow) -> list[str]:
    """A row's cells, in the order of `HEADER`."""
    return [
        row.name,
        _pair(row.kid.pair),
        _pair(row.kid_change, "+"),
        _pair(row.kid_garment.pair if row.kid_garment else None),
        _number(row.photo_share, ".0%"),
        _number(row.ssim, ".3f"),
        _number(row.delta_e, ".2f"),
        _number(row.colour_drift, ".2f"),
        _number(row.cost.seconds if row.cost else None, ".2f"),
        _number(row.cost.forwards if row.cost else None, ".4g"),
    ]


def cell_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown: names in the first column, numbers in the others."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def markdown_table(evaluation: Evaluation, background: str = "same") -> str:
    """The whole table with the photo-to-photo floor as its last row, and the note that says what the columns are."""
    rows = [table_cells(row) for row in evaluation.rows]
    rows.append(["photos to photos (floor)", _pair(evaluation.floor), *["-"] * (len(HEADER) - 2)])
    what = "replaced by those of the first row" if background == "same" else "replaced by their mean colour"
    counts = f"{len(evaluation.names)} renders against {evaluation.photos} photos. "
    note = NOTE.format(side=SIZE, what=what, accuracy=evaluation.probe_accuracy)
    return f"{cell_table(HEADER, rows)}\n\n{counts}{note}"


def row_data(row: TableRow) -> dict[str, Any]:
    """A row as plain data for JSON."""
    pairs = {"kid": row.kid.pair, "kid_change": row.kid_change}
    pairs["kid_garment"] = row.kid_garment.pair if row.kid_garment else None
    data: dict[str, Any] = {"name": row.name}
    for key, pair in pairs.items():
        data[key], data[f"{key}_error"] = pair or (None, None)
    data |= {key: getattr(row, key) for key in ("photo_share", "ssim", "delta_e", "colour_drift")}
    return data | {"seconds": row.cost and row.cost.seconds, "forwards": row.cost and row.cost.forwards}


def evaluation_data(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation as plain data for JSON."""
    mean, deviation = evaluation.floor
    return {
        "rows": [row_data(row) for row in evaluation.rows],
        "floor": mean,
        "floor_deviation": deviation,
        "probe_accuracy": evaluation.probe_accuracy,
        "renders": len(evaluation.names),
        "photos": evaluation.photos,
        "size": evaluation.sources.shape[-1],
    }


def evaluation_sheet(evaluation: Evaluation, pictures: int = SHEET_PICTURES, cell: int = 192) -> Image.Image:
    """Rows: the source and every configuration; columns: the first `pictures` renders."""
    columns = [name.rpartition("/")[2] for name in evaluation.names[:pictures]]
    sets = {RENDERS: evaluation.sources, **evaluation.crops}
    rows = [[to_pil(image) for image in crops[:pictures]] for crops in sets.values()]
    return contact_sheet(rows, columns, list(sets), cell=cell)
