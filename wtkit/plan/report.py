"""A plan in print: as text, and as a CSV file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..files import write_whole
from .advice import LEAST
from .words import and_more, angle_text, or_dash, steps_text, time_text

FIRST_COLUMNS = "network,norm_order,method,variant,runs,epochs,steps_per_epoch,"


def save(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write everything in figures as CSV, a row for the runs that differ by their seed alone;
    angles are degrees."""
    write_whole(path, pd.DataFrame(rows).to_csv(index=False).encode())


def is_saved(path: Path) -> bool:
    """Whether a file is what :func:`save` writes, of any experiment."""
    with path.open(encoding="utf-8", newline="") as file:
        return file.readline().startswith(FIRST_COLUMNS)


def text(name: str, rows: Sequence[dict[str, Any]], told: Sequence[tuple[str, str]]) -> str:
    """The plan as a person reads it.

    Args:
        name: of the experiment.
        rows: of :func:`row`.
        told: warnings, each with whom it concerns.
    """
    who = _names(rows)
    runs, seconds = sum(row["runs"] for row in rows), [row.get("seconds") for row in rows]
    parts = [f"{name}: {runs} runs"]
    known = [value for value in seconds if value is not None]
    if known:
        some = "" if len(known) == len(rows) else ", as far as it was measured"
        (*_, device) = (row["device"] for row in rows if "device" in row)
        parts[0] += f", {time_text(sum(known))} one after another on {device}{some}"
    costs = [["runs", "epochs × steps", "a run", "in all", "memory"]] + [
        [
            str(row["runs"]), f"{row['epochs']} × {or_dash(row['steps_per_epoch'], ',')}",
            time_text(row.get("seconds_per_run")), time_text(row.get("seconds")),
            f"{row['memory_bytes'] / 1e9:.1f} GB" if "memory_bytes" in row else "–",
        ]
        for row in rows
    ]  # fmt: skip
    parts.append(_aligned([[*left, *right] for left, right in zip(who, costs, strict=True)]))
    angles = [["before", "at the end", "matrix angles expected"]] + [
        [
            angle_text(row.get("angle_before")),
            ("≥ " if "e_foldings" in row else "") + angle_text(row.get("angle_at_end")),
            explain_angles(row),
        ]
        for row in rows
    ]
    parts.append(
        _aligned([[*left, *right] for left, right in zip(who, angles, strict=True)], last_left=True)
    )
    of_whom: dict[str, list[str]] = {}
    for whom, sentence in told:
        of_whom.setdefault(sentence, []).append(whom)
    lines = [
        f"Warning, {whom[0]}{and_more(whom)}: {sentence}" for sentence, whom in of_whom.items()
    ]
    parts += ["\n".join(lines)] if lines else []
    return "\n\n".join(parts)


def name_of(row: dict[str, Any]) -> str:
    """Whom a row is about, in words."""
    return " ".join(
        filter(None, [row["network"], row["norm_order"], row["method"], row["variant"]])
    )


def _names(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Network and method of each row, below their headings; the norm order where there are
    several."""
    orders = {
        row["network"]: {
            other["norm_order"] for other in rows if other["network"] == row["network"]
        }
        for row in rows
    }
    return [["network", "method"]] + [
        [
            row["network"] + (f" {row['norm_order']}" if len(orders[row["network"]]) > 1 else ""),
            row["method"] + (f":{row['variant']}" if row["variant"] else ""),
        ]
        for row in rows
    ]


def explain_angles(row: dict[str, Any]) -> str:
    """Where the expected angles come from, in a few words."""
    if "e_foldings" in row:
        reached = row["aligned_epoch"]
        when = (
            (f"e^-{LEAST:.0f} by epoch {reached}")
            if reached is not None
            else f"never e^-{LEAST:.0f}"
        )
        return (
            f"mismatch falls by e^-{row['e_foldings']:.1f}, {when}, 1/e in "
            f"{steps_text(row['forgetting_steps'])} steps at the peak rate; a larger angle where W "
            "shrinks"
        )
    if "sampling_max" in row:
        return (
            f"noise leaves {angle_text(row['sampling_min'])} to {angle_text(row['sampling_max'])} "
            f"({row['worst_layer']}); lag at the peak rate {angle_text(row['lag_angle'])}: B "
            f"averages over {steps_text(row['lag_steps'])} steps, W forgets itself in "
            f"{steps_text(row['forgetting_steps'])}"
        )
    return str(row.get("course", ""))


def _aligned(lines: Sequence[Sequence[str]], last_left: bool = False) -> str:
    """Columns below their headings: two of names and, if so asked, the last to the left, numbers to
    the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = {0, 1, len(widths) - 1 if last_left else 1}
    made = []
    for line in lines:
        cells = [
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        made.append("  ".join(cells).rstrip())
    return "\n".join(made)
