"""Choose settings on a validation split of the training images: those that all methods share, and
each method's own.

    python benchmarks/tune.py config/digits.yaml resnet18-width=16 docs/tuning/digits-resnet18.csv
        \\ lr=0.02,weight_decay=0.15 lr=0.05,weight_decay=0.02

Every trial is run with every method of the experiment, one seed each, so that all have the same
number of trials; each method's own best is the best of these for it alone
(``benchmarks/baselines.py``). A fifth of the images is held out, so ``--set batch_size=13`` in
place of 16 keeps the number of steps. The table has one row per run; runs that it already has are
not repeated.
"""

import argparse
import csv
import dataclasses
import multiprocessing
import os
import sys
from pathlib import Path

import numpy as np

from wtkit.experiments import RunConfig, expand, run_config

COLUMNS = [
    "trial", "method", "validation_error", "train_loss", "matrix_angle_mean", "matrix_angle_max",
    "delta_angle_max", "seconds",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", type=Path)
    parser.add_argument("network")
    parser.add_argument("table", type=Path)
    parser.add_argument("trials", nargs="+", metavar="SETTING=VALUE,…")
    parser.add_argument("--methods", help="only these, by commas")
    parser.add_argument(
        "--set", default="", metavar="SETTING=VALUE,…", help="for all trials, not in their names"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()

    rows = list(csv.DictReader(given.table.open())) if given.table.exists() else []
    done = {(row["trial"], row["method"]) for row in rows}
    runs = [
        (trial, name, changed(run, ",".join(filter(None, [given.set, trial]))))
        for trial in given.trials
        for name, run in one_a_method(expand(given.experiment), given.network).items()
        if (trial, name) not in done and (not given.methods or name in given.methods.split(","))
    ]
    given.table.parent.mkdir(parents=True, exist_ok=True)
    with (
        multiprocessing.get_context("spawn").Pool(given.processes, initializer=one_thread) as pool,
        given.table.open("a", newline="") as file,
    ):
        table = csv.DictWriter(file, COLUMNS)
        if not rows:
            table.writeheader()
        for row in pool.imap_unordered(train, runs):
            table.writerow(row)
            file.flush()
            print(*row.values(), sep="  ", flush=True)


def one_a_method(runs: list[RunConfig], network: str) -> dict[str, RunConfig]:
    """The first seed of each method's main variant, in the paper's norm order."""
    found: dict[str, RunConfig] = {}
    for run in runs:
        if run.network_name == network and run.norm_order != "bn_relu" and not run.variant:
            found.setdefault(run.method, run)
    return found


def changed(run: RunConfig, trial: str) -> RunConfig:
    """``run`` with the settings of ``trial``; a name with a dot is an option of the method that it
    names."""
    settings = dataclasses.asdict(run) | {"evaluate_on": "validation", "angles_every": run.epochs}
    for assignment in trial.split(","):
        name, _, value = assignment.partition("=")
        method, dot, option = name.partition(".")
        if dot and method == run.method:
            settings["options"] = settings["options"] | {option: value}
        elif not dot:
            settings[name] = value.split("/") if name == "lr_drops" else value
    return run_config(settings)


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def train(job: tuple[str, str, RunConfig]) -> dict[str, object]:
    import wtkit

    trial, name, config = job
    run = wtkit.train(config, quiet=True)
    last = run.isel(epoch=-1)
    values = [
        last.test_error, last.train_loss, last.matrix_angle.mean(), last.matrix_angle.max(),
        last.delta_angle.max(), run.seconds.sum(),
    ]  # fmt: skip
    return dict(
        zip(
            COLUMNS,
            [trial, name, *(f"{float(np.asarray(value)):.4g}" for value in values)],
            strict=True,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
