"""Save, gather, open and select results. Imports no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import xarray as xr

from .. import methods
from ..display import note as say
from ..errors import WtkitError
from ..experiments import RunConfig, run_config
from ..files import write_whole
from ..validation import nearest
from .graph import GRAPH_COORDS, with_shared_graph
from .schema import LAYER_COORDS, RUN_COORDS, SCHEMA_VERSION, check, upgraded


def save(results: xr.Dataset | xr.DataTree, path: str | Path) -> None:
    """Write netCDF-4, completely or not at all.

    Raises:
        WtkitError: if ``results`` breaks the schema, or the file cannot be written.
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
    """``results`` without the stored width of texts, which would truncate longer texts when results
    are joined and saved."""
    if isinstance(results, xr.Dataset):
        return results.drop_encoding()
    return results.map_over_datasets(xr.Dataset.drop_encoding)


def open_run(path: str | Path) -> xr.Dataset:
    """Open and check the data set of one run.

    Raises:
        WtkitError: if it is missing, unreadable, or breaks the schema.
    """
    try:
        with xr.open_dataset(path, engine="h5netcdf") as run:
            return check(upgraded(run.load().drop_encoding()), str(path))
    except FileNotFoundError:
        raise WtkitError(f"no run at {path}; train it first: wtkit train --help") from None
    except OSError as error:
        reason = " ".join(str(error).split())
        raise WtkitError(
            f"cannot read {path}: {reason}; delete it to train the run again"
        ) from None


# ------------------------------------------------------------------------------------------- gather


def is_gathered(path: Path) -> bool:
    """Whether a file is what :func:`gather` makes, of any experiment."""
    with h5py.File(path) as file:
        return {"schema_version", "experiment"} <= set(file.attrs)


def gather(paths: Iterable[str | Path], experiment: str) -> xr.DataTree:
    """Gather an experiment's runs in one tree: one node per network, with the dimensions ``run``,
    ``epoch`` and ``layer``.

    Runs that ended early are padded with NaN.

    Raises:
        WtkitError: if there is no run, a run cannot be read or appears twice, two runs of one
            network differ in their layers, or two runs of one variant differ in their data.
    """
    by_network: dict[str, list[tuple[str, xr.Dataset]]] = {}
    for path in paths:
        run = open_run(path)
        by_network.setdefault(run.attrs["network"], []).append((str(path), run))
    if not by_network:
        raise WtkitError(f"no runs to gather for {experiment!r}: pass at least one trajectory")
    nodes = {}
    for network, sourced_runs in by_network.items():
        _check_layers(sourced_runs)
        _check_data(sourced_runs)
        _check_labels(sourced_runs)
        nodes[f"/{network}"] = join_runs([run for _, run in sourced_runs])
    tree = xr.DataTree.from_dict(nodes)
    tree.attrs = {"schema_version": SCHEMA_VERSION, "experiment": experiment}
    return tree


def _check_layers(sourced_runs: list[tuple[str, xr.Dataset]]) -> None:
    """Check that the runs of one network have the same layers; sources are named in the error."""
    first = sourced_runs[0][1]
    for source, run in sourced_runs[1:]:
        if list(first["layer"].values) != list(run["layer"].values):
            raise WtkitError(
                f"{source}: its layers differ from those of the other {run.attrs['network']} runs"
            )
        both = set(first.coords) & set(run.coords)
        for name in [name for name in (*LAYER_COORDS, *GRAPH_COORDS) if name in both]:
            if list(first[name].values) != list(run[name].values):
                raise WtkitError(
                    f"{source}: {name!r} of its layers differs from that of the other runs; check "
                    "its stem and image size"
                )


def _check_data(sourced_runs: list[tuple[str, xr.Dataset]]) -> None:
    """Check that the runs of each variant learned the same data."""
    data_by_variant: dict[str, str] = {}
    for source, run in sourced_runs:
        data = data_by_variant.setdefault(str(run["variant"].values), run.attrs["data"])
        if data != run.attrs["data"]:
            raise WtkitError(
                f"{source}: its data are {run.attrs['data']}, those of other runs {data}; give it "
                "its own variant"
            )


def _check_labels(sourced_runs: list[tuple[str, xr.Dataset]]) -> None:
    """Check that no two runs have the same labels."""
    sources: dict[tuple[str, ...], str] = {}
    for source, run in sourced_runs:
        labels = (
            run.attrs["network"],
            *(str(run[name].values) for name in ("method", "variant", "norm_order", "seed")),
        )
        if labels in sources:
            raise WtkitError(
                f"{source}: the same run as {sources[labels]} "
                f"({', '.join(filter(None, labels))}); pass one of them only"
            )
        sources[labels] = source


def join_runs(runs: list[xr.Dataset], names: Iterable[str] = RUN_COORDS) -> xr.Dataset:
    """Join runs, or nodes, of one network along the dimension ``run``.

    Args:
        names: coordinates that differ by run.
    """
    node = xr.concat(
        with_shared_graph(runs),
        "run",
        join="outer",
        data_vars="all",
        coords=list(names),
        compat="equals",
        combine_attrs="override",
    )
    parts = [part for run in runs for part in run.attrs["data"].split("+")]
    node.attrs["data"] = "+".join(dict.fromkeys(parts))
    return node.transpose("run", ...)


