"""What figures and tables call methods, networks and data; the paper's five methods."""

from __future__ import annotations

import re
from pathlib import Path

import xarray as xr

from .. import data_sets, methods
from .store import settings

BP, FA, SS, WM, KP = METHODS = (
    "backprop", "feedback_alignment", "sign_symmetry", "weight_mirror", "kolen_pollack"
)  # fmt: skip
"""The five methods of the paper, in the order of our figures and tables."""
MAIN_ORDER = "relu_bn"
"""BatchNorm after the ReLU, as in most of the paper's experiments (Sec. 6)."""
ORDERS = {"relu_bn": "after ReLU", "bn_relu": "before ReLU", "own": "the network's own"}
"""What figures and tables call the norm orders."""
MEANS = {"matrix_angle": "mean over layers", "delta_angle": "mean over layers but the output"}
"""What figures and texts call means of angles: the output layer's δ angle is 0 by construction, and
left out."""


def method_label(method: str, variant: str = "") -> str:
    """How figures and tables call a method, e.g. ``WM``, or ``WM gaussian``; an unknown method by
    its name."""
    known = method in methods.names()
    return " ".join(
        filter(None, [methods.method_class(method).label if known else method, variant])
    )


def network_label(network: str) -> str:
    """``ResNet-18`` for ``resnet18``, ``ResNet-18, width 16`` for ``resnet18-width=16``; else the
    network's name."""
    found = re.fullmatch(r"resnet(\d+)(?:-width=(\d+))?", network)
    if not found:
        return network
    depth, width = found.groups()
    return f"ResNet-{depth}, width {width}" if width else f"ResNet-{depth}"


JPEG = "-jpeg"
"""A folder of images that is called so behind the name of a data set holds that set's images as
JPEG files."""


def _data_names(node: xr.Dataset) -> list[tuple[str, int | None]]:
    """The data of a network's runs, a folder of images by its own name; and of how many classes,
    None for all."""
    chosen = [settings(node.isel(run=index)) for index in range(node.sizes["run"])]
    return list(
        dict.fromkeys(
            (
                Path(one["data_root"]).name or "images"
                if one["data"] == "image_folder"
                else one["data"],
                one["classes"],
            )
            for one in chosen
        )
    )


def data_label(node: xr.Dataset) -> str:
    """The data of a network's runs: ``CIFAR-10`` for ``cifar10``, and so on, a folder of images by
    its own name."""
    named = {name: data_sets.data_set(name).label for name in data_sets.names()}
    named |= {name + JPEG: f"{words} (JPEG)" for name, words in named.items()}
    return ", ".join(dict.fromkeys(named.get(name, name) for name, _ in _data_names(node)))


def whole_sets(node: xr.Dataset) -> set[str]:
    """The data sets that a network's runs learned with all their classes; :data:`JPEG` is left off
    their names."""
    named = ((name.removesuffix(JPEG), classes) for name, classes in _data_names(node))
    return {name for name, classes in named if classes in (None, data_sets.classes(name))}


def is_coded_anew(node: xr.Dataset) -> bool:
    """Whether images of a data set were learned from JPEG files, and not from the pixels that it
    was published with."""
    return any(name.endswith(JPEG) for name, _ in _data_names(node))
