"""What a run can choose from: networks, norm orders and stems. Imports no torch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from ..errors import WtkitError
from ..validation import frozen, nearest, shown

NORM_ORDERS = ("relu_bn", "bn_relu")
OWN_ORDER = "own"
STEMS = ("imagenet", "small")
Positive = Annotated[int, Field(gt=0)]
SEED = Field(ge=0, lt=2**63)
LATER_SETTINGS = {"normalisation": "exact", "optimizer": "sgd"}
"""Settings added after release, with the values that reproduce earlier behaviour, at which a run
does not record them."""
OLD_SETTINGS = {"backprop": "keep_on_backprop"}
OLD_MLP_OPTIONS = {"unit": "activation"}
"""Old names of settings and of options of ``mlp``, and their current names. Both can be read.
Records of runs and names of networks still use the old ones, so that finished runs are found."""


def renamed(settings: Mapping[str, Any], old_names: Mapping[str, str]) -> dict[str, Any]:
    """``settings`` with current names in place of old ones."""
    for old, new in old_names.items():
        if old in settings and new in settings:
            raise WtkitError(f"{new!r} is given twice, also by its old name {old!r}; leave one out")
    return {old_names.get(name, name): value for name, value in settings.items()}


class Architecture(NamedTuple):
    """What a ResNet is made of.

    Attributes:
        block: the kind of residual block.
        depths: blocks in each stage, from the input up.
        width: channels of the first stage; every further stage has twice as many as the one before.
        of_cifar: He et al.'s networks for CIFAR: a 3×3 stem, and shortcuts without weights.
    """

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    width: int = 64
    of_cifar: bool = False


RESNETS = {
    "resnet18": Architecture("basic", (2, 2, 2, 2)),
    "resnet34": Architecture("basic", (3, 4, 6, 3)),
    "resnet50": Architecture("bottleneck", (3, 4, 6, 3)),
    "resnet101": Architecture("bottleneck", (3, 4, 23, 3)),
    "resnet152": Architecture("bottleneck", (3, 8, 36, 3)),
    "resnet20": Architecture("basic", (3, 3, 3), width=16, of_cifar=True),
    "resnet56": Architecture("basic", (9, 9, 9), width=16, of_cifar=True),
}
"""The ResNets by name; :func:`wtkit.networks.build_resnet` makes them."""
TORCHVISION = (
    "alexnet", "convnext_base", "convnext_large", "convnext_small", "convnext_tiny", "densenet121",
    "densenet161", "densenet169", "densenet201", "efficientnet_b0", "efficientnet_b1",
    "efficientnet_b2", "efficientnet_b3", "efficientnet_b4", "efficientnet_b5", "efficientnet_b6",
    "efficientnet_b7", "efficientnet_v2_l", "efficientnet_v2_m", "efficientnet_v2_s", "googlenet",
    "inception_v3", "maxvit_t", "mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3",
    "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_x_16gf", "regnet_x_1_6gf",
    "regnet_x_32gf", "regnet_x_3_2gf", "regnet_x_400mf", "regnet_x_800mf", "regnet_x_8gf",
    "regnet_y_128gf", "regnet_y_16gf", "regnet_y_1_6gf", "regnet_y_32gf", "regnet_y_3_2gf",
    "regnet_y_400mf", "regnet_y_800mf", "regnet_y_8gf", "resnext101_32x8d", "resnext101_64x4d",
    "resnext50_32x4d", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0", "squeezenet1_0", "squeezenet1_1", "swin_b", "swin_s", "swin_t",
    "swin_v2_b", "swin_v2_s", "swin_v2_t", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16",
    "vgg16_bn", "vgg19", "vgg19_bn", "vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32",
    "wide_resnet101_2", "wide_resnet50_2",
)  # fmt: skip
"""Torchvision's other classifiers, which are built as they are."""


@frozen
class MLP:
    """The options of the network ``mlp``: fully connected layers on all pixels of an image.

    Attributes:
        hidden: neurons in each hidden layer, from the input up.
        activation: φ of the hidden layers: ``relu``, ``tanh`` or ``sigmoid``. A weight mirror's
            ``phi`` follows it. Files from before this name say ``unit``.
    """

    NOUN: ClassVar[str] = "option of mlp"

    hidden: tuple[Positive, ...] = (500,)
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"


@frozen
class ResNetOptions:
    """The options of the ResNets.

    Attributes:
        width: channels of the first stage, as in "ResNet-18 of width 16"; every further stage has
            twice as many as the one before. None for the network's own: 64, as in torchvision, and
            16 for ``resnet20`` and ``resnet56``.
    """

    NOUN: ClassVar[str] = "option of a ResNet"

    width: Positive | None = None


