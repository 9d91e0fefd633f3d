"""What a run is, and how an experiment file becomes runs. Imports no torch."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import yaml
from pydantic import Field

from . import methods
from .errors import WtkitError
from .methods import Method
from .settings import frozen, known, nearest

NUMERICS = 1
"""Raised whenever a change to wtkit changes the results of a run, so that the pipeline trains anew."""

NORM_ORDERS = ("relu_bn", "bn_relu")
OWN_ORDER = "own"
STEMS = ("imagenet", "small")
DATA_SETS = ("digits", "cifar10", "cifar100", "tiny_imagenet", "imagenet", "image_folder")
CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100, "tiny_imagenet": 200, "imagenet": 1000}
"""How many classes a data set has as it is published; a folder of images, as many as there are folders in it."""

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]

# ------------------------------------------------------------------------------------------------------ networks


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
"""The ResNets by name; :func:`wtkit.resnet.build` makes them."""

TORCHVISION = (
    "alexnet", "convnext_base", "convnext_large", "convnext_small", "convnext_tiny", "densenet121", "densenet161",
    "densenet169", "densenet201", "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3",
    "efficientnet_b4", "efficientnet_b5", "efficientnet_b6", "efficientnet_b7", "efficientnet_v2_l",
    "efficientnet_v2_m", "efficientnet_v2_s", "googlenet", "inception_v3", "maxvit_t", "mnasnet0_5", "mnasnet0_75",
    "mnasnet1_0", "mnasnet1_3", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_x_16gf",
    "regnet_x_1_6gf", "regnet_x_32gf", "regnet_x_3_2gf", "regnet_x_400mf", "regnet_x_800mf", "regnet_x_8gf",
    "regnet_y_128gf", "regnet_y_16gf", "regnet_y_1_6gf", "regnet_y_32gf", "regnet_y_3_2gf", "regnet_y_400mf",
    "regnet_y_800mf", "regnet_y_8gf", "resnext101_32x8d", "resnext101_64x4d", "resnext50_32x4d",
    "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0", "squeezenet1_0",
    "squeezenet1_1", "swin_b", "swin_s", "swin_t", "swin_v2_b", "swin_v2_s", "swin_v2_t", "vgg11", "vgg11_bn",
    "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16",
    "vit_l_32", "wide_resnet101_2", "wide_resnet50_2",
)  # fmt: skip
"""Torchvision's other classifiers, which are built as they are."""


@frozen
class MLP:
    """The options of the network ``mlp``: fully connected layers on all pixels of an image.

    Attributes:
        hidden: units in each hidden layer, from the input up.
        unit: φ of the hidden layers: ``relu``, ``tanh`` or ``sigmoid``. A weight mirror's ``phi`` follows it.
    """

    NOUN: ClassVar[str] = "option of mlp"

    hidden: tuple[Positive, ...] = (500,)
    unit: Literal["relu", "tanh", "sigmoid"] = "relu"


@frozen
class ResNetOptions:
    """The options of the ResNets.

    Attributes:
        width: channels of the first stage, as in "ResNet-18 of width 16"; every further stage has twice as many as the
            one before. None for the network's own: 64, as in torchvision, and 16 for ``resnet20`` and ``resnet56``.
    """

    NOUN: ClassVar[str] = "option of a ResNet"

    width: Positive | None = None


def options_class(network: str) -> type[MLP] | type[ResNetOptions] | None:
    """The options of a network, where wtkit knows them."""
    if network == "mlp":
        return MLP
    return ResNetOptions if network in RESNETS else None


def network_name(network: str, options: Mapping[str, Any]) -> str:
    """What runs, files and data call a network: ``vgg11``, ``mlp-hidden=500+300,unit=tanh``, ``mypackage.nets.Mine``.

    In letters that a file's name may have.
    """
    words = ",".join(f"{key}={_word(options[key])}" for key in sorted(options))
    return "-".join(filter(None, [network.replace(":", "."), words]))


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        value = [f"{key}_{_word(option)}" for key, option in value.items()]
    text = "+".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", text)


