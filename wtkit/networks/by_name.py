"""Networks by name: ResNets, torchvision's other classifiers, an MLP, and classes of your own."""

from __future__ import annotations

import importlib
import inspect
import itertools
import os
import sys
import textwrap
from collections import OrderedDict
from typing import Any

import torchvision
from torch import nn

from ..errors import WtkitError
from ..experiments import MLP, RESNETS, ResNetOptions, RunConfig
from ..validation import nearest
from .resnet import build_resnet

UNITS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


def build(config: RunConfig, *, num_classes: int, image_size: int) -> nn.Module:
    """The network of a run, newly initialised, from images (N, 3, H, W) to logits (N, num_classes).

    Args:
        image_size: height and width of the images, which an MLP and torchvision's ``vit_*`` are
            made for.

    Raises:
        WtkitError: for options that the network does not take, and a class that is not where
            ``config`` says.
    """
    name, options = config.network, config.network_options
    if name in RESNETS:
        choices = {"norm_order": config.norm_order, "stem": config.stem}
        return build_resnet(
            name, num_classes=num_classes, width=ResNetOptions(**options).width, **choices
        )
    if name == "mlp":
        return mlp(MLP(**options), num_classes=num_classes, image_size=image_size)
    if ":" in name:
        return _own(name, {"num_classes": num_classes} | options)
    known: dict[str, Any] = {"weights": None, "num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):
        # one output, as everything here has it
        known |= {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        known["image_size"] = image_size
    try:
        return torchvision.models.get_model(name, **known | options)
    except (TypeError, ValueError, AssertionError) as error:
        raise _not_made(name, {"image_size": image_size} | options, error) from None


def mlp(options: MLP, *, num_classes: int, image_size: int) -> nn.Sequential:
    """Fully connected layers ``fc1``, ``fc2``, … with units between them, initialised as torch does
    by itself."""
    sizes = [3 * image_size**2, *options.hidden, num_classes]
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (inputs, outputs) in enumerate(itertools.pairwise(sizes), start=1):
        if number > 1:
            layers[f"unit{number - 1}"] = UNITS[options.unit]()
        layers[f"fc{number}"] = nn.Linear(inputs, outputs)
    return nn.Sequential(layers)


def _own(path: str, arguments: dict[str, Any]) -> nn.Module:
    """An object of the class at ``package.module:Class``. What goes wrong inside the class is its
    own error."""
    module_name, _, class_name = path.partition(":")
    if os.getcwd() not in sys.path:  # there already under ``python -m wtkit``
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError, NameError) as error:
        missing = (
            ("; start in the folder that holds it, or install it")
            if isinstance(error, ModuleNotFoundError)
            else ""
        )
        raise WtkitError(
            f"setting 'network': {path!r}: {type(error).__name__}: {error}{missing}"
        ) from None
    if not hasattr(module, class_name):
        near = nearest(class_name, vars(module))
        raise WtkitError(
            f"setting 'network': {path!r}: nothing called {class_name!r} in {module.__name__}{near}"
        )
    made = getattr(module, class_name)
    if not callable(made):
        raise WtkitError(
            f"setting 'network': {path!r}: expected a class, or a function that gives a network"
        )
    try:
        inspect.signature(made).bind(**arguments)
    except TypeError as error:
        raise _not_made(path, arguments, error) from None
    model = made(**arguments)
    if not isinstance(model, nn.Module):
        raise WtkitError(
            f"setting 'network': {path!r}: expected an nn.Module of it, got {type(model).__name__}"
        )
    return model


def _not_made(name: str, arguments: dict[str, Any], error: Exception) -> WtkitError:
    given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return WtkitError(f"network {name!r} cannot be made with {given}: {one_line(error)}")


def one_line(error: Exception) -> str:
    return textwrap.shorten(str(error).strip() or type(error).__name__, 160)
