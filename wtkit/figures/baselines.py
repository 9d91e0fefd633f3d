"""Fair baselines: what each method's error is at settings of its own, each from as many trials.
Imports no torch.

Trials are rows of a table of ``benchmarks/tune.py``: error on a validation split of the training
images, one seed. A trial is a set of values that every method was run with, so all methods have as
many.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .. import methods
from ..errors import WtkitError
from ..results import METHODS, evaluated_on, final_error, method_label, methods_of, network_label
from .drawing import log_ticks
from .looks import look_of

COLUMNS = ("trial", "method", "validation_error")


def trials(path: str | Path) -> pd.DataFrame:
    """The trials of a table, those alone that every method in it was run with: columns as in the
    file.

    Rows stand in the order in which the trials were first begun, and within a trial in that of our
    figures. A trial that names an option of one method is not one of them.

    Raises:
        WtkitError: for a file that is no such table, or in which no trial was run with every
            method.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise WtkitError(
            f"{path}: not a table of trials ({error}); make one with benchmarks/tune.py"
        ) from None
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise WtkitError(
            f"{path}: no column {', '.join(missing)}; make the table with benchmarks/tune.py"
        )
    order = [m for m in METHODS if m in set(table["method"])]
    order += sorted(set(table["method"]) - set(order))
    shared = [
        trial
        for trial, rows in table.groupby("trial", sort=False)
        if set(rows["method"]) == set(order)
    ]
    if not shared:
        raise WtkitError(
            f"{path}: no trial was run with all of {', '.join(order)}; run it with "
            "those that lack it"
        )
    rows = table[table["trial"].isin(shared)].drop_duplicates(["trial", "method"], keep="last")
    keys = {"trial": shared.index, "method": order.index}
    return rows.sort_values(
        ["trial", "method"], key=lambda names: names.map(keys[str(names.name)]), ignore_index=True
    )


def best_so_far(table: pd.DataFrame) -> pd.DataFrame:
    """The lowest validation error (%) of each method after 1, 2, … trials: one row per number of
    trials, one column per method.

    A run that diverged has no error, so it is never the best.
    """
    wide = table.pivot(index="trial", columns="method", values="validation_error")
    wide = wide.loc[table["trial"].unique(), table["method"].unique()].cummin().ffill()
    wide.index = pd.RangeIndex(1, len(wide) + 1, name="trials")
    return wide


def own_best(table: pd.DataFrame) -> dict[str, str]:
    """Each method's own best trial; of two as good, the one with the lower training loss, else the
    earlier."""
    by = [name for name in ("validation_error", "train_loss") if name in table]
    found = (
        table.dropna(subset="validation_error")
        .sort_values(by, kind="stable")
        .drop_duplicates("method")
    )
    chosen = dict(zip(found["method"], found["trial"], strict=True))
    return {method: chosen[method] for method in table["method"].unique() if method in chosen}


def shared_best(table: pd.DataFrame) -> str:
    """The trial with the lowest error in the mean of all methods, of those in which none
    diverged."""
    means = table.groupby("trial", sort=False)["validation_error"].agg(
        lambda errors: errors.mean(skipna=False)
    )
    if means.isna().all():
        raise WtkitError("no trial without a run that diverged")
    return str(means.idxmin())


def error_against_trials(ax: Axes, table: pd.DataFrame, title: str = "") -> None:
    """Draw :func:`best_so_far`: the validation error (%) of each method's best trial against the
    number of trials."""
    best = best_so_far(table)
    for method in best:
        how = look_of(str(method))
        ax.plot(
            best.index, best[method], drawstyle="steps-post", label=method_label(str(method)),
            color=how.color, linestyle=how.linestyle, marker=how.marker,
        )  # fmt: skip
    ax.set_yscale("log")
    log_ticks(ax)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(
        xlabel="trials of learning rate and weight decay",
        ylabel="best validation error so far (%)",
        title=title,
    )
    ax.legend(handlelength=3.2)


def comparison(shared: xr.Dataset, own: xr.Dataset, table: pd.DataFrame) -> pd.DataFrame:
    """Final errors of one network at the settings that all methods share, and at each method's own
    best.

    Args:
        shared: the network's runs at the shared settings, ``results["resnet18"].to_dataset()``.
        own: its runs at each method's own best settings; a method without any has those of
            ``shared``, if its own best trial is the shared one.
        table: the trials that the settings were chosen by.
    """
    chosen = own_best(table)
    number = table["trial"].nunique()
    rows = []
    for method in methods_of(shared):
        ours = final_error(own, method)
        best = table[(table["method"] == method) & (table["trial"] == chosen.get(method))]
        rows.append(
            {
                "network": network_label(str(shared.attrs["network"])),
                "method": method_label(method) if method in methods.names() else method,
                f"{evaluated_on(shared)} error %, shared settings": str(
                    final_error(shared, method)
                ),
                f"{evaluated_on(shared)} error %, own best": str(ours) if ours.runs else "–",
                "seeds": ours.runs,
                "own best settings": chosen.get(method, "–").replace(",", ", "),
                "validation error % of that trial": f"{best['validation_error'].iloc[0]:.1f}"
                if len(best)
                else "–",
                "trials": number if len(best) else 0,
            }
        )
    return pd.DataFrame(rows)
