"""What a user tells :class:`~wtkit.training.recorder.Recorder` about a run and its epochs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from .. import methods
from ..errors import WtkitError
from ..experiments import OWN_ORDER, Positive
from ..feedback import feedback_layers, unwrap
from ..methods import Method
from ..results import GRAPH_COORDS, LAYER_COORDS, OWN_LOOP, RANGES, RUN_COORDS, VARIABLES
from ..validation import frozen, known, shown

GIVEN = ("test_error", "test_error_top5", "train_loss", "learning_rate")
"""What a training loop measures itself, in the schema's names."""
RESERVED = {
    *VARIABLES, *RUN_COORDS, *LAYER_COORDS, *GRAPH_COORDS, *OWN_LOOP,
    *("epoch", "layer", "run", "experiment", "network", "data", "label", "options"),
}  # fmt: skip
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_,=+-][A-Za-z0-9_.,=+-]*$", max_length=120)]
"""A part of the name of a folder and of a group in a file, where . and .. mean something else."""


@frozen
class Labels:
    """The labels of a recorded run; :class:`~wtkit.training.recorder.Recorder` explains them."""

    NOUN: ClassVar[str] = "argument of Recorder"

    seed: Annotated[int, Field(ge=0, lt=2**63)]
    network: Name
    method: Name
    variant: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,=+-]*$", max_length=120)] = ""
    data: Name = "own"
    metrics: dict[str, str] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    epochs: Positive | None = None
    angles_every: Positive = 1
    evaluated_on: Literal["test", "validation"] = "test"
    held_out: Positive | None = None

    def __post_init__(self) -> None:
        for name in self.metrics:
            if not name.isidentifier() or name in RESERVED:
                raise WtkitError(
                    f"argument of Recorder 'metrics': expected names of your own, as of arguments "
                    f"in Python, got {shown(name)}; take another name"
                )
        for name, unit in self.metrics.items():
            if not unit.isprintable():  # no file could hold all of these
                raise WtkitError(
                    f"argument of Recorder 'metrics': expected the unit of {name!r} in letters and "
                    f"signs that can be printed, such as 'bit' or '1', got {shown(unit)}"
                )
        for name, value in self.settings.items():
            if name in RESERVED:
                raise WtkitError(
                    f"argument of Recorder 'settings': {name!r} is recorded anyway; leave it out"
                )
            try:
                _as_json(value)
            except (TypeError, ValueError, RecursionError):
                raise WtkitError(
                    f"argument of Recorder 'settings': {name!r}: expected numbers, texts, lists "
                    f"and mappings, as JSON has them, got {shown(value)}"
                ) from None

    @property
    def name(self) -> str:
        """The run's folder."""
        method = f"{self.method}-{self.variant}" if self.variant else self.method
        return f"{self.network}-{OWN_ORDER}-{method}-seed{self.seed}"

    def revision(self, options: Mapping[str, Any]) -> str:
        """All settings of the run as JSON, with the method's ``options``."""
        labels = {name: getattr(self, name) for name in ("method", "variant", "network", "data")}
        recorded = {"seed": self.seed, "options": options, "norm_order": OWN_ORDER}
        return _as_json(self.settings | labels | recorded | OWN_LOOP)


def _as_json(value: Any) -> str:
    """``value`` as JSON, with NumPy's numbers as Python's."""

    def plain(other: Any) -> Any:
        if isinstance(other, np.generic):
            return other.item()
        raise TypeError

    return json.dumps(value, sort_keys=True, allow_nan=False, default=plain)