# --------------------------------------------------------------------------------------------- open


def open_results(*names: str | Path | None, quiet: bool = False) -> xr.DataTree:
    """Open the gathered results of one or more experiments: one node per network.

    Args:
        names: netCDF files, or names of experiments. By default the environment variable
            ``WTKIT_RESULTS``, then ``digits``.
        quiet: do not print which files were opened.

    An experiment's own results, ``results/<name>/results.nc``, take precedence over the committed
    reference results, ``results/reference/<name>/results.nc``. Both are looked up in the working
    directory and its parents, then in the checkout that wtkit was imported from. An installed
    wtkit contains the reference results.

    Returns:
        Each node has the dimensions ``run``, ``epoch`` and ``layer``; see ``docs/schema.md``. With
        several names, every run has the coordinate ``experiment``, and a network's runs from all
        experiments are in one node.

    Raises:
        WtkitError: if there are no results, they break the schema, or a network's layers differ
            between experiments.

    Example:
        >>> tree = open_results("digits", "feedback")  # doctest: +SKIP
        >>> tree.wt.select("WM", experiment="digits", network="resnet18")  # doctest: +SKIP
    """
    chosen = [name for name in names if name] or [os.environ.get("WTKIT_RESULTS") or "digits"]
    trees = [_open(name, quiet) for name in chosen]
    return trees[0] if len(trees) == 1 else _join_experiments(trees)


def _open(name: str | Path, quiet: bool) -> xr.DataTree:
    path = Path(name) if str(name).endswith(".nc") else _find(str(name))
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
        raise WtkitError(f"{path}: no network in it; open a single run with wtkit.results.open_run")
    for network, node in tree.children.items():
        node.dataset = check(upgraded(node.to_dataset().drop_encoding()), f"{path} ({network})")
    if not quiet:
        reference = path.parts[-4:-2] in (("results", "reference"), ("wtkit", "reference"))
        note = " (the reference results that come with wtkit, not yours)" if reference else ""
        experiment = tree.attrs.get("experiment", "?")
        say(f"Results of {experiment}: {_relative(path)}{note}")
    return tree


def _find(experiment: str) -> Path:
    here = Path.cwd().resolve()
    package = Path(__file__).resolve().parent.parent
    roots = [here, *here.parents, package.parent]
    for kind in ("results", "results/reference"):
        for root in roots:
            path = root / kind / experiment / "results.nc"
            if path.exists():
                return path
    installed = package / "reference" / experiment / "results.nc"
    if installed.exists():
        return installed
    names = {p.parent.name for root in roots for p in root.glob("results/**/results.nc")}
    names |= {p.parent.name for p in package.glob("reference/*/results.nc")}
    # there is no pipeline outside of a checkout
    tool = "snakemake" if any((root / "Snakefile").exists() for root in roots) else "wtkit gather"
    raise WtkitError(
        f"no results of an experiment {experiment!r}{nearest(experiment, names)}; "
        f"there are: {', '.join(sorted(names)) or 'none'}; make some with {tool!r}"
    )


def _relative(path: Path) -> str:
    """``path`` relative to the working directory if it is inside."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _join_experiments(trees: list[xr.DataTree]) -> xr.DataTree:
    """One tree with a node per network and the coordinate ``experiment`` along ``run``."""
    by_network: dict[str, list[tuple[str, xr.Dataset]]] = {}
    for tree in trees:
        experiment = str(tree.attrs.get("experiment", "?"))
        for network, node in tree.children.items():
            labelled = _with_experiment(node.to_dataset(), experiment)
            by_network.setdefault(network, []).append((experiment, labelled))
    nodes = {}
    for network, sourced_nodes in by_network.items():
        _check_layers(sourced_nodes)
        datasets = [node for _, node in sourced_nodes]
        nodes[f"/{network}"] = join_runs(datasets, (*RUN_COORDS, "experiment"))
    joined = xr.DataTree.from_dict(nodes)
    names = "+".join(dict.fromkeys(str(tree.attrs.get("experiment", "?")) for tree in trees))
    joined.attrs = {"schema_version": SCHEMA_VERSION, "experiment": names}
    return joined


def _with_experiment(node: xr.Dataset, experiment: str) -> xr.Dataset:
    values = [experiment] * node.sizes["run"]
    attrs = {"long_name": "name of the experiment"}
    return node.assign_coords(
        experiment=xr.DataArray(values, dims="run", attrs=attrs).astype(object)
    )


# ----------------------------------------------------------------------------------------- settings


def settings(run: xr.Dataset) -> dict[str, Any]:
    """All settings of one run (an element of the dimension ``run``) as a dictionary, including
    options that are not recorded."""
    recorded = json.loads(str(run["settings"].values))
    if recorded.get("method") in methods.names():
        earlier = methods.method_class(recorded["method"]).LATER_OPTIONS
        recorded["options"] = {**earlier, **recorded["options"]}
    return recorded


def config_of(run: xr.Dataset) -> RunConfig:
    """The settings of one recorded run (an element of the dimension ``run``) as a RunConfig."""
    return run_config({name: value for name, value in settings(run).items() if name != "numerics"})
