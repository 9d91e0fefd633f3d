"""Made-up results that keep to the schema: trajectories shaped as the paper's, from a fixed random
stream."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from wtkit import results
from wtkit.data_sets import data_set
from wtkit.experiments import learning_rate, run_config
from wtkit.results import LIVE_VARIABLES, LIVE_WEIGHTS, SCHEMA_VERSION, VARIABLES, store

METHODS = ("backprop", "feedback_alignment", "sign_symmetry", "weight_mirror", "kolen_pollack")
# blocks a stage, convolutions a block
BLOCKS = {"resnet18": ([2, 2, 2, 2], 2), "resnet50": ([3, 4, 6, 3], 3)}
DECAY = 0.1
"""A weight decay by which Kolen–Pollack's mismatch falls by more than five e-foldings in 16 epochs
of digits."""
FINALS = {
    "backprop": 1.4,
    "feedback_alignment": 5.0,
    "sign_symmetry": 3.2,
    "weight_mirror": 1.6,
    "kolen_pollack": 1.2,
}


def layers(network: str) -> dict[str, list]:
    """``layer``, ``kind`` and ``fan_in`` of a ResNet, named as torchvision names them; of another
    network, some."""
    if network not in BLOCKS:
        names = ["features.0", "features.2", "classifier"]
        return {"layer": names, "kind": ["Conv2d", "Conv2d", "Linear"], "fan_in": [27, 576, 128]}
    stages, convolutions = BLOCKS[network]
    names, fan_in = ["conv1"], [147]
    for stage, blocks in enumerate(stages, start=1):
        for block in range(blocks):
            names += [f"layer{stage}.{block}.conv{number}" for number in range(1, convolutions + 1)]
            fan_in += [64 * 9 * 2 ** (stage - 1)] * convolutions
            if block == 0 and (stage > 1 or convolutions == 3):
                names.append(f"layer{stage}.{block}.downsample.0")
                fan_in.append(64 * 2 ** (stage - 1))
    kinds = ["Conv2d"] * len(names) + ["Linear"]
    return {
        "layer": [*names, "fc"],
        "kind": kinds,
        "fan_in": [*fan_in, 512 if convolutions == 2 else 2048],
    }


def angles(
    method: str, epochs: np.ndarray, depth: np.ndarray, drop: int, rng: np.random.Generator
) -> tuple:
    """Matrix and δ angles in degrees, epochs × layers, such that the paper's claims hold."""
    time, last = epochs[:, None], depth == depth.max()
    wobble = 1 + 0.05 * rng.standard_normal((len(epochs), len(depth)))
    upstream = 1 - depth / depth.max()
    if method == "backprop":
        return np.zeros_like(wobble), np.zeros_like(wobble)
    if method == "feedback_alignment":
        matrix = 90 - np.where(last, 25, 3) * (1 - np.exp(-time / 3)) * wobble
        delta = 84 + 4 * upstream * wobble
    elif method == "sign_symmetry":
        matrix = 37 + 0.5 * rng.standard_normal(wobble.shape)
        delta = 30 + 20 * upstream * wobble
    elif method == "weight_mirror":
        level = np.where(time <= drop, 2 + 2.5 * np.minimum(time / (drop * 10 / 32), 1), 2.2)
        matrix = level * np.where(last, 2.0, 1 + 0.1 * upstream) * wobble
        matrix[0] = 90 + rng.standard_normal(len(depth))
        delta = 4 + 12 * upstream * wobble
        delta[0] = 85
    else:
        matrix = 90 * np.exp(-((time / epochs[-1]) ** 1.5) * 9) * wobble
        delta = matrix * (0.5 + upstream)
    delta = np.where(last, 0.0, delta)
    return matrix, np.minimum(delta, 90)


def records(config: Any, final: float, rng: np.random.Generator, drop: int) -> dict[str, Any]:
    """The trajectory of one run."""
    epochs, kinds = np.arange(config.epochs + 1), layers(config.network)
    depth = np.arange(len(kinds["layer"]))
    matrix, delta = angles(config.method, epochs, depth, drop, rng)
    fall = np.exp(-epochs / max(config.epochs / 12, 0.5))
    error = np.clip(
        final + (90 - final) * fall * (1 + 0.1 * rng.standard_normal(len(epochs))), 0, 100
    )
    error[-1] = final
    measured = {
        "test_error": error,
        "test_error_top5": error / 3,
        "train_loss": np.where(epochs == 0, np.nan, error / 40),
        "learning_rate": [learning_rate(config, max(epoch - 0.01, 0)) for epoch in epochs],
        "seconds": np.full(len(epochs), 3.0),
        "matrix_angle": matrix,
        "delta_angle": delta,
        "feedback_norm_ratio": 1 / np.cos(np.radians(np.minimum(matrix, 60))),
        "weight_norm": np.ones_like(matrix),
        "delta_norm_ratio": np.ones_like(delta),
        "live_share": np.ones(len(depth)),
    }
    return measured | {f"{name}_all_weights": measured[name] for name in LIVE_VARIABLES}


