"""The paper's ablation in small: each part of the method alone, together, and missing, over several negatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lib_negtrans.lora.files import LoraFile
from lib_negtrans.translation.negatives import Negative, with_negatives
from lib_negtrans.translation.params import translation_preset

from .configurations import Configuration
from .report import cell_table
from .run import Evaluation, TableRow

FULL, NO_TAC = "full", "full without attention control"
NO_NEGATIVE, NO_POSITIVE = "+ positive (full without the negative)", "+ negative (full without the positive half)"
# row -> the parts it has; the two that also end a series say so
ROWS = {
    "SDEdit (noise start)": "",
    "inversion": "inversion",
    "+ attention control": "inversion tac",
    NO_POSITIVE: "inversion tac negative",
    NO_NEGATIVE: "inversion tac positive",
    FULL: "inversion tac negative positive",
    "full without inversion": "tac negative positive",
    NO_TAC: "inversion negative positive",
}
# and these, where there are negatives that were trained without the LoRA: NO_POSITIVE then has those
BASE_NEGATIVE = "full, negative trained without the LoRA"
ADAPTED_NEGATIVE = "full without the positive half, negative trained on it"
EXCHANGED_ROWS = {
    NO_POSITIVE: "inversion tac base-negative",
    FULL: ROWS[FULL],
    BASE_NEGATIVE: "inversion tac base-negative positive",
    ADAPTED_NEGATIVE: "inversion tac negative",
}
COLUMNS: Sequence[tuple[str, str, Callable[[TableRow], float | None]]] = (
    ("KID garment", ".3f", lambda row: None if row.kid_garment is None else row.kid_garment.value),
    ("photo-like", ".0%", lambda row: row.photo_share),
    ("SSIM", ".3f", lambda row: row.ssim),
    ("dE00", ".2f", lambda row: row.delta_e),
    ("forwards", ".4g", lambda row: None if row.cost is None else row.cost.forwards),
)


def ablation(
    values: Mapping[str, Any],
    negatives: Sequence[Negative],
    loras: Sequence[tuple[LoraFile, float]],
    base_negatives: Sequence[Negative] = (),
) -> dict[str, list[Configuration]]:
    """Row -> its configurations, one for each negative where it uses one or draws noise (then with another seed).

    values: the call's parameters; negatives: of several trainings on the model with the LoRAs, each used alone;
    base_negatives: of trainings without them. Raises ParamError.
    """
    rows = {}
    for name, text in (ROWS | EXCHANGED_ROWS if base_negatives else ROWS).items():
        parts = text.split()
        used = {"negative": negatives, "base-negative": base_negatives}
        own = next((used[part] for part in parts if part in used), ())
        changes: dict[str, Any] = {} if "inversion" in parts else {"start": "noise"}
        if "tac" not in parts:
            changes["tac_ratio"] = 0.0
        repeated = own or (negatives if "inversion" not in parts else negatives[:1])
        rows[name] = [
            Configuration(
                f"{name} [{number + 1}]",
                *with_negatives(
                    translation_preset("default", **{**values, **changes, "seed": values.get("seed", 0) + number}),
                    [negative] if own else [],
                ),
                loras if "positive" in parts else (),
            )
            for number, negative in enumerate(repeated)
        ]
    return rows


def ablation_table(
    evaluation: Evaluation, rows: Mapping[str, Sequence[Configuration]], without: Sequence[str] = ()
) -> str:
    """Markdown: the mean of each row's configurations, ± the largest distance from it, after the rows without any.

    without: titles of columns to leave out; one without any number is left out too.
    """
    judged = {row.name: row for row in evaluation.rows}
    ours = {one.name for members in rows.values() for one in members}
    groups = {row.name: [row] for row in evaluation.rows if row.name not in ours}
    groups |= {name: [judged[one.name] for one in members] for name, members in rows.items()}
    target = judged.get("photos through the VAE")
    base = evaluation.rows[0].kid_garment

    def way(row: TableRow) -> float | None:
        if target is None or base is None or row.kid_garment is None:
            return None
        return (base.value - row.kid_garment.value) / (base.value - target.kid.value)

    columns = [
        (title, form, get)
        for title, form, get in (COLUMNS[0], ("of the way", ".0%", way), *COLUMNS[1:])
        if title not in without and any(get(row) is not None for members in groups.values() for row in members)
    ]
    lines = [[name, *(_mean(members, form, get) for _, form, get in columns)] for name, members in groups.items()]
    return cell_table(["", *(title for title, _, _ in columns)], lines)


def _mean(rows: Sequence[TableRow], form: str, get: Callable[[TableRow], float | None]) -> str:
    values = [value for value in map(get, rows) if value is not None]
    if not values:
        return "-"
    mean = float(np.mean(values))
    spread = f" ± {format(float(np.abs(np.array(values) - mean).max()), form)}" if len(values) > 1 else ""
    return format(mean, form) + spread
