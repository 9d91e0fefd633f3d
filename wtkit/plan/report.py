"""Print a plan as text, or save it as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from ..files import write_whole
from .advice import MIN_FOLDINGS
from .formatting import and_more, angle_text, or_dash, steps_text, time_text

COST_HEADINGS = ("runs", "epochs × steps", "per run", "total", "memory")
ANGLE_HEADINGS = ("before", "at the end", "expected matrix angles")

FIRST_COLUMNS = "network,norm_order,method,variant,runs,epochs,steps_per_epoch,"


def save(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write all numbers as CSV, one row per group of runs; angles are in degrees."""
    write_whole(path, pd.DataFrame(rows).to_csv(index=False).encode())


def is_saved(path: Path) -> bool:
    """Whether a file is what :func:`save` writes, of any experiment."""
    with path.open(encoding="utf-8", newline="") as file:
        return file.readline().startswith(FIRST_COLUMNS)


def text(
    name: str, rows: Sequence[dict[str, Any]], named_warnings: Sequence[tuple[str, str]]
) -> str:
    """The plan as text: a title, a table of costs, a table of angles and the warnings.

    Args:
        name: of the experiment.
        rows: from :func:`row`.
        named_warnings: pairs of a row's name and a warning for it.
    """
    names = _row_names(rows)
    parts = [
        _title(name, rows),
        _table(COST_HEADINGS, names, map(_cost_cells, rows), "llrrrrr"),
        _table(ANGLE_HEADINGS, names, map(_angle_cells, rows), "llrrl"),
    ]
    if named_warnings:
        parts.append(_warning_lines(named_warnings))
    return "\n\n".join(parts)


def _title(name: str, rows: Sequence[dict[str, Any]]) -> str:
    title = f"{name}: {sum(row['runs'] for row in rows)} runs"
    measured = [row for row in rows if "seconds" in row]
    if measured:
        total = time_text(sum(row["seconds"] for row in measured))
        title += f", {total} one after another on {measured[-1]['device']}"
        if len(measured) < len(rows):
            title += ", counting only the runs that were measured"
    return title


def _table(headings: Sequence[str], names: Sequence[list[str]], cells: Any, align: str) -> str:
    """A plain table with the network and method in the first columns.

    Args:
        align: one letter per column: l for left, r for right.
    """
    sides = ["left" if letter == "l" else "right" for letter in align]
    return tabulate(
        [[*left, *right] for left, right in zip(names, cells, strict=True)],
        ["network", "method", *headings],
        tablefmt="plain",
        colalign=sides,
        disable_numparse=True,
    )


def _cost_cells(row: dict[str, Any]) -> list[str]:
    return [
        str(row["runs"]),
        f"{row['epochs']} × {or_dash(row['steps_per_epoch'], ',')}",
        time_text(row.get("seconds_per_run")),
        time_text(row.get("seconds")),
        f"{row['memory_bytes'] / 1e9:.1f} GB" if "memory_bytes" in row else "–",
    ]


def _angle_cells(row: dict[str, Any]) -> list[str]:
    bound = "≥ " if "e_foldings" in row else ""
    return [
        angle_text(row.get("angle_before")),
        bound + angle_text(row.get("angle_at_end")),
        explain_angles(row),
    ]


def _warning_lines(named_warnings: Sequence[tuple[str, str]]) -> str:
    """One line per warning, with the first row that has it and the number of others."""
    names_by_warning: dict[str, list[str]] = {}
    for name, warning in named_warnings:
        names_by_warning.setdefault(warning, []).append(name)
    return "\n".join(
        f"Warning, {names[0]}{and_more(names)}: {warning}"
        for warning, names in names_by_warning.items()
    )


def name_of(row: dict[str, Any]) -> str:
    """Network, norm order, method and variant of a row, as text."""
    return " ".join(
        filter(None, [row["network"], row["norm_order"], row["method"], row["variant"]])
    )


def _row_names(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Network and method of each row; the norm order too if a network has several."""
    orders: dict[str, set[str]] = {}
    for row in rows:
        orders.setdefault(row["network"], set()).add(row["norm_order"])
    return [
        [
            row["network"] + (f" {row['norm_order']}" if len(orders[row["network"]]) > 1 else ""),
            row["method"] + (f":{row['variant']}" if row["variant"] else ""),
        ]
        for row in rows
    ]


def explain_angles(row: dict[str, Any]) -> str:
    """Why these angles are expected, in a few words."""
    if "e_foldings" in row:
        return _explain_mismatch(row)
    if "sampling_max" in row:
        return (
            f"noise leaves {angle_text(row['sampling_min'])} to {angle_text(row['sampling_max'])} "
            f"({row['worst_layer']}); lag at the peak rate {angle_text(row['lag_angle'])}: B "
            f"averages over {steps_text(row['lag_steps'])} steps, W decays to 1/e in "
            f"{steps_text(row['forgetting_steps'])}"
        )
    return str(row.get("course", ""))


def _explain_mismatch(row: dict[str, Any]) -> str:
    epoch, threshold = row["aligned_epoch"], f"e^-{MIN_FOLDINGS:.0f}"
    when = f"never {threshold}" if epoch is None else f"{threshold} by epoch {epoch}"
    return (
        f"mismatch falls by e^-{row['e_foldings']:.1f}, {when}, to 1/e in "
        f"{steps_text(row['forgetting_steps'])} steps at the peak rate; a larger angle if W shrinks"
    )