def _check_network(network: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a network, those left at their defaults included where wtkit knows them; raises WtkitError."""
    if "num_classes" in options:
        raise WtkitError("setting 'network_options': 'num_classes' is the data set's to say; leave it out")
    known_options = options_class(network)
    if known_options is not None:
        chosen = dataclasses.asdict(known_options(**options))  # type: ignore[call-overload]
        return {name: value for name, value in chosen.items() if value is not None}
    if network not in TORCHVISION and not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", network):
        near = nearest(network, [*RESNETS, *TORCHVISION, "mlp"])
        raise WtkitError(
            f"setting 'network': unknown network {network!r}{near}; expected a classifier of torchvision's by name, "
            f"'mlp', or a class of your own as 'package.module:Class'"
        )
    return dict(options)


# --------------------------------------------------------------------------------------------------------- a run


@frozen
class RunConfig:
    """One training run: everything that its numbers depend on.

    Attributes:
        method: one of the methods in :mod:`wtkit.methods`, for instance ``weight_mirror``.
        options: the method's own hyper-parameters.
        variant: a word that tells two sets of options of one method apart; empty for the main one.
        network: a classifier of torchvision's by its name there (:data:`RESNETS`, :data:`TORCHVISION`), ``mlp``, or
            ``package.module:Class``: a class of yours that is called with ``num_classes`` and gives logits (N, classes)
            for images (N, 3, H, W). A module in the working folder is found.
        network_options: of :class:`MLP` or :class:`ResNetOptions`; or further keyword arguments of torchvision's
            network or of your class.
        norm_order: of a ResNet, ``relu_bn``, BatchNorm after the ReLU as in the paper, or ``bn_relu``. Every other
            network has its order, if any, of itself: there this is ``own``, whatever the default.
        stem: of a ResNet, ``imagenet`` or ``small``. ``resnet20`` and ``resnet56`` have a small one, whatever the
            default.
        backprop: modules that stay on backprop, by name; ``*`` matches any text, as in :func:`wtkit.convert`. Their
            layers are measured like the others.
        data: the data set: ``digits``, ``cifar10``, ``cifar100``, ``tiny_imagenet``, ``imagenet``, or ``image_folder``
            for a folder of yours.
        data_root: the folder that holds data sets, or, for ``image_folder``, the folder with ``train`` and ``val``.
        classes: how many of the data set's classes, spread evenly over them in their sorted order; None for all.
        image_size: height and width that images are brought to, in pixels; None for the data set's own.
        augment: ``none``, ``crop`` or ``crop_flip``; None for the data set's own. A crop is a random shift by up to an
            eighth of images held in memory, and a random resized crop of those that are streamed (``imagenet``, and
            ``image_folder`` above 64 pixels).
        evaluate_on: ``test``, or ``validation``: a fifth of the training images, held out, for choosing settings.
        seed: fixes everything that is drawn.
        epochs: passes through the training images.
        batch_size: images a step. The last, smaller batch of an epoch is left out.
        lr: η_W, the peak learning rate.
        momentum: of SGD.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: λ as PyTorch has it: a step takes lr · weight_decay · W from W, and from a B that learns with
            it, while λ in the paper is absolute, so λ = lr · weight_decay (with momentum m, λ/(1−m) in effect; see
            :func:`decay_exponent`). Biases and BatchNorm do not decay.
        schedule: ``step``, or ``cosine`` to zero over the whole run.
        lr_drops: epochs at whose start a step schedule multiplies the learning rate by ``lr_drop_factor``.
        lr_drop_factor: what the learning rate is multiplied by at each of ``lr_drops``.
        warmup_epochs: epochs over which the learning rate rises linearly to ``lr``.
        label_smoothing: of the cross-entropy.
        precision: ``float32``, or ``bf16`` or ``fp16`` by autocast.
        angles_every: epochs between two records of the angles; the first and last epochs are always recorded.
        delta_examples: held-out examples for the δ angles.
        compile: whether to run the network through ``torch.compile``.
        workers: processes that decode images, for data that is not held in memory.
    """

    NOUN: ClassVar[str] = "setting"

    method: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    variant: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,=+-]*$", max_length=120)] = ""  # part of a folder's name
    network: str = "resnet18"
    network_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    norm_order: Literal[*NORM_ORDERS, OWN_ORDER] = "relu_bn"  # type: ignore[valid-type]
    stem: Literal[STEMS] = "imagenet"  # type: ignore[valid-type]
    backprop: tuple[str, ...] = ()
    data: Literal[DATA_SETS] = "digits"  # type: ignore[valid-type]
    data_root: str = "data"
    classes: Annotated[int, Field(ge=2)] | None = None
    image_size: Positive | None = None
    augment: Literal["none", "crop", "crop_flip"] | None = None
    evaluate_on: Literal["test", "validation"] = "test"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    epochs: Positive = 10
    batch_size: Annotated[int, Field(ge=2)] = 64
    lr: Annotated[float, Field(gt=0)] = 0.05
    momentum: Share = 0.9
    nesterov: bool = False
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    schedule: Literal["step", "cosine"] = "step"
    lr_drops: tuple[Annotated[int, Field(ge=0)], ...] = ()
    lr_drop_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    label_smoothing: Share = 0.0
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    angles_every: Positive = 1
    delta_examples: Annotated[int, Field(ge=2)] = 64
    compile: bool = False
    workers: Annotated[int, Field(ge=0)] = 4

    def __post_init__(self) -> None:
        _check_network(self.network, self.network_options)
        self.loaded_method()
        self._check_choices()
        if self.nesterov and self.momentum == 0:
            raise WtkitError("setting 'nesterov': needs a momentum above 0")

    def _check_choices(self) -> None:
        """Norm order and stem are choices of ResNets: for other networks only their defaults are accepted."""
        if self.network in RESNETS:
            if self.norm_order == OWN_ORDER:
                raise WtkitError(f"setting 'norm_order': {self.network} needs one of {', '.join(NORM_ORDERS)}")
            if RESNETS[self.network].of_cifar:
                object.__setattr__(self, "stem", "small")  # frozen
            return
        for name, accepted in (("norm_order", ("relu_bn", OWN_ORDER)), ("stem", ("imagenet",))):
            if getattr(self, name) not in accepted:
                raise WtkitError(
                    f"setting {name!r}: only {', '.join(RESNETS)} have a choice, not {self.network_name}; leave it out"
                )
        object.__setattr__(self, "norm_order", OWN_ORDER)  # frozen

    @property
    def name(self) -> str:
        """The run's folder: ``resnet18-relu_bn-weight_mirror-seed0``, the variant behind the method."""
        method = f"{self.method}-{self.variant}" if self.variant else self.method
        return f"{self.network_name}-{self.norm_order}-{method}-seed{self.seed}"

    @property
    def network_name(self) -> str:
        """The network with its options, in a word; see :func:`network_name`."""
        return network_name(self.network, self.network_options)

    def loaded_method(self) -> Method:
        """The method with its options, of which ``phi`` is by default that of the network where wtkit knows it."""
        options = self.options
        if self.network == "mlp" and hasattr(methods.method_class(self.method), "phi"):
            options = {"phi": MLP(**self.network_options).unit} | options
        return methods.load(self.method, **options)

    @property
    def revision(self) -> str:
        """A text that changes with any setting, options left at their defaults included, and with wtkit's numerics."""
        settings = dataclasses.asdict(self) | {
            "numerics": NUMERICS,
            "options": self.loaded_method().recorded,
            "network_options": _check_network(self.network, self.network_options),
        }
        # these came later: left out where they are empty, so that a run from before them is the run that it was
        for late in ("network_options", "backprop"):
            if not settings[late]:
                del settings[late]
        return json.dumps(settings, sort_keys=True)

    def arguments(self) -> list[str]:
        """The command line of ``wtkit train`` that makes this run: the settings that differ from their defaults."""
        words = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("options", "network_options"):
                flag = f"--{field.name.removesuffix('s').replace('_', '-')}"
                words += [f"{flag}={key}={json.dumps(option)}" for key, option in sorted(value.items())]
            elif field.default is dataclasses.MISSING or value != field.default:
                words.append(f"--{field.name.replace('_', '-')}={_typed(value)}")
        return words


def _typed(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def run_config(settings: Mapping[str, Any]) -> RunConfig:
    """A validated :class:`RunConfig`.

    Raises:
        WtkitError: naming the first unknown key or refused value, what is accepted, and the nearest match.
    """
    return RunConfig(**settings)


def learning_rate(config: RunConfig, epoch: float) -> float:
    """η_W at a moment of training, counted in epochs from 0 at the start: warm-up, then the schedule."""
    import math

    if epoch < config.warmup_epochs:
        return config.lr * epoch / config.warmup_epochs
    if config.schedule == "cosine":
        done = (epoch - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1e-9)
        return config.lr * (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return config.lr * config.lr_drop_factor ** sum(epoch >= drop for drop in config.lr_drops)


def decay_exponent(config: RunConfig, steps_per_epoch: int) -> float:
    """How many e-foldings Kolen–Pollack's mismatch ‖W − Bᵀ‖ falls by over the run: Σ lr · weight_decay / (1 − m).

    The one place that converts between PyTorch's weight decay and the paper's λ = lr · weight_decay.
    """
    steps = config.epochs * steps_per_epoch
    total = sum(learning_rate(config, step / steps_per_epoch) for step in range(steps))
    return total * config.weight_decay / (1 - config.momentum)


# --------------------------------------------------------------------------------------------------- experiments

_AXES = ("methods", "networks", "norm_orders", "seeds")
_KEYS = (*_AXES, "settings", "overrides", "exclude")
_MATCHES = ("method", "variant", "network", "norm_order")
_OF_AXES = (*_MATCHES, "network_options", "seed")
_SETTINGS = [field.name for field in dataclasses.fields(RunConfig) if field.name not in _OF_AXES]


def expand(path: str | Path) -> list[RunConfig]:
    """The runs of an experiment file, or of an ablation, which is a file with a ``base``.

    **An experiment** is methods × networks × norm orders × seeds, with settings and overrides. The file is YAML with
    the keys ``methods`` (names, or ``name:variant``), ``networks`` (names, or ``name: {option: value}``),
    ``norm_orders``, ``seeds``, ``settings`` for all runs, and ``overrides``: a list of ``{match: …, set: …}``, applied
    in order to the runs that match. A network with options is matched by its :func:`network_name`. Norm orders are
    those of the ResNets; any other network is run once, in its own. An override sets settings, and may give the runs
    that match their own ``seeds``, or, if it does not itself match by norm order, ``norm_orders``. ``exclude`` is a
    list of matches whose runs are left out.

    **An ablation** names an experiment of the same folder, or of the one above, as its ``base``, and may change its
    ``methods``, ``networks``, ``norm_orders`` and ``seeds`` (none of the base's variants is in it unless named) and its
    ``settings``, and add ``overrides``. Each of these runs is made once a point of the ``sweep``: a mapping of settings
    or options, of the method, a ResNet or an ``mlp``, to lists of values, of which all combinations are taken; or once
    for each of the ``variants``: a mapping of names to settings and options. A point that names its ``network`` or
    ``norm_order`` is for that one instead of the ablation's. A run's variant says its point: ``lr=0.1,momentum=0``.

    Raises:
        WtkitError: naming file and key, for anything that is not so; for an override that matches no run, and for two
            runs of one name.
    """
    path = Path(path)
    content = _read(path)
    try:
        return _ablate(content, path) if _has_base(content) else _expand(content)
    except WtkitError as error:
        raise WtkitError(f"{path}: {error}") from None


def is_ablation(path: str | Path) -> bool:
    """Whether the file is an ablation, which names its base. Raises WtkitError for a file that cannot be read."""
    return _has_base(_read(Path(path)))


def _has_base(content: Any) -> bool:
    return isinstance(content, dict) and "base" in content


def _read(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(), _Loader)
    except FileNotFoundError:
        folder = path.parent if any(path.parent.glob("[!.]*.yaml")) else Path("config")
        others = sorted(other.stem for other in folder.glob("[!.]*.yaml"))
        near = f" (did you mean {folder / path.stem}.yaml?)" if path.stem in others else nearest(path.stem, others)
        raise WtkitError(f"no experiment file {path}{near}; in {folder}/: {', '.join(others) or 'none'}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise WtkitError(f"{path}: not a file of text that can be read ({error})") from None
    except yaml.YAMLError as error:
        raise WtkitError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which lets the last of two equal keys win; this one refuses them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key) for key in names]
        for key, name in zip(names, keys, strict=True):
            if keys.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"two keys are called {name!r}", key.start_mark)
        return super().construct_mapping(node, deep)


def _axes(content: Any) -> dict[str, Any]:
    """What an experiment is the product of."""
    if not isinstance(content, dict):
        raise WtkitError(f"expected a mapping with the keys {', '.join(_KEYS)}")
    for key in content:
        if key in ("sweep", "variants"):
            raise WtkitError(
                f"{key!r} is a key of ablations, which name the experiment that they start from: base: digits"
            )
        known(str(key), _KEYS, "key")
    axes: dict[str, Any] = {"norm_orders": ["relu_bn"], "seeds": [0]} | content
    for axis in _AXES:
        _check_axis(axis, axes.get(axis))
    return axes


def _expand(content: Any, unchecked: int = 0) -> list[RunConfig]:
    """The runs of an experiment; its first ``unchecked`` overrides and all that it excludes may match none."""
    base = _axes(content)
    settings = _mapping("settings", content.get("settings") or {})
    for key in settings:
        fix = f"; write it in overrides: match: {{method: …}}, set: {{options: {{{key}: …}}}}"
        _check_setting(str(key), _SETTINGS, "setting", fix)
    overrides = [
        _override(f"overrides[{number - unchecked if number >= unchecked else number}]", entry)
        for number, entry in enumerate(_list("overrides", content.get("overrides") or []))
    ]
    excluded = [_match("exclude", entry) for entry in _list("exclude", content.get("exclude") or [])]

    whos: list[dict[str, str]] = []
    used: set[int] = set()
    left_out: set[int] = set()
    runs: dict[str, RunConfig] = {}
    for choice, (network, network_options) in itertools.product(base["methods"], map(_network, base["networks"])):
        method, _, variant = str(choice).partition(":")
        who = {"method": method, "variant": variant, "network": network_name(network, network_options)}
        norm_orders = base["norm_orders"]
        for _, change in _matching(overrides, who):
            norm_orders = change.get("norm_orders", norm_orders)
        for norm_order in norm_orders if network in RESNETS else [OWN_ORDER]:
            found = {n for n, match in enumerate(excluded) if _matches(match, who | {"norm_order": norm_order})}
            left_out |= found
            if found:
                continue
            values = settings | who | {"norm_order": norm_order, "network": network, "network_options": network_options}
            whos.append(who | {"norm_order": norm_order})
            seeds, options = base["seeds"], dict(_mapping("options", settings.get("options") or {}))
            for number, change in _matching(overrides, who | {"norm_order": norm_order}):
                used.add(number)
                seeds = change.get("seeds", seeds)
                options |= _mapping("options", change.get("options") or {})
                values |= {key: value for key, value in change.items() if key not in ("norm_orders", "seeds")}
            for key in options:
                fix = f", not of {method}; say whose it is, in overrides: match: {{method: …}}, set: {{options: …}}"
                _check_setting(str(key), _options(method), f"option of {method}", fix)
            for seed in seeds:
                run = run_config(values | {"seed": seed, "options": options})
                if run.name in runs:
                    raise WtkitError(
                        f"two runs are called {run.name}; leave one out, or give it a variant, 'method:variant'"
                    )
                runs[run.name] = run
    own = [match for match, _ in overrides[unchecked:]]
    _check_all_used("override", own, {number - unchecked for number in used}, whos)
    if not unchecked:
        _check_all_used("exclude", excluded, left_out, whos)
    if not runs:
        raise WtkitError("'exclude' leaves no run of this experiment")
    return list(runs.values())


def _check_all_used(what: str, matches: list[dict[str, str]], used: set[int], runs: list[dict[str, str]]) -> None:
    for number, match in enumerate(matches):
        if number not in used:
            there = {key: sorted({run[key] for run in runs}) for key in match}
            wrong = {key: value for key, value in match.items() if value not in there[key]}
            near = "".join(nearest(value, there[key]) for key, value in wrong.items())
            listed = "".join(f"; {key}s: {', '.join(filter(None, there[key])) or 'none'}" for key in wrong)
            raise WtkitError(f"{what} {number + 1} matches no run: {match}{near}{listed}")


def _matching(overrides: list[tuple[dict, dict]], who: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, (match, change) in enumerate(overrides):
        if _matches(match, who):
            yield number, change


def _matches(match: Mapping[str, str], who: Mapping[str, str]) -> bool:
    return all(who.get(key) == value for key, value in match.items())


def _match(name: str, value: Any) -> dict[str, str]:
    for key in _mapping(name, value):
        known(str(key), _MATCHES, f"key of '{name}'")
    return value


def _override(which: str, entry: Any) -> tuple[dict[str, str], dict[str, Any]]:
    entry = _mapping(which, entry)
    for key in entry:
        known(str(key), ("match", "set"), "key of an override")
    match, change = _match("match", entry.get("match")), _mapping("set", entry.get("set"))
    for key in change:
        _check_setting(str(key), [*_SETTINGS, "norm_orders", "seeds"], "key of 'set'")
    for axis in ("norm_orders", "seeds"):
        if axis in change:
            _check_axis(axis, change[axis])
    if "norm_order" in match and "norm_orders" in change:
        raise WtkitError("an override that matches by 'norm_order' cannot set 'norm_orders'")
    return match, change


def _check_setting(key: str, accepted: Sequence[str], what: str, fix: str = "") -> None:
    """Of an option of some method that does not belong here, say whose it is, and the fix."""
    owners = [] if key in accepted else [name for name in methods.names() if key in _options(name)]
    if owners:
        fix = fix or f"; write it as options: {{{key}: …}}"
        raise WtkitError(f"{key!r} is an option of {' and '.join(owners)}{fix}")
    known(key, accepted, what)


def _options(method: str) -> list[str]:
    return [field.name for field in dataclasses.fields(methods.method_class(method))]  # type: ignore[arg-type]


def _check_axis(axis: str, values: Any) -> None:
    kind, word = (int, "whole numbers") if axis == "seeds" else (str, "names")
    if not isinstance(values, list) or not values:
        raise WtkitError(f"{axis!r}: expected a list of {word} that is not empty, got {values!r}")
    for value in values:
        if axis == "networks" and isinstance(value, dict):
            _network(value)
        elif not isinstance(value, kind) or isinstance(value, bool):
            quotes = "; YAML reads yes, no, on and off so: put names in quotes" * isinstance(value, bool)
            raise WtkitError(f"{axis!r}: expected a list of {word}, got {value!r} in it{quotes}")
        elif axis == "norm_orders":  # here, for a network without the choice would not look at it
            known(str(value), (*NORM_ORDERS, OWN_ORDER), "norm order")


def _network(entry: Any) -> tuple[str, dict[str, Any]]:
    """Name and options of an entry of ``networks``."""
    if isinstance(entry, str):
        return entry, {}
    named = [(name, options) for name, options in entry.items() if isinstance(name, str) and isinstance(options, dict)]
    if len(entry) != 1 or not named or not all(isinstance(key, str) for key in named[0][1]):
        raise WtkitError(f"'networks': expected a name, or one name with a mapping of options, got {entry!r}")
    return named[0]


def _mapping(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WtkitError(f"{key!r}: expected a mapping, got {value!r}")
    return value


def _list(key: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise WtkitError(f"{key!r}: expected a list, got {value!r}")
    return value


# ----------------------------------------------------------------------------------------------------- ablations

_ABLATION_KEYS = ("base", *_AXES, "settings", "overrides", "sweep", "variants")
_AXIS_OF_POINTS = {"networks": "network", "norm_orders": "norm_order"}
_OF_POINTS = [*_SETTINGS, *_AXIS_OF_POINTS.values(), "network_options"]


def _ablate(content: dict[str, Any], path: Path) -> list[RunConfig]:
    for key in content:
        known(str(key), _ABLATION_KEYS, "key of an ablation")
    base = _base(content["base"], path)
    changed = {key: content[key] for key in _AXES if key in content}
    for axis, values in changed.items():
        _check_axis(axis, values)
    points = _points(content)
    named = [axis for axis, name in _AXIS_OF_POINTS.items() if any(name in change for change in points.values())]
    axes_at = {p: {a: _axis_at(a, change, (base | changed)[a]) for a in named} for p, change in points.items()}
    for axis in named:
        every = [value for axes in axes_at.values() for value in axes[axis]]
        changed[axis] = [value for n, value in enumerate(every) if value not in every[:n]]
    main = {"methods": [method for method in base["methods"] if ":" not in str(method)]}
    before = _list("overrides", base.get("overrides") or [])
    # an override that all runs match, so that a change made here outdoes the base's own overrides
    change = _mapping("settings", content.get("settings") or {}) | {
        key: changed[key] for key in ("norm_orders", "seeds") if key in changed
    }
    after = [{"match": {}, "set": change}, *_list("overrides", content.get("overrides") or [])]
    runs = _expand(base | main | changed | {"overrides": before + after}, unchecked=len(before) + 1)
    found: dict[str, RunConfig] = {}
    for run, (point, change) in itertools.product(runs, points.items()):
        if _is_for(run, axes_at[point]):
            made = _at(run, point, change)
            if made.name in found:
                raise WtkitError(f"two runs are called {made.name}; give one of the points another name")
            found[made.name] = made
    return list(found.values())


def _base(name: Any, path: Path) -> dict[str, Any]:
    """The experiment that the ablation at ``path`` names as its base."""
    path = path.resolve()  # a file named from within its folder has no parents else
    files = {file.stem: file for folder in (path.parent.parent, path.parent) for file in folder.glob("*.yaml")}
    content = _read(files[str(name)]) if str(name) in files else None
    if content is None or _has_base(content):  # only then: to tell experiments from ablations, all are read
        experiments = sorted(stem for stem, file in files.items() if _is_experiment(file))
        if Path(str(name)).stem in experiments:
            raise WtkitError(f"'base': expected an experiment's name, not its file; write base: {Path(name).stem}")
        known(name, experiments, "base")
    return _axes(content)


def _is_experiment(path: Path) -> bool:
    """Whether the file can be a base; one that cannot be read is no matter of whoever names another."""
    try:
        return not is_ablation(path)
    except WtkitError:
        return False


def _axis_at(axis: str, change: Mapping[str, Any], others: list) -> list:
    """The networks or norm orders that a point is for: the one that it names, or those of the ablation."""
    name = _AXIS_OF_POINTS[axis]
    if name not in change:
        return others
    if not isinstance(change[name], str):
        raise WtkitError(f"{name!r}: expected a name, got {change[name]!r}")
    options = change.get("network_options") if axis == "networks" else None
    return [{change[name]: options} if options else change[name]]


def _is_for(run: RunConfig, axes: Mapping[str, list]) -> bool:
    """Whether ``run`` is of these axes; those that no point names are not among them."""
    networks = [network_name(*_network(entry)) for entry in axes.get("networks", [])]
    orders = (OWN_ORDER, *axes.get("norm_orders", []))
    return ("networks" not in axes or run.network_name in networks) and (
        "norm_orders" not in axes or run.norm_order in orders
    )


def _points(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is changed at each point of an ablation, by the word for it."""
    if ("sweep" in content) == ("variants" in content):
        raise WtkitError("an ablation needs either a 'sweep' or 'variants'")
    if "variants" in content:
        variants = _mapping("variants", content["variants"])
        if not variants:
            raise WtkitError("'variants': expected at least one")
        for name in variants:
            if name is None or isinstance(name, bool):  # YAML's yes, no, on, off, null, ~
                raise WtkitError(f"'variants': a name was read as {name}, which YAML means by it; put it in quotes")
            if list(map(str, variants)).count(str(name)) > 1:  # 1 and '1'
                raise WtkitError(f"'variants': two are called {name}; give one of them another name")
        return {str(name): _mapping(str(name), change) for name, change in variants.items()}
    sweep = _mapping("sweep", content["sweep"])
    for key, values in sweep.items():
        if not isinstance(values, list) or not values:
            raise WtkitError(f"'sweep': expected a list of values for {key!r} that is not empty, got {values!r}")
    if not sweep:
        raise WtkitError("'sweep': expected at least one setting or option with a list of values")
    points: dict[str, dict[str, Any]] = {}
    for values in itertools.product(*sweep.values()):
        change = dict(zip(sweep, values, strict=True))
        word = ",".join(f"{key}={_word(value)}" for key, value in change.items())
        if word in points:
            raise WtkitError(f"'sweep': two points are called {word}; leave one out, or name them by 'variants'")
        if change in points.values():  # 1 and 1.0
            raise WtkitError(f"'sweep': {word} is a point twice; leave one out")
        points[word] = change
    return points


def _at(run: RunConfig, point: str, change: dict[str, Any]) -> RunConfig:
    """``run`` with the settings, and options of its method or network, that ``change`` names."""
    values = dataclasses.asdict(run)
    options = dict.fromkeys(_options(run.method), "options")
    known_options = options_class(run.network)
    if known_options is not None:
        options |= {field.name: "network_options" for field in dataclasses.fields(known_options)}
    for key, value in change.items():
        if key in ("method", "seed"):
            raise WtkitError(f"{key!r} cannot differ by point: each is made with all of '{key}s', a key of its own")
        fix = f", not of {run.method}; leave {run.method} out of 'methods'"
        _check_setting(str(key), [*_OF_POINTS, *options], f"setting or option of {run.method}", fix)
        if key in ("options", "network_options"):
            for name in _mapping(key, value).keys() & change.keys():
                raise WtkitError(f"{name!r} is given twice, by itself and in {key!r}; leave one out")
            values[key] |= value
        elif key in options:
            values[options[key]][key] = value
        else:
            values[key] = value
    values["variant"] = "_".join(filter(None, [run.variant, point]))
    return run_config(values)
