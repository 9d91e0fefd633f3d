"""Save, gather, open and select results. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import xarray as xr

from ..display import note as say
from ..errors import WtkitError
from ..files import write_whole
from ..validation import nearest
from .agreement import check_labels, check_layers, check_metrics, check_runs, check_together
from .checksum import check_bytes, with_checksum
from .graph import with_shared_graph
from .schema import RUN_COORDS, SCHEMA_VERSION, check, metrics_of, upgraded


def save(results: xr.Dataset | xr.DataTree, path: str | Path) -> None:
    """Write netCDF-4 with a checksum, completely or not at all.

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
    write_whole(path, with_checksum(content))


def _without_encoding(results: xr.Dataset | xr.DataTree) -> xr.Dataset | xr.DataTree:
    """``results`` without the stored width of texts, which would truncate longer texts when results
    are joined and saved."""
    if isinstance(results, xr.Dataset):
        return results.drop_encoding()
    return results.map_over_datasets(xr.Dataset.drop_encoding)


MOST_BYTES = 4_000_000_000
"""Of a result file in memory. Hundreds of runs of a deep network take some megabytes."""


def open_run(path: str | Path) -> xr.Dataset:
    """Open and check the data set of one run.

    Raises:
        WtkitError: if it is missing, unreadable, damaged, or breaks the schema.
    """
    path = Path(path)
    if not path.exists():
        raise WtkitError(f"no run at {path}; train it first: wtkit train --help")
    fix = "delete it and give the run's command again" if path.suffix == ".nc" else _NAME_A_RUN
    run = _loaded(path, xr.open_dataset, fix).drop_encoding()
    if is_gathered(path):
        raise WtkitError(f"{path}: the gathered runs of an experiment; open it with open_results")
    return check(upgraded(run), str(path))


_NAME_A_RUN = "name the trajectory.nc of a run"


def _loaded(path: Path, opened: Callable[..., Any], fix: str) -> Any:
    """The content of a file as xarray's function ``opened`` reads it."""
    try:
        check_bytes(path)
        _check_hdf5(path)
        with opened(path, engine="h5netcdf") as content:
            return content.load()
    except Exception as error:  # a damaged file can raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WtkitError(
            f"cannot read {path}: it is no netCDF file, or damaged ({reason}); {fix}"
        ) from None


def _check_hdf5(path: Path) -> None:
    """Read what h5netcdf would print a traceback for, and refuse a file that claims too much
    memory. A small one can, as HDF5 fills what was not written."""
    sizes = []

    def add(_name: str, item: Any) -> None:
        sizes.append(getattr(item, "nbytes", 0))  # a group has none

    with h5py.File(path) as file:
        dict(file.attrs)
        file.visititems(add)
    if sum(sizes) > MOST_BYTES:
        raise WtkitError(f"it would take {sum(sizes) / 1e9:,.0f} GB of memory")


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
            network differ in their layers, or two runs of one variant in their data or settings.
    """
    by_network: dict[str, list[tuple[str, xr.Dataset]]] = {}
    for path in paths:
        run = open_run(path)
        by_network.setdefault(run.attrs["network"], []).append((str(path), run))
    if not by_network:
        raise WtkitError(f"no runs to gather for {experiment!r}: pass at least one trajectory")
    nodes = {}
    for network, sourced_runs in by_network.items():
        check_together(sourced_runs)
        nodes[f"/{network}"] = join_runs([run for _, run in sourced_runs])
    tree = xr.DataTree.from_dict(nodes)
    tree.attrs = {"schema_version": SCHEMA_VERSION, "experiment": experiment}
    return tree


def _runs_of(node: xr.Dataset) -> Iterator[tuple[int, xr.Dataset]]:
    """The runs of a gathered node, each with its coordinates alone."""
    labels = node.drop_vars(node.data_vars)
    for number in range(node.sizes.get("run", 0)):
        yield number, labels.isel(run=number)


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
    if metrics := dict.fromkeys(name for run in runs for name in metrics_of(run)):
        node.attrs["metrics"] = " ".join(metrics)
    return node.transpose("run", ...)


# --------------------------------------------------------------------------------------------- open


def open_results(*names: str | Path | None, quiet: bool = False) -> xr.DataTree:
    """Open the gathered results of one or more experiments: one node per network.

    Args:
        names: names of experiments, netCDF files, or paths of folders with a ``results.nc``, such
            as ``results/digits``. By default the environment variable ``WTKIT_RESULTS``, then
            ``digits``.
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
        WtkitError: if there are no results, they break the schema, a network's layers differ
            between experiments, or a run is in two of them.

    Example:
        >>> tree = open_results("digits", "feedback")  # doctest: +SKIP
        >>> tree.wt.select("WM", experiment="digits", network="resnet18")  # doctest: +SKIP
    """
    if any(name is not None and not str(name) for name in names):
        raise WtkitError("open_results: expected names of experiments, or files, got an empty text")
    chosen = [name for name in names if name is not None]
    chosen = chosen or [os.environ.get("WTKIT_RESULTS") or "digits"]
    trees = [_open(name, quiet) for name in chosen]
    return trees[0] if len(trees) == 1 else _join_experiments(trees)


def _open(name: str | Path, quiet: bool) -> xr.DataTree:
    path = Path(name)
    if path.suffix != ".nc":
        inside = path / "results.nc"
        # a single word is a name, also in the folder of the reference results
        if path.is_file():
            raise WtkitError(f"{path}: not a file of results; expected netCDF, such as results.nc")
        path = inside if len(path.parts) > 1 and inside.exists() else _find(str(name))
    if not path.exists():
        raise WtkitError(f"no results at {path}; make them with 'snakemake', or name another file")
    tree = _loaded(path, xr.open_datatree, "gather it again, or name another file")
    if not tree.children:
        check(tree.to_dataset(), str(path))  # what is not wtkit's says so
        raise WtkitError(f"{path}: a single run; open it with wtkit.results.open_run")
    for network, node in tree.children.items():
        content = check(upgraded(node.to_dataset().drop_encoding()), f"{path} ({network})")
        check_runs([(f"{path} ({network}, run {n})", run) for n, run in _runs_of(content)])
        node.dataset = content
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
        check_layers(sourced_nodes)
        check_metrics(sourced_nodes)
        datasets = [node for _, node in sourced_nodes]
        runs = [
            (f"open_results: {experiment} ({network}, run {n})", run)
            for experiment, node in sourced_nodes
            for n, run in _runs_of(node)
        ]
        check_labels(runs)
        nodes[f"/{network}"] = join_runs(datasets, (*RUN_COORDS, "experiment"))
    joined = xr.DataTree.from_dict(nodes)
    names = "+".join(dict.fromkeys(str(tree.attrs.get("experiment", "?")) for tree in trees))
    joined.attrs = {"schema_version": SCHEMA_VERSION, "experiment": names}
    return joined


def _with_experiment(node: xr.Dataset, experiment: str) -> xr.Dataset:
    if "experiment" in node.coords:  # joined before
        return node
    values = [experiment] * node.sizes["run"]
    attrs = {"long_name": "name of the experiment"}
    return node.assign_coords(
        experiment=xr.DataArray(values, dims="run", attrs=attrs).astype(object)
    )
