"""One run: its settings, validated, and what follows from them alone. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from .. import methods
from ..data_sets import data_set
from ..errors import WtkitError
from ..methods import Method
from ..methods.base import NORMALISATIONS
from ..validation import frozen, known, shown
from .choices import (
    LATER_SETTINGS,
    MLP,
    NORM_ORDERS,
    OLD_MLP_OPTIONS,
    OLD_SETTINGS,
    OWN_ORDER,
    RESNETS,
    SEED,
    STEMS,
    Positive,
    check_network,
    network_name,
    other_than_own,
    renamed,
)

NUMERICS = 1
"""Raised whenever a change to wtkit changes the results of a run, so that the pipeline trains
again."""
Fraction = Annotated[float, Field(ge=0, lt=1)]


@frozen
class RunConfig:
    """One training run: everything that its numbers depend on.

    Attributes:
        method: one of the methods in :mod:`wtkit.methods`, for instance ``weight_mirror``.
        options: the method's own hyper-parameters.
        variant: a word that tells two sets of options of one method apart; empty for the main one.
        network: a classifier of torchvision's by its name there (:data:`RESNETS`,
            :data:`TORCHVISION`), ``mlp``, ``vit``, or ``package.module:Class``: a class of yours
            that is called with ``num_classes`` and gives logits (N, classes) for images (N, 3, H,
            W). A module in the working folder is found.
        network_options: of :class:`MLP`, :class:`ViT` or :class:`ResNetOptions`; or further keyword
            arguments of torchvision's network or of your class.
        norm_order: of a ResNet, ``relu_bn``, BatchNorm after the ReLU as in the paper, or
            ``bn_relu``. Every other network has its order, if any, of itself: there this is
            ``own``, whatever the default.
        stem: of a ResNet, ``imagenet`` or ``small``. ``resnet20`` and ``resnet56`` have a small
            one, whatever the default.
        keep_on_backprop: modules that stay on backprop, by name; ``*`` matches any text, as in
            :func:`wtkit.convert`. Their layers are measured like the others. Files from before this
            name say ``backprop``.
        normalisation: what δ is multiplied by where it passes the scale γ of a normalisation, as in
            :func:`wtkit.convert`: ``exact`` (γ), ``fixed``, ``learned`` or ``none``.
        data: the data set by its name in :mod:`wtkit.data_sets`, such as ``digits``, or
            ``image_folder`` for a folder of yours.
        data_root: the folder that holds data sets, or, for ``image_folder``, the folder with
            ``train`` and ``val``.
        classes: how many of the data set's classes, spread evenly over them in their sorted order;
            None for all.
        image_size: height and width that images are brought to, in pixels; None for the data set's
            own.
        augment: ``none``, ``crop`` or ``crop_flip``; None for the data set's own. A crop is a
            random shift by up to an eighth of images held in memory, and a random resized crop of
            those that are streamed (``imagenet``, and ``image_folder`` above 64 pixels).
        evaluate_on: ``test``, or ``validation``: a fifth of the training images, held out, for
            choosing settings.
        seed: fixes everything that is drawn.
        epochs: passes through the training images.
        batch_size: images a step. The last, smaller batch of an epoch is left out.
        lr: η_W, the peak learning rate.
        optimizer: ``sgd``, or ``adamw`` with PyTorch's β, 0.9 and 0.999.
        momentum: of SGD; 0 with AdamW.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: λ as PyTorch has it: a step takes lr · weight_decay · W from W, and from a B
            that learns with it, while λ in the paper is absolute, so λ = lr · weight_decay (with
            momentum m, λ/(1−m) in effect; see :func:`decay_exponent`). AdamW's decay does not pass
            its moments, so it has m = 0 here. Biases and BatchNorm do not decay.
        schedule: ``step``, or ``cosine`` to zero over the whole run.
        lr_drops: epochs at whose start a step schedule multiplies the learning rate by
            ``lr_drop_factor``.
        lr_drop_factor: what the learning rate is multiplied by at each of ``lr_drops``.
        warmup_epochs: epochs over which the learning rate rises linearly to ``lr``.
        label_smoothing: of the cross-entropy.
        precision: ``float32``, or ``bf16`` or ``fp16`` by autocast.
        angles_every: epochs between two records of the angles; the first and last epochs are always
            recorded.
        delta_examples: held-out examples for the δ angles.
        compile: whether to run the network through ``torch.compile``.
        workers: processes that decode images, for data that is not held in memory.
    """

    NOUN: ClassVar[str] = "setting"

    method: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    # part of a folder's name
    variant: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,=+-]*$", max_length=120)] = ""
    network: str = "resnet18"
    network_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    norm_order: Literal[*NORM_ORDERS, OWN_ORDER] = "relu_bn"  # type: ignore[valid-type]
    stem: Literal[STEMS] = "imagenet"  # type: ignore[valid-type]
    keep_on_backprop: tuple[str, ...] = ()
    normalisation: Literal[NORMALISATIONS] = "exact"  # type: ignore[valid-type]
    data: str = "digits"
    data_root: str = "data"
    classes: Annotated[int, Field(ge=2)] | None = None
    image_size: Positive | None = None
    augment: Literal["none", "crop", "crop_flip"] | None = None
    evaluate_on: Literal["test", "validation"] = "test"
    seed: Annotated[int, SEED] = 0
    epochs: Positive = 10
    batch_size: Annotated[int, Field(ge=2)] = 64
    lr: Annotated[float, Field(gt=0)] = 0.05
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    schedule: Literal["step", "cosine"] = "step"
    lr_drops: tuple[Annotated[int, Field(ge=0)], ...] = ()
    lr_drop_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    label_smoothing: Fraction = 0.0
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    angles_every: Positive = 1
    delta_examples: Annotated[int, Field(ge=2)] = 64
    compile: bool = False
    workers: Annotated[int, Field(ge=0)] = 4

    def __post_init__(self) -> None:
        if self.network == "mlp":
            current = renamed(self.network_options, OLD_MLP_OPTIONS)
            object.__setattr__(self, "network_options", current)  # frozen
        check_network(self.network, self.network_options)
        others = other_than_own(self.network, self.network_options)
        object.__setattr__(self, "network_options", others)
        self.loaded_method()
        data_set(self.data)
        self._check_choices()
        self._check_optimizer()

    def _check_optimizer(self) -> None:
        if self.optimizer == "adamw":
            if self.momentum not in (type(self).momentum, 0):
                raise WtkitError("setting 'momentum': is of SGD; leave it out with AdamW")
            if self.nesterov:
                raise WtkitError("setting 'nesterov': is of SGD; leave it out with AdamW")
            object.__setattr__(self, "momentum", 0.0)  # frozen
            if self.loaded_method().has_own_gradient:
                raise WtkitError(
                    f"setting 'optimizer': {self.method} needs sgd with these options, since its B "
                    "has a gradient of its own"
                )
        if self.nesterov and self.momentum == 0:
            raise WtkitError("setting 'nesterov': needs a momentum above 0")

    def _check_choices(self) -> None:
        """Norm order and stem are choices of ResNets: for other networks only their defaults are
        accepted."""
        if self.network in RESNETS:
            if self.norm_order == OWN_ORDER:
                raise WtkitError(
                    f"setting 'norm_order': {self.network} needs one of {', '.join(NORM_ORDERS)}"
                )
            if RESNETS[self.network].of_cifar:
                object.__setattr__(self, "stem", "small")  # frozen
            return
        for name, accepted in (("norm_order", ("relu_bn", OWN_ORDER)), ("stem", ("imagenet",))):
            if getattr(self, name) not in accepted:
                raise WtkitError(
                    f"setting {name!r}: only {', '.join(RESNETS)} have a choice, not "
                    f"{self.network_name}; leave it out"
                )
        object.__setattr__(self, "norm_order", OWN_ORDER)  # frozen

    @property
    def name(self) -> str:
        """The run's folder: ``resnet18-relu_bn-weight_mirror-seed0``, the variant behind the
        method."""
        method = f"{self.method}-{self.variant}" if self.variant else self.method
        return f"{self.network_name}-{self.norm_order}-{method}-seed{self.seed}"

    @property
    def network_name(self) -> str:
        """The network with its options, in a word; see :func:`network_name`."""
        return network_name(self.network, self.network_options)

    def loaded_method(self) -> Method:
        """The method with its options, of which ``phi`` is by default that of the network where
        wtkit knows it."""
        options = self.options
        if self.network == "mlp" and hasattr(methods.method_class(self.method), "phi"):
            options = {"phi": MLP(**self.network_options).activation} | options
        return methods.load(self.method, **options)

    @property
    def revision(self) -> str:
        """A text that changes with any setting, options left at their defaults included, and with
        wtkit's numerics."""
        settings = dataclasses.asdict(self) | {
            "numerics": NUMERICS,
            "options": self.loaded_method().recorded,
            "network_options": check_network(self.network, self.network_options),
        }
        # the names that runs recorded
        settings |= {old: settings.pop(new) for old, new in OLD_SETTINGS.items()}
        # these came later: left out where they are as before, so that a run from before them is the
        # run that it was
        for late, earlier in {"network_options": {}, "backprop": (), **LATER_SETTINGS}.items():
            if settings[late] == earlier:
                del settings[late]
        return json.dumps(settings, sort_keys=True)

    def arguments(self) -> list[str]:
        """The command line of ``wtkit train`` that makes this run: the settings that differ from
        their defaults."""
        words = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("options", "network_options"):
                flag = f"--{field.name.removesuffix('s').replace('_', '-')}"
                words += [
                    f"{flag}={key}={json.dumps(option)}" for key, option in sorted(value.items())
                ]
            elif field.default is dataclasses.MISSING or value != field.default:
                words.append(f"--{field.name.replace('_', '-')}={as_argument(value)}")
        return words


def as_argument(value: Any) -> str:
    """A setting as it stands on a command line."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def from_argument(name: str, text: str) -> str | list[str]:
    """The setting ``name`` from a command line, as :func:`run_config` takes it."""
    known(name, RunConfig.__annotations__, "setting")
    is_list = "tuple" in str(RunConfig.__annotations__[name])
    return [item for item in text.split(",") if item] if is_list else text


def run_config(settings: Mapping[str, Any]) -> RunConfig:
    """A validated :class:`RunConfig`.

    Raises:
        WtkitError: naming the first unknown key or refused value, what is accepted, and the nearest
            match.
    """
    if not isinstance(settings, Mapping) or not all(isinstance(key, str) for key in settings):
        raise WtkitError(f"expected a mapping of names to settings, got {shown(settings)}")
    return RunConfig(**renamed(settings, OLD_SETTINGS))