def synthetic(
    path: str | Path | None = None,
    networks: Sequence[str] = ("resnet18", "resnet50"),
    seeds: Sequence[int] = (0, 1, 2),
    *,
    methods: Sequence[str] = METHODS,
    both_orders: Sequence[str] = ("sign_symmetry",),
    finals: dict[str, float] | None = None,
    options: dict[str, dict[str, Any]] | None = None,
    data: str = "digits",
    epochs: int = 16,
    drop: int = 12,
) -> xr.DataTree:
    """Gathered results of made-up runs in which, by default, what the paper claims holds.

    They are joined as :func:`wtkit.results.gather` joins them, but in memory: a file a run takes
    seconds.

    Args:
        path: where to write them; None for nowhere.
        methods: names, or ``name:variant``.
        both_orders: methods that have runs under ``bn_relu`` too, at an error lower by a quarter
            for sign-symmetry.
        finals: final test error of each method in percent; seeds scatter around it by 0.1.
        options: of the methods, by name.
        drop: epoch at which the learning rate falls by 90 %; as many as ``epochs`` for never.
    """
    rng = np.random.default_rng(0)
    finals = FINALS | (finals or {})
    nodes = {}
    for network in networks:
        runs = []
        for choice, norm_order in itertools.product(methods, ("relu_bn", "bn_relu")):
            method, _, variant = choice.partition(":")
            if norm_order == "bn_relu" and (choice not in both_orders or network not in BLOCKS):
                continue
            for number, seed in enumerate(seeds):
                config = run_config(
                    {
                        "method": method,
                        "variant": variant,
                        "network": network,
                        "norm_order": norm_order,
                    }
                    | {"options": (options or {}).get(method, {})}
                    | {
                        "seed": seed,
                        "epochs": epochs,
                        "lr_drops": (drop,),
                        "data": data,
                        "weight_decay": DECAY,
                    }
                )
                final = finals[method] + 0.1 * (number - (len(seeds) - 1) / 2)
                if method == "sign_symmetry" and norm_order == "bn_relu":
                    final -= finals[method] / 4
                values = records(config, final, rng, drop)
                runs.append(
                    results.dataset(
                        values, layers(network), labels_of(config), network=network, data=data
                    )
                )
        nodes[f"/{network}"] = results.check(store.join_runs(runs), network)
    tree = xr.DataTree.from_dict(nodes)
    tree.attrs = {"schema_version": SCHEMA_VERSION, "experiment": "synthetic"}
    if path is not None:
        results.save(tree, path)
    return tree


def labels_of(config: Any) -> dict[str, Any]:
    """The labels of one run, as training records them."""
    names = ("method", "variant", "norm_order", "seed")
    return {name: getattr(config, name) for name in names} | {
        "status": "complete",
        "evaluated_on": "test",
        "held_out_images": data_set(config.data).held_out,
        "angles_over": LIVE_WEIGHTS,
        "settings": config.revision,
        "provenance": "{}",
    }


def altered(tree: xr.DataTree, change: Callable[[xr.Dataset], xr.Dataset | None]) -> xr.DataTree:
    """A copy of ``tree`` in which ``change`` was applied to the data set of every network, in place
    or by return."""
    nodes = {}
    for name, node in tree.children.items():
        copy = node.to_dataset().copy(deep=True)
        nodes[f"/{name}"] = copy if (new := change(copy)) is None else new
    new_tree = xr.DataTree.from_dict(nodes)
    new_tree.attrs = dict(tree.attrs)
    return new_tree


def put(variable: str, method: str, value: float, **where: Any) -> Callable[[xr.Dataset], None]:
    """A change that sets ``variable`` of a method's runs to ``value``, at positions ``where`` (e.g.
    ``layer=-1``)."""

    def change(node: xr.Dataset) -> None:
        node[variable][{"run": np.flatnonzero(node["method"].values == method), **where}] = value

    return change


def diverge(method: str, *seeds: int, epoch: int = 4) -> Callable[[xr.Dataset], None]:
    """A change that lets the runs of ``method`` with these seeds diverge after ``epoch``."""

    def change(node: xr.Dataset) -> None:
        runs = (node["method"].values == method) & np.isin(node["seed"].values, seeds)
        node["status"][runs] = "diverged"
        for name, (dims, *_) in VARIABLES.items():
            if "epoch" in dims:
                node[name][{"run": np.flatnonzero(runs), "epoch": slice(epoch + 1, None)}] = np.nan

    return change


def note(fig):
    """A figure's note; where its lines break depends on their length."""
    return " ".join(fig._supxlabel.get_text().split())