@frozen
class ViT:
    """The options of the network ``vit``: a vision transformer without a class token.

    Attributes:
        patch: height and width of a patch, in pixels; it divides those of the images.
        depth: encoder layers.
        width: features of a token, a multiple of ``heads``.
        heads: of the attention.
        mlp_ratio: neurons in the hidden layer of an encoder layer, over ``width``.
        dropout: of the attention and of both parts of an encoder layer.
    """

    NOUN: ClassVar[str] = "option of vit"

    patch: Positive = 4
    depth: Positive = 6
    width: Positive = 128
    heads: Positive = 4
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise WtkitError(
                f"option of vit 'width': expected a multiple of the {self.heads} 'heads', got "
                f"{self.width}"
            )
        if round(self.mlp_ratio * self.width) < 1:
            raise WtkitError(
                f"option of vit 'mlp_ratio': {self.mlp_ratio:g} of the width {self.width} is no "
                "neuron; raise it"
            )


OPTIONS: dict[str, type] = dict.fromkeys(RESNETS, ResNetOptions) | {"mlp": MLP, "vit": ViT}
"""The options of the networks that wtkit makes itself."""
BY_NAME = (*RESNETS, *TORCHVISION, "mlp", "vit")
"""All networks by name."""


def options_class(network: str) -> type | None:
    """The options of a network, where wtkit knows them."""
    return OPTIONS.get(network)


def network_name(network: str, options: Mapping[str, Any]) -> str:
    """What runs, files and data call a network: ``vgg11``, ``mlp-hidden=500+300,unit=tanh``,
    ``mypackage.nets.Mine``.

    In letters that a file's name may have. Options that are the network's own anyway are left out:
    ``resnet18`` with ``width=64`` is ``resnet18``.
    """
    options = other_than_own(network, options)
    if network == "mlp":
        options = _recorded_mlp(options)
    words = ",".join(f"{key}={as_word(options[key])}" for key in sorted(options))
    return "-".join(filter(None, [network.replace(":", "."), words]))


def own_options(network: str) -> dict[str, Any]:
    """What a network's options are if none are given, where wtkit knows it."""
    if network in RESNETS:
        return {"width": RESNETS[network].width}
    return dataclasses.asdict(MLP()) if network == "mlp" else {}


def other_than_own(network: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that make another network than it is without them."""
    own = {key: as_word(value) for key, value in own_options(network).items()}
    unset = [None] if network in RESNETS else []
    return {
        key: value
        for key, value in options.items()
        if key not in own or (value not in unset and as_word(value) != own[key])
    }


def _recorded_mlp(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of ``mlp`` by the names that runs record."""
    return renamed(options, {new: old for old, new in OLD_MLP_OPTIONS.items()})


def as_word(value: Any) -> str:
    if isinstance(value, Mapping):
        value = [f"{key}_{as_word(option)}" for key, option in value.items()]
    text = "+".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", text)


def check_network(network: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a network, those left at their defaults included where wtkit knows them;
    raises WtkitError."""
    _check_option_names(options)
    known_options = options_class(network)
    if known_options is None:
        _check_source(network, options)
        return dict(options)
    if network == "mlp":
        options = renamed(options, OLD_MLP_OPTIONS)
    chosen = dataclasses.asdict(known_options(**options))
    if network == "mlp":
        chosen = _recorded_mlp(chosen)
    return {name: value for name, value in chosen.items() if value is not None}


def _check_option_names(options: Mapping[str, Any]) -> None:
    if "num_classes" in options:
        raise WtkitError(
            "setting 'network_options': 'num_classes' is the data set's to say; leave it out"
        )
    for key in options:
        if not str(key).isidentifier():  # it is a part of file names, too
            raise WtkitError(
                f"setting 'network_options': expected names of arguments, got {shown(str(key))}"
            )


def _check_source(network: str, options: Mapping[str, Any]) -> None:
    """Refuse a name that is neither torchvision's nor a class's, and what the net would supply."""
    if network in TORCHVISION or network.startswith(("torchvision.", "timm:", "timm.")):
        for name in ("weights", "pretrained"):
            if options.get(name):
                raise WtkitError(
                    f"setting 'network_options': {name!r} of {network} would come from the net; "
                    "leave it out, or load a file of weights in a class of your own"
                )
    if network in TORCHVISION:
        return
    if network.startswith(("torch.", "torch:")):
        raise WtkitError(
            f"setting 'network': {network!r}: torch's own functions are not accepted, and nothing "
            "is loaded from its hub; write a class of your own that makes the network"
        )
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", network):
        near = nearest(network, BY_NAME)
        raise WtkitError(
            f"setting 'network': unknown network {shown(network)}{near}; expected a classifier of "
            "torchvision's by name, 'mlp', 'vit', or a class of your own as 'package.module:Class'"
        )
