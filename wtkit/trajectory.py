"""The data set schema: what a run records, how runs are gathered, and how results are opened. Imports no torch.

The schema is written down as prose in ``docs/schema.md``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from . import methods
from .errors import WtkitError
from .files import write_whole
from .settings import known, nearest

SCHEMA_VERSION = 2

LIVE, ALL = "live weights", "all weights"
"""What angles and norm ratios were taken over: weights that a signal can pass, or all of them."""

# name: (dimensions of one run, long name, units, section of the paper)
VARIABLES: dict[str, tuple[tuple[str, ...], str, str, str]] = {
    "test_error": (("epoch",), "top-1 error on held-out images", "%", "Sec. 6, Fig. 3"),
    "test_error_top5": (("epoch",), "top-5 error on held-out images", "%", ""),
    "train_loss": (("epoch",), "mean training loss of the epoch", "nat", ""),
    "learning_rate": (("epoch",), "learning rate η_W at the end of the epoch", "1", "eq. 4"),
    "seconds": (("epoch",), "time that the epoch took, measuring included", "s", ""),
    "matrix_angle": (("epoch", "layer"), "angle between B and W", "degree", "Sec. 6, Fig. 4a, c, e"),
    "matrix_angle_all_weights": (("epoch", "layer"), "angle between B and W, dead weights included", "degree", ""),
    "delta_angle": (("epoch", "layer"), "angle between δ and backprop's δ", "degree", "Sec. 6, Fig. 4b, d, f"),
    "feedback_norm_ratio": (("epoch", "layer"), "norm of B over norm of W", "1", "Sec. 4.3"),
    "feedback_norm_ratio_all_weights": (
        ("epoch", "layer"), "norm of B over norm of W, dead weights included", "1", ""
    ),
    "weight_norm": (("epoch", "layer"), "norm of W", "1", ""),
    "weight_norm_all_weights": (("epoch", "layer"), "norm of W, dead weights included", "1", ""),
    "delta_norm_ratio": (("epoch", "layer"), "norm of δ over norm of backprop's δ", "1", ""),
    "live_share": (("layer",), "share of the weights that a signal can pass", "1", ""),
    "mirror_samples": (("layer",), "noise samples a mirror step", "1", "Sec. 4.2"),
}  # fmt: skip
OVER_LIVE = ("matrix_angle", "feedback_norm_ratio", "weight_norm")
"""Variables over the live weights; each has a twin over all weights, under its name and ``_all_weights``."""

LAYER_COORDS = {"depth": "position from the input, from 0", "kind": "Linear or Conv2d", "fan_in": "inputs of a unit"}
RUN_COORDS = {
    "method": "name of the method",
    "variant": "tells sets of options apart; empty for the main one",
    "norm_order": "relu_bn: BatchNorm after the ReLU; bn_relu: before; own: as the network has it",
    "seed": "random seed",
    "status": "complete or diverged",
    "evaluated_on": "test or validation images",
    "held_out_images": "images that the errors were measured on; -1 where that was not recorded",
    "angles_over": f"what angles and norm ratios of B and W are taken over: {LIVE}, or {ALL} (schema version 1)",
    "settings": "every setting of the run, as JSON",
    "provenance": "versions, commit, device, processes and start of the run, as JSON",
}
RUN_ATTRS = ("schema_version", "network", "data")


def dataset(
    records: Mapping[str, Any], layers: Mapping[str, Any], run: Mapping[str, Any], *, network: str, data: str
) -> xr.Dataset:
    """One run as a labelled data set with the dimensions ``epoch`` and ``layer``.

    Args:
        records: for every name of :data:`VARIABLES` (a missing one is all NaN: not measured) an array over epochs,
            epochs × layers, or layers; epochs count from 0, before training.
        layers: ``layer`` (names from the input up), ``kind`` and ``fan_in``.
        run: a value for each of :data:`RUN_COORDS`.
    """
    sizes = {"epoch": len(records["test_error"]), "layer": len(layers["layer"])}
    variables = {name: _variable(name, sizes, records.get(name)) for name in VARIABLES}
    coords: dict[str, Any] = {
        "epoch": ("epoch", np.arange(sizes["epoch"]), {"long_name": "epochs trained; 0 is before training"}),
        "layer": ("layer", np.asarray(layers["layer"], dtype=object), {"long_name": "module, from the input up"}),
        "depth": ("layer", np.arange(sizes["layer"]), {"long_name": LAYER_COORDS["depth"]}),
        "kind": ("layer", np.asarray(layers["kind"], dtype=object), {"long_name": LAYER_COORDS["kind"]}),
        "fan_in": ("layer", np.asarray(layers["fan_in"], dtype=np.int64), {"long_name": LAYER_COORDS["fan_in"]}),
    }
    for name, long_name in RUN_COORDS.items():
        coords[name] = ((), run[name], {"long_name": long_name})
    return xr.Dataset(variables, coords, {"schema_version": SCHEMA_VERSION, "network": network, "data": data})


def _variable(name: str, sizes: Mapping[Any, int], values: Any = None) -> tuple[tuple[str, ...], np.ndarray, dict]:
    """A variable of one run as xarray takes it; all NaN without ``values``."""
    dims, long_name, units, section = VARIABLES[name]
    values = np.full([sizes[d] for d in dims], np.nan) if values is None else np.asarray(values, dtype=np.float64)
    return dims, values, {"long_name": long_name, "units": units} | ({"paper": section} if section else {})


def _brought_up(run: xr.Dataset) -> xr.Dataset:
    """One run, or a gathered node, of any version as one of :data:`SCHEMA_VERSION`.

    Version 1 knew one angle, over all weights; it stays under the name that it had, and ``angles_over`` says so.
    """
    if run.attrs.get("schema_version") != 1:
        return run
    attrs = run.attrs | {"schema_version": SCHEMA_VERSION}
    leading = {"run": run.sizes["run"]} if "run" in run.dims else {}
    if "weight_norm" not in run.variables:  # came after the first files of version 1
        run = _with_missing(run, "weight_norm", leading)
    for name in OVER_LIVE:
        twin = f"{name}_all_weights"
        if name in run.variables:
            run = run.assign({twin: run[name].assign_attrs(_variable(twin, run.sizes)[2])})
    run = _with_missing(run, "live_share", leading)
    for name, value in (("held_out_images", -1), ("angles_over", ALL)):
        values = np.full(tuple(leading.values()), value, dtype=object if isinstance(value, str) else None)
        run = run.assign_coords({name: (tuple(leading), values, {"long_name": RUN_COORDS[name]})})
    return run.assign_attrs(attrs)


def _with_missing(run: xr.Dataset, name: str, leading: Mapping[str, int]) -> xr.Dataset:
    """``run`` with a variable that was not measured."""
    if not set(VARIABLES[name][0]) <= set(run.dims):
        return run  # what it lacks is found by check
    run = run.assign({name: _variable(name, run.sizes)})
    return run.assign({name: run[name].expand_dims(leading)}) if leading else run


def check(run: xr.Dataset, source: str) -> xr.Dataset:
    """Return ``run`` if it keeps to the schema; ``run`` may be one run or a gathered node with a dimension ``run``.

    Raises:
        WtkitError: naming ``source`` and what is amiss.
    """
    version = run.attrs.get("schema_version")
    if version is None:
        raise WtkitError(f"{source}: no attribute 'schema_version', so this is no data set of wtkit's")
    if not isinstance(version, (int, np.integer)):
        raise WtkitError(f"{source}: attribute 'schema_version' is {version!r}, expected a whole number")
    if version > SCHEMA_VERSION:
        raise WtkitError(
            f"{source}: schema version {version}, but this wtkit reads up to {SCHEMA_VERSION}; upgrade wtkit"
        )
    for attr in RUN_ATTRS:
        if attr not in run.attrs:
            raise WtkitError(f"{source}: attribute {attr!r} is missing")
    leading = ("run",) if "run" in run.dims else ()
    wanted = {name: dims for name, (dims, *_) in VARIABLES.items()}
    for name, dims in wanted.items():
        _expect(run, name, leading + dims, source)
        units = VARIABLES[name][2]
        if run[name].attrs.get("units") != units:
            raise WtkitError(f"{source}: {name!r} is in {run[name].attrs.get('units')!r}, expected {units!r}")
    for name in ("layer", *LAYER_COORDS):
        _expect(run, name, ("layer",), source)
    _expect(run, "epoch", ("epoch",), source)
    if not np.array_equal(run["epoch"], np.arange(run.sizes["epoch"])):
        raise WtkitError(f"{source}: 'epoch' does not count 0, 1, 2, …")
    for name in RUN_COORDS:
        _expect(run, name, leading, source)
    for name, low, high in (
        ("test_error", 0, 100), ("test_error_top5", 0, 100), ("matrix_angle", 0, 180), ("delta_angle", 0, 180),
        ("matrix_angle_all_weights", 0, 180), ("live_share", 0, 1),
    ):  # fmt: skip
        outside = ((run[name] < low) | (run[name] > high)).any()
        if outside:
            raise WtkitError(f"{source}: {name!r} leaves the range {low} to {high} {VARIABLES[name][2]}")
    return run


def _expect(run: xr.Dataset, name: str, dims: tuple[str, ...], source: str) -> None:
    if name not in run.variables:
        raise WtkitError(f"{source}: {name!r} is missing")
    if set(run[name].dims) != set(dims):
        raise WtkitError(f"{source}: {name!r} has the dimensions {run[name].dims}, expected {dims}")


def save(results: xr.Dataset | xr.DataTree, path: str | Path) -> None:
    """Write netCDF4 whole or not at all. Texts are of variable length, whatever a file they came from said.

    Raises:
        WtkitError: if ``results`` does not keep to the schema, or the file cannot be written.
    """
    path = Path(path)
    nodes = results.children if isinstance(results, xr.DataTree) else {"": results}
    for name, node in nodes.items():
        check(node.to_dataset() if isinstance(node, xr.DataTree) else node, f"{path}{f' ({name})' if name else ''}")
    content = _without_encoding(results).to_netcdf(engine="h5netcdf")
    assert isinstance(content, memoryview)
    write_whole(path, content)


def _without_encoding(results: xr.Dataset | xr.DataTree) -> xr.Dataset | xr.DataTree:
    """``results`` without what a file said of their storage: xarray reads texts as of the width of the longest one, and
    would cut longer ones to it when results are joined and saved."""
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
            return check(_brought_up(run.load().drop_encoding()), str(path))
    except FileNotFoundError:
        raise WtkitError(f"no run at {path}; train it first: wtkit train --help") from None
    except OSError as error:
        reason = " ".join(str(error).split())
        raise WtkitError(f"cannot read {path}: {reason}; delete it to train the run anew") from None


def gather(paths: Iterable[str | Path], experiment: str) -> xr.DataTree:
    """All runs of an experiment in one tree: a node a network, with the dimensions ``run``, ``epoch`` and ``layer``.

    Runs that ended early are filled with NaN.

    Raises:
        WtkitError: if there is no run, one cannot be read or comes twice, two runs of one network differ in their
            layers, or two of one variant in their data.
    """
    of_network: dict[str, list[xr.Dataset]] = {}
    data_of: dict[tuple[str, str], str] = {}  # a network's variant
    seen: dict[tuple[str, ...], str | Path] = {}
    for path in paths:
        run = open_run(path)
        runs = of_network.setdefault(run.attrs["network"], [])
        if runs and list(runs[0]["layer"].values) != list(run["layer"].values):
            raise WtkitError(f"{path}: its layers differ from those of the other {run.attrs['network']} runs")
        for name in LAYER_COORDS:
            if runs and list(runs[0][name].values) != list(run[name].values):
                raise WtkitError(
                    f"{path}: {name!r} of its layers differs from that of the other runs: another stem or image size?"
                )
        variant = str(run["variant"].values)
        data = data_of.setdefault((run.attrs["network"], variant), run.attrs["data"])
        if data != run.attrs["data"]:
            raise WtkitError(
                f"{path}: its data are {run.attrs['data']}, those of other runs {data}; give it a variant of its own"
            )
        who = (run.attrs["network"], *(str(run[name].values) for name in ("method", "variant", "norm_order", "seed")))
        if who in seen:
            raise WtkitError(f"{path}: the same run as {seen[who]} ({', '.join(filter(None, who))}); give one of them")
        seen[who] = path
        runs.append(run)
    if not of_network:
        raise WtkitError(f"nothing to gather for {experiment!r}: no run was given")
    nodes = {network: _joined(runs) for network, runs in of_network.items()}
    tree = xr.DataTree.from_dict({f"/{network}": node for network, node in nodes.items()})
    tree.attrs = {"schema_version": SCHEMA_VERSION, "experiment": experiment}
    return tree


def _joined(runs: list[xr.Dataset]) -> xr.Dataset:
    """Runs of one network along a new dimension ``run``."""
    node = xr.concat(
        runs, "run", join="outer", data_vars="all", coords=list(RUN_COORDS), compat="equals", combine_attrs="override"
    )
    node.attrs["data"] = "+".join(dict.fromkeys(run.attrs["data"] for run in runs))
    return node.transpose("run", ...)


def open_results(where: str | Path | None = None, *, quiet: bool = False) -> xr.DataTree:
    """Open an experiment's gathered results: a DataTree with a node a network.

    Args:
        where: a netCDF file, or the name of an experiment. By default the environment variable ``WTKIT_RESULTS``, then
            the results of ``digits``.
        quiet: say nothing of which file was opened.

    An experiment's own results, ``results/<name>/results.nc``, come before the committed reference results,
    ``results/reference/<name>/results.nc``. Folders are looked up from the working folder upwards, then from the
    checkout that wtkit was imported from.

    Returns:
        node names are networks. In each: dimensions ``run``, ``epoch``, ``layer``; see ``docs/schema.md``.

    Raises:
        WtkitError: if there are no results, or they do not keep to the schema.
    """
    where = where or os.environ.get("WTKIT_RESULTS") or "digits"
    path = Path(where) if str(where).endswith(".nc") else _find(str(where))
    try:
        with xr.open_datatree(path, engine="h5netcdf") as opened:
            tree = opened.load()
    except FileNotFoundError:
        raise WtkitError(f"no results at {path}; make them with 'snakemake', or name another file") from None
    except OSError as error:
        raise WtkitError(f"cannot read {path}: {' '.join(str(error).split())}") from None
    if not tree.children:
        raise WtkitError(f"{path}: no network in it; a single run is opened by wtkit.trajectory.open_run")
    for network, node in tree.children.items():
        node.dataset = check(_brought_up(node.to_dataset().drop_encoding()), f"{path} ({network})")
    if not quiet:
        reference = path.parts[-4:-2] == ("results", "reference")
        note = " (the reference results that come with wtkit, not yours)" if reference else ""
        print(f"Results of {tree.attrs.get('experiment', '?')}: {_shown(path)}{note}", file=sys.stderr)
    return tree


def _find(experiment: str) -> Path:
    here = Path.cwd().resolve()
    roots = [here, *here.parents, Path(__file__).resolve().parent.parent]
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
    """The runs of one method, norm order or variant; ``None`` takes all. The dimension ``run`` stays.

    Example:
        >>> mirror = select(open_results()["resnet18"], "weight_mirror")  # doctest: +SKIP
        >>> mirror.matrix_angle.mean("run").isel(epoch=-1)  # doctest: +SKIP
    """
    node = node.to_dataset() if isinstance(node, xr.DataTree) else node
    if "run" not in node.sizes:
        raise WtkitError("select: expected one network's results, such as open_results()['resnet18']")
    if method is not None and method not in node["method"].values:
        known(method, methods.names(), "method")
    mask = np.ones(node.sizes["run"], dtype=bool)
    for name, value in (("method", method), ("norm_order", norm_order), ("variant", variant)):
        if value is not None:
            mask &= node[name].values == value
    return node.isel(run=mask)


def settings(run: xr.Dataset) -> dict[str, Any]:
    """Every setting of one run (an element of the dimension ``run``) as a dictionary, unrecorded options included."""
    found = json.loads(str(run["settings"].values))
    if found.get("method") in methods.names():
        found["options"] = {**methods.method_class(found["method"]).BEFORE, **found["options"]}
    return found