def check_arguments(model: Any, batch: Any, checkpoint: Any) -> None:
    """Check the arguments of a recorder that are no labels."""
    if not isinstance(model, nn.Module):
        raise WtkitError(
            f"Recorder: expected a folder, then a converted model, got {type(model).__name__}"
        )
    if batch is not None and (not isinstance(batch, (tuple, list)) or len(batch) != 2):
        raise WtkitError("Recorder: expected batch to be inputs and targets, as in batch=(x, y)")
    if checkpoint is None:
        return
    if not isinstance(checkpoint, (tuple, list)) or not all(
        callable(getattr(part, name, None))
        for part in checkpoint
        for name in ("state_dict", "load_state_dict")
    ):
        raise WtkitError(
            "Recorder: expected checkpoint to be a list of objects with a state_dict, as in "
            f"checkpoint=[optimizer], got {shown(checkpoint)}"
        )


def checked_labels(model: nn.Module, given: Mapping[str, Any]) -> tuple[Labels, dict[str, Any]]:
    """Labels with the method and the network's name of ``model`` where none are given, and the
    method's options."""
    values = {name: value for name, value in given.items() if value is not None}
    if isinstance(values.get("seed"), Integral) and not isinstance(values["seed"], bool):
        values["seed"] = int(values["seed"])  # also NumPy's
    if isinstance(values.get("metrics"), (list, tuple, str)):
        raise WtkitError(
            "argument of Recorder 'metrics': expected units by name, such as "
            f"{{'perplexity': '1'}}, got {shown(values['metrics'])}"
        )
    found = _methods(model)
    if "method" not in values:
        if len(found) > 1:
            names = ", ".join(dict.fromkeys(method.name for method in found))
            raise WtkitError(
                f"Recorder: the layers have several methods, or one with several options ({names});"
                " say what to call them together: method='…'"
            )
        values["method"] = found[0].name
    name = type(unwrap(model)).__name__.removeprefix("Feedback")
    labels = Labels(**{"network": name} | values)
    if labels.method in methods.names() and {labels.method} != {method.name for method in found}:
        raise WtkitError(
            f"argument of Recorder 'method': the layers have {found[0].name!r}, not "
            f"{labels.method!r}; leave it out, or take a name of your own"
        )
    labelled = methods.names_by_label()
    if labels.method in labelled:
        raise WtkitError(
            f"argument of Recorder 'method': {labels.method!r} is the label of "
            f"{labelled[labels.method]} in figures and tables; take another name"
        )
    options = found[0].recorded if len(found) == 1 else {}
    return labels, json.loads(json.dumps(options))


def _methods(model: nn.Module) -> list[Method]:
    """The methods of the layers without backprop, unless there is nothing else."""
    found: list[Method] = []
    for layer in feedback_layers(model).values():
        if layer.method not in found:
            found.append(layer.method)
    if not found:
        raise WtkitError(
            "Recorder: the model has no feedback layers; convert it first, also for backprop: "
            "wtkit.convert(model, 'backprop')"
        )
    return [method for method in found if method.name != "backprop"] or found


def checked_values(given: Mapping[str, Any], metrics: Mapping[str, str]) -> dict[str, float]:
    """What a loop measured in an epoch, as numbers by name.

    Raises:
        WtkitError: naming the first unknown name, or the first value that is no number or leaves
            its range.
    """
    for name in given:
        if name not in (*GIVEN, *metrics):
            try:
                known(name, [*GIVEN, *metrics], "quantity")
            except WtkitError as error:
                raise WtkitError(
                    f"record: {error}; declare one of your own with its unit: "
                    f"Recorder(…, metrics={{{name!r}: '1'}})"
                ) from None
    return {name: _number(name, value) for name, value in given.items()}


def _number(name: str, value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise WtkitError(f"record: {name!r}: expected a number, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:  # of Python's whole numbers, which know no limit
        number = -np.inf if value < 0 else np.inf
    low, high = RANGES.get(name, (-np.inf, np.inf))
    if not np.isnan(number) and not low <= number <= high:
        what = f"from {low} to {high} {VARIABLES[name][2]}" if high < np.inf else f"{low} or more"
        own = "" if high < np.inf else "; record other losses as a metric of your own"
        raise WtkitError(f"record: {name!r}: expected {what}, got {number:g}{own}")
    return number
