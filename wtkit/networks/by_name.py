"""Networks by name: ResNets, torchvision's other classifiers, an MLP, a vision transformer, and
classes of your own."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import Any

import torchvision
from torch import nn

from ..experiments import MLP, RESNETS, ResNetOptions, RunConfig, ViT
from ..validation import at_least
from .own import not_made, own_network
from .resnet import build_resnet
from .vit import VisionTransformer

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def build(config: RunConfig, *, num_classes: int, image_size: int) -> nn.Module:
    """The network of a run, newly initialised: images (N, 3, H, W) to logits (N, num_classes).

    Args:
        config: the settings of the run.
        num_classes: the number of logits.
        image_size: height and width of the images, which fix the shape of an MLP, of ``vit`` and of
            torchvision's ``vit_*``.

    Raises:
        WtkitError: for options that the network does not take, for a class that does not exist, and
            for numbers below 1.
    """
    at_least(num_classes, 1, "build: num_classes")
    at_least(image_size, 1, "build: image_size")
    name, options = config.network, config.network_options
    if name in RESNETS:
        choices = {"norm_order": config.norm_order, "stem": config.stem}
        return build_resnet(
            name, num_classes=num_classes, width=ResNetOptions(**options).width, **choices
        )
    if name == "mlp":
        return mlp(MLP(**options), num_classes=num_classes, image_size=image_size)
    if name == "vit":
        return VisionTransformer(ViT(**options), num_classes=num_classes, image_size=image_size)
    if ":" in name:
        return own_network(name, {"num_classes": num_classes} | options)
    known: dict[str, Any] = {"weights": None, "num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):
        # a single output, which wtkit requires
        known |= {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        known["image_size"] = image_size
    try:
        return torchvision.models.get_model(name, **known | options)
    except Exception as error:  # an option of a wrong size or type can raise anything
        raise not_made(name, {"image_size": image_size} | options, error) from None


def mlp(options: MLP, *, num_classes: int, image_size: int) -> nn.Sequential:
    """Fully connected layers ``fc1``, ``fc2``, … with activations between them, in torch's own
    initialisation.

    >>> mlp(MLP(hidden=(5,)), num_classes=2, image_size=2)
    Sequential(
      (flatten): Flatten(start_dim=1, end_dim=-1)
      (fc1): Linear(in_features=12, out_features=5, bias=True)
      (activation1): ReLU()
      (fc2): Linear(in_features=5, out_features=2, bias=True)
    )
    """
    at_least(num_classes, 1, "mlp: num_classes")
    at_least(image_size, 1, "mlp: image_size")
    sizes = [3 * image_size**2, *options.hidden, num_classes]
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (inputs, outputs) in enumerate(itertools.pairwise(sizes), start=1):
        if number > 1:
            layers[f"activation{number - 1}"] = ACTIVATIONS[options.activation]()
        layers[f"fc{number}"] = nn.Linear(inputs, outputs)
    return nn.Sequential(layers)
