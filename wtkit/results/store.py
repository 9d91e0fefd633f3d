"""Results as files: saved, gathered, opened, and the runs in them selected. Imports no torch."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from .. import methods
from ..errors import WtkitError
from ..experiments import RunConfig, run_config
from ..files import write_whole
from ..validation import known, nearest
from .schema import LAYER_COORDS, RUN_COORDS, SCHEMA_VERSION, brought_up, check


def save(results: xr.Dataset | xr.DataTree, path: str | Path) -> None:
    """Write netCDF4 whole or not at all. Texts are of variable length, whatever a file they came
    from said.

    Raises:
        WtkitError: if ``results`` does not keep to the schema, or the file cannot be written.
    """
    path = Path(path)
    nodes = results.children if isinstance(results, xr.DataTree) else {"": results}
    for name, node in nodes.items():
        check(
            node.to_dataset() if isinstance(node, xr.DataTree) else node,
            f"{path}{f' ({name})' if name else ''}",
        )
    content = _without_encoding(results).to_netcdf(engine="h5netcdf")
    assert isinstance(content, memoryview)
    write_whole(path, content)


def _without_encoding(results: xr.Dataset | xr.DataTree) -> xr.Dataset | xr.DataTree:
    """``results`` without what a file said of their storage: xarray reads texts as of the width of
    the longest one, and would cut longer ones to it when results are joined and saved."""
    if isinstance(results, xr.Dataset):
        return results.drop_encoding()
    return results.map_over_datasets(xr.Dataset.drop_encoding)


def open_run(path: str | Path) -> xr.Dataset:
    """Open and check the data set of one run.

    Raises:
        WtkitError: if it is missing, unreadable, or does not keep to the schema.
    """
    try:
        with xr.open_dataset(path, engine="h5netcdf") as run:
            return check(brought_up(run.load().drop_encoding()), str(path))
    except FileNotFoundError:
        raise WtkitError(f"no run at {path}; train it first: wtkit train --help") from None
    except OSError as error:
        reason = " ".join(str(error).split())
        raise WtkitError(f"cannot read {path}: {reason}; delete it to train the run anew") from None


def gather(paths: Iterable[str | Path], experiment: str) -> xr.DataTree:
    """All runs of an experiment in one tree: a node a network, with the dimensions ``run``,
    ``epoch`` and ``layer``.

    Runs that ended early are filled with NaN.

    Raises:
        WtkitError: if there is no run, one cannot be read or comes twice, two runs of one network
            differ in their layers, or two of one variant in their data.
    """
    of_network: dict[str, list[xr.Dataset]] = {}
    data_of: dict[tuple[str, str], str] = {}  # a network's variant
    seen: dict[tuple[str, ...], str | Path] = {}
    for path in paths:
        run = open_run(path)
        runs = of_network.setdefault(run.attrs["network"], [])
        if runs and list(runs[0]["layer"].values) != list(run["layer"].values):
            raise WtkitError(
                f"{path}: its layers differ from those of the other {run.attrs['network']} runs"
            )
        for name in LAYER_COORDS:
            if runs and list(runs[0][name].values) != list(run[name].values):
                raise WtkitError(
                    f"{path}: {name!r} of its layers differs from that of the other runs: another "
                    "stem or image size?"
                )
        variant = str(run["variant"].values)
        data = data_of.setdefault((run.attrs["network"], variant), run.attrs["data"])
        if data != run.attrs["data"]:
            raise WtkitError(
                f"{path}: its data are {run.attrs['data']}, those of other runs {data}; give it a "
                "variant of its own"
            )
        who = (
            run.attrs["network"],
            *(str(run[name].values) for name in ("method", "variant", "norm_order", "seed")),
        )
        if who in seen:
            raise WtkitError(
                f"{path}: the same run as {seen[who]} "
                f"({', '.join(filter(None, who))}); give one of them"
            )
        seen[who] = path
        runs.append(run)
    if not of_network:
        raise WtkitError(f"nothing to gather for {experiment!r}: no run was given")
    nodes = {network: join_runs(runs) for network, runs in of_network.items()}
    tree = xr.DataTree.from_dict({f"/{network}": node for network, node in nodes.items()})
    tree.attrs = {"schema_version": SCHEMA_VERSION, "experiment": experiment}
    return tree


def join_runs(runs: list[xr.Dataset]) -> xr.Dataset:
    """Runs of one network along a new dimension ``run``."""
    node = xr.concat(
        runs,
        "run",
        join="outer",
        data_vars="all",
        coords=list(RUN_COORDS),
        compat="equals",
        combine_attrs="override",
    )
    node.attrs["data"] = "+".join(dict.fromkeys(run.attrs["data"] for run in runs))
    return node.transpose("run", ...)


def open_results(where: str | Path | None = None, *, quiet: bool = False) -> xr.DataTree:
    """Open an experiment's gathered results: a DataTree with a node a network.

    Args:
        where: a netCDF file, or the name of an experiment. By default the environment variable
            ``WTKIT_RESULTS``, then the results of ``digits``.
        quiet: say nothing of which file was opened.

    An experiment's own results, ``results/<name>/results.nc``, come before the committed reference
    results, ``results/reference/<name>/results.nc``. Folders are looked up from the working folder
    upwards, then from the checkout that wtkit was imported from.

    Returns:
        node names are networks. In each: dimensions ``run``, ``epoch``, ``layer``; see
        ``docs/schema.md``.

    Raises:
        WtkitError: if there are no results, or they do not keep to the schema.
    """
    where = where or os.environ.get("WTKIT_RESULTS") or "digits"
    path = Path(where) if str(where).endswith(".nc") else _find(str(where))
    try:
        with xr.open_datatree(path, engine="h5netcdf") as opened:
            tree = opened.load()
    except FileNotFoundError:
        raise WtkitError(
            f"no results at {path}; make them with 'snakemake', or name another file"
        ) from None
    except OSError as error:
        raise WtkitError(f"cannot read {path}: {' '.join(str(error).split())}") from None
    if not tree.children:
        raise WtkitError(
            f"{path}: no network in it; a single run is opened by wtkit.results.open_run"
        )
    for network, node in tree.children.items():
        node.dataset = check(brought_up(node.to_dataset().drop_encoding()), f"{path} ({network})")
    if not quiet:
        reference = path.parts[-4:-2] == ("results", "reference")
        note = " (the reference results that come with wtkit, not yours)" if reference else ""
        print(
            f"Results of {tree.attrs.get('experiment', '?')}: {_shown(path)}{note}", file=sys.stderr
        )
    return tree


def _find(experiment: str) -> Path:
    here = Path.cwd().resolve()
    roots = [here, *here.parents, Path(__file__).resolve().parent.parent.parent]
    for kind in ("results", "results/reference"):
        for root in roots:
            path = root / kind / experiment / "results.nc"
            if path.exists():
                return path
    names = {p.parent.name for root in roots for p in root.glob("results/**/results.nc")}
    raise WtkitError(
        f"no results of an experiment {experiment!r}{nearest(experiment, names)}; "
        f"there are: {', '.join(sorted(names)) or 'none'}; make some with 'snakemake'"
    )


def _shown(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def select(
    node: xr.Dataset | xr.DataTree,
    method: str | None = None,
    *,
    norm_order: str | None = None,
    variant: str | None = "",
) -> xr.Dataset:
    """The runs of one method, norm order or variant; ``None`` takes all. The dimension ``run``
    stays.

    Example:
        >>> mirror = select(open_results()["resnet18"], "weight_mirror")  # doctest: +SKIP
        >>> mirror.matrix_angle.mean("run").isel(epoch=-1)  # doctest: +SKIP
    """
    node = node.to_dataset() if isinstance(node, xr.DataTree) else node
    if "run" not in node.sizes:
        raise WtkitError(
            "select: expected one network's results, such as open_results()['resnet18']"
        )
    if method is not None and method not in node["method"].values:
        known(method, methods.names(), "method")
    mask = np.ones(node.sizes["run"], dtype=bool)
    for name, value in (("method", method), ("norm_order", norm_order), ("variant", variant)):
        if value is not None:
            mask &= node[name].values == value
    return node.isel(run=mask)


def settings(run: xr.Dataset) -> dict[str, Any]:
    """Every setting of one run (an element of the dimension ``run``) as a dictionary, unrecorded
    options included."""
    found = json.loads(str(run["settings"].values))
    if found.get("method") in methods.names():
        found["options"] = {
            **methods.method_class(found["method"]).LATER_OPTIONS,
            **found["options"],
        }
    return found


def config_of(run: xr.Dataset) -> RunConfig:
    """The settings of one recorded run (an element of the dimension ``run``)."""
    return run_config({name: value for name, value in settings(run).items() if name != "numerics"})
