"""Labels of methods, networks and data sets in figures and tables; the paper's five methods."""

from __future__ import annotations

import re
from pathlib import Path

import xarray as xr

from .. import data_sets, methods
from .recorded import is_own_loop, settings

BP, FA, SS, WM, KP = METHODS = (
    "backprop", "feedback_alignment", "sign_symmetry", "weight_mirror", "kolen_pollack"
)  # fmt: skip
"""The paper's five methods, in the order of our figures and tables."""
MAIN_ORDER = "relu_bn"
"""BatchNorm after the ReLU, as in most of the paper's experiments (Sec. 6)."""
ORDERS = {"relu_bn": "after ReLU", "bn_relu": "before ReLU", "own": "the network's own"}
"""Labels of the norm orders."""
ANGLE_MEANS = {"matrix_angle": "mean over layers", "delta_angle": "mean over layers but the output"}
"""Labels of mean angles. The output layer's δ angle is 0 by construction, so means leave it out."""


def method_label(method: str, variant: str = "") -> str:
    """A method's label, such as ``WM`` or ``WM gaussian``; the name of an unknown method."""
    known = method in methods.names()
    return " ".join(
        filter(None, [methods.method_class(method).label if known else method, variant])
    )


def network_label(network: str) -> str:
    """``ResNet-18`` for ``resnet18``, ``ResNet-18, width 16`` for ``resnet18-width=16``; other
    names as they are, with their options in the same form."""
    match = re.fullmatch(r"(.+?)-(\w+=.*)", network)
    name, options = match.groups() if match else (network, "")
    resnet = re.fullmatch(r"resnet(\d+)", name)
    label = f"ResNet-{resnet[1]}" if resnet else {"vit": "ViT", "mlp": "MLP"}.get(name, name)
    return ", ".join([label, *(pair.replace("=", " ", 1) for pair in options.split(",") if pair)])


JPEG = "-jpeg"
"""An image folder named after a data set with this suffix holds that set's images as JPEG files."""


def _data_and_classes(node: xr.Dataset) -> list[tuple[str, int | None]]:
    """The data sets of a network's runs with their number of classes, None for all. An image folder
    counts under its own name."""
    pairs = []
    for index in range(node.sizes["run"]):
        run = node.isel(run=index)
        chosen = settings(run)
        name = chosen["data"]
        if is_own_loop(run):
            pairs.append((name, None))
            continue
        if name == "image_folder":
            name = Path(chosen["data_root"]).name or "images"
        pairs.append((name, chosen["classes"]))
    return list(dict.fromkeys(pairs))


def data_label(node: xr.Dataset) -> str:
    """The label of a network's data, such as ``CIFAR-10`` or ``Tiny ImageNet (100 classes)``; the
    folder's name for images of your own."""
    return ", ".join(dict.fromkeys(_label(*pair) for pair in _data_and_classes(node)))


def _label(name: str, classes: int | None) -> str:
    known = name.removesuffix(JPEG)
    if known not in data_sets.names():
        return name
    notes = ["JPEG"] if name.endswith(JPEG) else []
    if classes not in (None, data_sets.classes(known)):
        notes.append(f"{classes} classes")
    label = data_sets.data_set(known).label
    return f"{label} ({', '.join(notes)})" if notes else label


def full_data_sets(node: xr.Dataset) -> set[str]:
    """The data sets that a network's runs learned with all classes, without the suffix
    :data:`JPEG`."""
    pairs = ((name.removesuffix(JPEG), classes) for name, classes in _data_and_classes(node))
    return {name for name, classes in pairs if classes in (None, data_sets.classes(name))}


def learned_from_jpeg(node: xr.Dataset) -> bool:
    """Whether any run learned a data set's images re-encoded as JPEG rather than its original
    pixels."""
    return any(name.endswith(JPEG) for name, _ in _data_and_classes(node))
