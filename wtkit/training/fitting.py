"""Whether a checkpoint is whole and fits a run, so that nothing is restored from one that does
not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import WtkitError
from ..results import VARIABLES
from .run import Run

_STATUSES = ("running", "complete", "diverged")
_ALWAYS = ("train_loss", "learning_rate", "seconds")


def check_state(run: Run, state: dict[str, Any]) -> None:
    """Check what :meth:`Run.restore` takes from ``state``, the content of a checkpoint.

    Raises:
        WtkitError: naming the first part that is missing, or has another type, shape or length than
            in ``run``. Neither ``run`` nor ``state`` is changed.
    """
    expected = run.state()
    status = state.get("status")
    if status not in _STATUSES:
        raise WtkitError(f"its status is {status!r}, expected one of {', '.join(_STATUSES)}")
    if status != "running":
        expected = {key: expected[key] for key in ("revision", "records", "status", "provenance")}
    momenta = expected.pop("optimizer", {"state": {}})
    random = expected.pop("random_cuda", None)
    _check_records(run, state.get("records"), status)
    _check_like(expected | {"records": []}, state | {"records": []}, "")
    _check_provenance(state["provenance"])
    if status != "running":
        return
    if not 0 <= state["step"] <= run.steps:
        raise WtkitError(f"it is at step {state['step']} of {run.steps}")
    _check_optimizer(run, momenta, state.get("optimizer"))
    _check_random(random, state)


def _check_random(on_gpu: Tensor | None, state: dict[str, Any]) -> None:
    """A run may move between a CPU and a GPU: either has no use for the other's random state."""
    try:
        torch.Generator().set_state(state["random"])
    except RuntimeError:
        raise WtkitError("'random' is no state of torch's generator") from None
    if "random_cuda" not in state:
        raise WtkitError("it lacks 'random_cuda'")
    found = state["random_cuda"]
    if found is not None:
        _check_like(found if on_gpu is None else on_gpu, found, "random_cuda")
        _check_kind(found, Tensor, "random_cuda")


def _check_like(expected: Any, found: Any, name: str) -> None:
    """Check that ``found`` has the structure of ``expected``: its keys, lengths, and its tensors'
    types and shapes."""
    if isinstance(expected, Mapping):
        _check_kind(found, dict, name)
        for key in expected:
            way = f"{name}.{key}" if name else str(key)
            if key not in found:
                raise WtkitError(f"it lacks {way!r}")
            _check_like(expected[key], found[key], way)
        for key in found.keys() - expected.keys() if name else ():
            raise WtkitError(f"it has '{name}.{key}', which is no part of this run")
    elif isinstance(expected, Tensor):
        _check_kind(found, Tensor, name)
        if (found.shape, found.dtype) != (expected.shape, expected.dtype):
            raise WtkitError(
                f"{name!r} is {_described(found)}, but {_described(expected)} in this run"
            )
    elif isinstance(expected, float):
        _check_kind(found, (int, float), name)
    else:
        _check_kind(found, type(expected), name)


def _check_kind(found: Any, kind: Any, name: str) -> None:
    if not isinstance(found, kind):
        raise WtkitError(f"{name!r} is of an unexpected type, {type(found).__name__}")


def _described(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"


def _check_records(run: Run, records: Any, status: str) -> None:
    """Check that there is a record for each epoch so far, and none beyond the last."""
    _check_kind(records, list, "records")
    epochs = run.config.epochs
    least, most = {
        "running": (1, epochs), "complete": (epochs + 1, epochs + 1), "diverged": (1, epochs + 1)
    }[status]  # fmt: skip
    if not least <= len(records) <= most:
        raise WtkitError(
            f"it is {status} with {len(records)} records, but the run has {epochs} epochs"
        )
    for epoch, entry in enumerate(records):
        name = f"records[{epoch}]"
        _check_kind(entry, dict, name)
        measured = (status, epoch) != ("diverged", len(records) - 1)
        for variable in [*_ALWAYS, *(["test_error"] if measured else [])]:
            if variable not in entry:
                raise WtkitError(f"it lacks '{name}.{variable}'")
        for variable, value in entry.items():
            dims = VARIABLES.get(variable, ((),))[0]
            shape = (len(run.layers),) if "layer" in dims else ()
            if getattr(value, "shape", ()) != shape or not isinstance(value, float | Tensor):
                raise WtkitError(f"'{name}.{variable}' is of an unexpected type or length")


def _check_provenance(text: str) -> None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise WtkitError("'provenance' is no JSON") from None
    _check_kind(content, dict, "provenance")


def _check_optimizer(run: Run, expected: dict[str, Any], found: Any) -> None:
    """Check the moments: each has the shape of its parameter, whatever its layout in memory."""
    _check_kind(found, dict, "optimizer")
    _check_kind(found.get("state"), dict, "optimizer.state")
    _check_kind(found.get("param_groups"), list, "optimizer.param_groups")
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    for place, kept in found["state"].items():
        name = f"optimizer.state.{place}"
        if place not in range(len(parameters)):
            raise WtkitError(f"{name!r} belongs to no parameter")
        if run.config.optimizer == "adamw":
            moments = dict.fromkeys(("exp_avg", "exp_avg_sq"), parameters[place])
            _check_like({"step": torch.zeros(())} | moments, kept, name)
        elif run.config.momentum:
            _check_like({"momentum_buffer": parameters[place]}, kept, name)
    groups = found["param_groups"]
    if len(groups) != len(expected["param_groups"]):
        raise WtkitError(f"'optimizer.param_groups' has {len(groups)} entries")
    for place, group in enumerate(groups):
        _check_kind(group, dict, f"optimizer.param_groups[{place}]")
        _check_kind(group.get("lr"), (int, float), f"optimizer.param_groups[{place}].lr")
