"""Draw fair baselines: each method at its own best settings beside the shared ones, and error
against trials.

    python benchmarks/baselines.py docs/tuning/digits-resnet18.csv resnet18-width=16
    results/reference/digits_own_best

The table of trials is that of ``benchmarks/tune.py``. Writes ``trials.svg`` and ``.png``, and,
where the runs at each method's own best settings are there, ``own_best.html``, ``.csv`` and
``.tex``.
"""

import argparse
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt

import wtkit
from wtkit.errors import WtkitError
from wtkit.figures import (
    comparison,
    error_against_trials,
    own_best,
    save_figure,
    save_table,
    set_style,
    shared_best,
    trials,
)
from wtkit.results import data_label, method_label, network_label


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trials", type=Path)
    parser.add_argument("network", help="as in results: resnet18-width=16")
    parser.add_argument("folder", type=Path, help="where figure and tables are written")
    parser.add_argument(
        "--shared", default="digits", help="experiment, or results.nc, at the shared settings"
    )
    parser.add_argument("--variant", default="", help="of these runs: normalisation=exact")
    parser.add_argument(
        "--own", default="digits_own_best", help="the same at each method's own best settings"
    )
    given = parser.parse_args()

    mpl.use("agg")
    set_style()
    table = trials(given.trials)
    fig, ax = plt.subplots(figsize=(4.6, 3.2))
    shared = wtkit.open_results(given.shared)[given.network].to_dataset()
    shared = shared.isel(run=shared["variant"].values == given.variant)
    if not shared.sizes["run"]:
        sys.exit(f"{given.shared}: no run of variant {given.variant!r}; name one with --variant")
    shared["variant"][:] = ""  # here they are the main line
    title = f"{network_label(given.network)}, {data_label(shared)}: validation error, one seed"
    error_against_trials(ax, table, title)
    save_figure(fig, given.folder / "trials")
    for method, trial in own_best(table).items():
        print(f"{method_label(method)}: {trial}")
    print(f"shared: {shared_best(table)}")
    try:
        own = wtkit.open_results(given.own)[given.network].to_dataset()
    except WtkitError as error:
        print(f"no table: {error}")
        return
    compared = comparison(shared, own, table)
    for ending in ("html", "csv", "tex"):
        save_table(
            compared, given.folder / f"own_best.{ending}", "Each method at its own best settings"
        )
    print(compared.to_string(index=False))


if __name__ == "__main__":
    sys.exit(main())
