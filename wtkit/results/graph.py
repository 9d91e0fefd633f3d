"""The graph of a network's layers as it is recorded, and what follows from it. Imports no torch.

``feeds`` has the edges, as JSON; ``level`` and :func:`downstream` follow from them.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr
from scipy.sparse.csgraph import connected_components

from ..errors import WtkitError

GRAPH_COORDS = {
    "block": "module that holds the layer and others, such as a residual block",
    "level": "most layers on a path from the input, from 0",
    "feeds": "layers that the output reaches without passing another layer, as JSON",
}
"""Coordinates that describe the graph. They are optional: an older file has them only if the graph
follows from the names of its layers."""


def graph_coords(
    layers: Iterable[str], blocks: Iterable[str], feeds: Mapping[str, Iterable[str]]
) -> dict[str, tuple[str, np.ndarray, dict[str, str]]]:
    """The coordinates :data:`GRAPH_COORDS` of a network, as xarray takes them.

    Args:
        layers: names from the input up.
        blocks: the block of each layer.
        feeds: for each layer, the layers that it feeds.
    """
    layers = list(layers)
    texts = [json.dumps(list(feeds[name]), ensure_ascii=False) for name in layers]
    values = {
        "block": np.asarray(list(blocks), dtype=object),
        "level": np.array(_levels(layers, feeds), dtype=np.int64),
        "feeds": np.asarray(texts, dtype=object),
    }
    return {
        name: ("layer", values[name], {"long_name": text}) for name, text in GRAPH_COORDS.items()
    }


def _levels(names: list[str], feeds: Mapping[str, Iterable[str]]) -> list[int]:
    """The most layers on a path from the input to each layer. Layers that feed each other in a
    loop, as those of a recurrent network, share a level."""
    edges = _matrix(names, feeds)
    number, loop = connected_components(edges, connection="strong")
    between = [(loop[a], loop[b]) for a, b in np.argwhere(edges) if loop[a] != loop[b]]
    level = np.zeros(number, dtype=np.int64)
    for _ in range(number):  # as often as the longest path can be long
        before = level.copy()
        for a, b in between:
            level[b] = max(level[b], level[a] + 1)
        if (level == before).all():
            break
    return level[loop].tolist()


def _matrix(names: list[str], feeds: Mapping[str, Iterable[str]]) -> np.ndarray:
    """The edges as a matrix of bool, from rows to columns."""
    place = {name: index for index, name in enumerate(names)}
    edges = np.zeros((len(names), len(names)), dtype=bool)
    for name, others in feeds.items():
        edges[place[name], [place[other] for other in others]] = True
    return edges


def downstream(node: xr.Dataset | xr.DataTree | xr.DataArray) -> xr.DataArray:
    """Which layers lie downstream of which: δ comes to a layer through those downstream of it.

    Args:
        node: results of one network.

    Returns:
        bool over ``layer`` and ``downstream_layer``, both named after the layers; true where there
        is a path, residual branches included, from the output of ``layer`` to
        ``downstream_layer``.

    Raises:
        WtkitError: for results that do not record the graph.

    Example:
        >>> node = open_results()["resnet18-width=16"]  # doctest: +SKIP
        >>> through = downstream(node)  # doctest: +SKIP
        >>> through.sel(layer="layer4.0.conv1").sum().item()  # doctest: +SKIP
        4
    """
    names, feeds = _recorded(node.to_dataset() if isinstance(node, xr.DataTree) else node)
    reach = _matrix(names, feeds)
    for _ in names:
        further = reach | (reach @ reach)
        if (further == reach).all():
            break
        reach = further
    coords = {"layer": names, "downstream_layer": names}
    return xr.DataArray(reach, coords, ("layer", "downstream_layer"), "downstream")


def _recorded(node: xr.Dataset | xr.DataArray) -> tuple[list[str], dict[str, list[str]]]:
    """The layers and what each feeds."""
    if "layer" not in node.dims:
        raise WtkitError(
            "downstream: expected one network's results, such as "
            "open_results()['resnet18-width=16']"
        )
    if "feeds" not in node.coords:
        raise WtkitError(
            "downstream: these results do not record which layer feeds which; train the runs again"
        )
    names = node["layer"].values.tolist()
    feeds = dict(zip(names, map(json.loads, node["feeds"].values), strict=True))
    missing = set(itertools.chain(*feeds.values())).difference(names)
    if missing:
        raise WtkitError(
            f"downstream: layer {min(missing)!r} is left out of these results; take downstream of "
            "all layers, then select"
        )
    return names, feeds


# ----------------------------------------------------------------------------------- earlier files


def with_graph(run: xr.Dataset) -> xr.Dataset:
    """``run``, or a gathered node, with the coordinates of the graph if they are missing and follow
    from the names of its layers: for ResNets and the MLP."""
    if "layer" not in run.variables or set(GRAPH_COORDS) & set(run.variables):
        return run
    names = [str(name) for name in run["layer"].values]
    network = str(run.attrs.get("network", ""))
    if re.match(r"(wide_)?resne(x)?t\d+", network):
        found = _resnet(names)
    elif re.match(r"mlp(-|$)", network):
        found = names, {a: [b] for a, b in itertools.pairwise(names)} | {names[-1]: []}
    else:
        found = None
    return run if found is None else run.assign_coords(graph_coords(names, *found))


def with_shared_graph(runs: list[xr.Dataset]) -> list[xr.Dataset]:
    """Runs of one network with the graph that some of them recorded, since all have it."""
    known = next((run for run in runs if "feeds" in run.coords), None)
    if known is None:
        return runs
    graph = {name: known[name].variable for name in GRAPH_COORDS}
    return [run if "feeds" in run.coords else run.assign_coords(graph) for run in runs]


IN_BLOCK = re.compile(r"(layer\d+\.\d+)\.(conv\d+|downsample\.0)")


def _resnet(names: list[str]) -> tuple[list[str], dict[str, list[str]]] | None:
    """Blocks and edges of a ResNet with torchvision's names; None if the names are others."""
    matches = [IN_BLOCK.fullmatch(name) for name in names]
    if (names[0], names[-1]) != ("conv1", "fc") or not all(matches[1:-1]) or len(names) < 3:
        return None
    blocks = [match[1] if match else name for name, match in zip(names, matches, strict=True)]
    feeds: dict[str, list[str]] = {name: [] for name in names}

    def connect(sources: list[str], target: str) -> None:
        for source in sources:
            feeds[source].append(target)

    # what the next block receives: the sum of all branches since the last shortcut with weights
    stream = ["conv1"]
    for _, group in itertools.groupby(zip(blocks[1:-1], names[1:-1], strict=True), lambda b: b[0]):
        inside = [name for _, name in group]
        branch = [name for name in inside if not name.endswith("downsample.0")]
        shortcut = inside[len(branch) :]
        for source, target in itertools.pairwise(branch):
            connect([source], target)
        for first in (branch[0], *shortcut):
            connect(stream, first)
        stream = [branch[-1], *shortcut] if shortcut else [*stream, branch[-1]]
    connect(stream, "fc")
    return blocks, {a: sorted(b, key=names.index) for a, b in feeds.items()}
