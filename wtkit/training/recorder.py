"""Records any training loop in the schema of :mod:`wtkit.results`."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import WtkitError
from ..experiments import OWN_ORDER
from ..results import LIVE_WEIGHTS
from ..validation import shown
from .labels import check_arguments, checked_labels, checked_values
from .machine import say
from .measures import as_recorded, trajectory
from .probe import Probe, is_first_process, model_state, restore_model
from .provenance import describe_provenance, resumed_provenance
from .recorded_folder import RecordedFolder
from .stored import as_bytes

_OPEN: weakref.WeakValueDictionary[Path, Recorder] = weakref.WeakValueDictionary()
"""The recorders of this process by folder: in a notebook a cell may be run again."""


class Recorder:
    """Records the angles of a converted model, and the errors that your training loop measures, in
    the schema of :mod:`wtkit.results`.

    :func:`wtkit.open_results`, :func:`wtkit.tidy`, the figures, the explorers and all notebooks
    read what it writes. Measuring changes nothing in the model, no gradient and no global random
    stream. Epoch 0, before training, is measured when the recorder is created. An epoch is whatever
    lies between two records: a pass through the data, or a number of steps.

    For the measurement of δ, every module is in the mode, training or evaluation, that it had when
    the recorder was created. Angles are over the weights that a signal of ``batch`` can pass
    (:func:`wtkit.feedback.find_live_taps`).

    Several recorders may write to one folder, even at the same time from several processes: one for
    each network, method, variant and seed. Each has its own folder in ``<folder>/runs/``. Whenever
    one is closed, all finished runs are gathered in ``<folder>/results.nc``.

    Leaving the ``with`` block closes the recorder. If an exception leaves it, the run stays
    unfinished, and what was saved is kept. If the same program is started again, it skips finished
    runs: their :attr:`epoch` is greater than ``epochs``, and :attr:`finished` is true. With
    ``checkpoint``, it continues an unfinished run after its last recorded epoch. Without
    ``checkpoint``, a loop that has its own checkpoints continues with ``record(8, …)``: what was
    recorded for the epochs before 8 is kept.

    A training loss that is not finite ends the record: the run has diverged.

    Args:
        folder: of the experiment, such as ``results/mine``; None writes nothing.
        model: the converted model, possibly wrapped by ``torch.compile`` or
            DistributedDataParallel. In several processes each makes a recorder and calls it with
            the same values (average a loss over the processes first); the first one writes.
        seed: distinguishes runs of one method.
        batch: held-out inputs and targets for the δ angles, as :func:`wtkit.delta_angles` takes
            them, on the model's device. None measures matrix angles only.
        loss: ``loss(outputs, targets)`` → a number, for the δ angles.
        network: a name for the model; by default that of its class. Networks of one name have the
            same layers.
        method: a name; by default that of the layers' method.
        variant: a word that distinguishes sets of options or settings of one method.
        data: a name for the data.
        metrics: the units of what you measure in addition to ``test_error``, by name, such as
            ``{"bits_per_character": "bit"}``; ``"1"`` means no unit. If there is no ``test_error``,
            figures and tables show the first of them.
        settings: what the run depends on, as numbers, texts, lists and mappings.
        epochs: the maximum number of epochs. :func:`wtkit.watch` shows it.
        angles_every: epochs between two records of the angles.
        evaluated_on: ``test``, or ``validation``.
        held_out: the number of examples on which the errors are measured.
        checkpoint: what to save with the model after every record, and to restore: objects with a
            ``state_dict``, such as the optimizer and the scheduler. torch's global random stream is
            saved, too. With None, the model is not saved.
        quiet: print nothing.

    Attributes:
        epoch: the number of the next record.
        folder: the run's folder.

    Raises:
        WtkitError: for a model without feedback layers; for names and values that cannot be
            recorded; for a folder that holds this run with other settings, other layers under the
            network's name, or results that are not in its ``runs``; if another process records this
            run.

    Example:
        >>> import torch, wtkit
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
        >>> model = wtkit.convert(model, "feedback_alignment", seed=0)
        >>> x = torch.randn(32, 8)
        >>> batch, loss = (x, x[:, :1]), nn.functional.mse_loss
        >>> record = wtkit.Recorder(None, model, seed=0, batch=batch, loss=loss,
        ...                         metrics={"squared_error": "1"})
        >>> for epoch in range(record.epoch, 3):
        ...     going_on = record(squared_error=loss(model(x), x[:, :1]))
        >>> record.trajectory().squared_error.sizes
        Frozen({'epoch': 3})
    """

    def __init__(
        self,
        folder: str | Path | None,
        model: nn.Module,
        *,
        seed: int,
        batch: tuple[Any, Any] | None = None,
        loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
        network: str | None = None,
        method: str | None = None,
        variant: str | None = None,
        data: str | None = None,
        metrics: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        epochs: int | None = None,
        angles_every: int | None = None,
        evaluated_on: str | None = None,
        held_out: int | None = None,
        checkpoint: Sequence[Any] | None = None,
        quiet: bool = False,
    ) -> None:
        started = time.perf_counter()
        check_arguments(model, batch, checkpoint)
        given = {
            "seed": seed, "network": network, "method": method, "variant": variant, "data": data,
            "metrics": metrics, "settings": settings, "epochs": epochs,
            "angles_every": angles_every, "evaluated_on": evaluated_on, "held_out": held_out,
        }  # fmt: skip
        self._labels, options = checked_labels(model, given)
        self._revision = self._labels.revision(options)
        self._model, self._quiet = model, quiet or not is_first_process()
        self._parts = None if checkpoint is None else list(checkpoint)
        self._probe = Probe(model, batch, loss)
        self._status = "running"
        self._provenance = describe_provenance(next(model.parameters()).device)
        self._entries: list[dict[str, Any]] = []
        self._earlier: list[dict[str, Any]] = []
        self._called, self._closed = False, False
        self._finished: xr.Dataset | None = None
        self._files = RecordedFolder(folder, self._labels.name, writes=is_first_process())
        self.folder = self._files.folder
        self._open(started)

    def _open(self, started: float) -> None:
        """Take the run's folder, and find what was recorded there before."""
        if self.folder is not None:
            path = self.folder.resolve()
            if (before := _OPEN.get(path)) is not None:
                before._leave()
            _OPEN[path] = self
        self._files.claim()
        try:
            self._finished = self._files.finished(self._revision)
            if self._finished is not None:
                self._closed, self._status = True, str(self._finished["status"].values)
                self._files.release()
                say(f"{self.folder} holds this run already, finished{self._early()}.", self._quiet)
                return
            self._entries = [self._probe.measures()]
            self._files.check(self.trajectory())
            self._resume()
            if self._parts is not None:
                as_bytes(self._state())  # what cannot be saved is refused now
            self._files.watch(self._labels.epochs or 0, self._labels.metrics, self._entries)
        except BaseException:
            self._files.release()
            raise
        self._since = started
        self._entries[0].setdefault("seconds", self._lap())

    # -------------------------------------------------------------------------------------- record

    @property
    def epoch(self) -> int:
        """The number of the next record. The first after training is 1. If the run is finished,
        also early, it is behind the last one, and behind ``epochs``."""
        if self.finished:
            return max(self.trajectory().sizes["epoch"], 1 + (self._labels.epochs or 0))
        return len(self._entries)

    def _early(self) -> str:
        """How many of the epochs a finished run has, if fewer than are wanted now."""
        count, wanted = self.trajectory().sizes["epoch"] - 1, self._labels.epochs or 0
        if self._status == "diverged" or count >= wanted:
            return ""
        return f" after {count} of {wanted} epochs; to record it anew, delete the folder"

    @property
    def finished(self) -> bool:
        """Whether nothing more is recorded: the recorder is closed, was so before, or the run has
        diverged."""
        return self._finished is not None or self._status == "diverged"

    def __call__(self, epoch: int | None = None, /, **values: Any) -> bool:
        """Record an epoch: measure the angles, and take the values that the loop has measured.

        Args:
            epoch: its number, by default the next one. 0 adds errors from before training.
            values: ``test_error`` and ``test_error_top5`` in percent, ``train_loss`` in nat,
                ``learning_rate``, and your metrics. NaN means not measured, except for
                ``train_loss``.

        Returns:
            whether the run goes on; False once it has diverged.

        Raises:
            WtkitError: for an unknown name, a value that is no number or out of range, and an epoch
                that does not follow the last one. What was recorded stays.
        """
        numbers = checked_values(values, self._labels.metrics)
        if self._status == "diverged":
            return False
        if self._closed:
            raise WtkitError(self._why_closed())
        if epoch is not None and (isinstance(epoch, bool) or not isinstance(epoch, Integral)):
            raise WtkitError(f"record: expected the number of an epoch, got {shown(epoch)}")
        if epoch == 0:
            self._before_training(numbers)
        else:
            self._place(None if epoch is None else int(epoch))
            self._add(numbers)
        self._files.save(self._state())
        self._files.show(self._entries)
        return self._status == "running"

    def _before_training(self, numbers: dict[str, float]) -> None:
        if len(self._entries) > 1:
            raise WtkitError(
                "record: epoch 0 is before training, and later ones are recorded already; write: "
                "if record.epoch == 1: record(0, …)"
            )
        for name in ("train_loss", "learning_rate"):
            if name in numbers:
                raise WtkitError(f"record: {name!r} belongs to training; leave it out at epoch 0")
        self._set_aside()
        self._called = True
        self._entries[0] |= numbers

    def _place(self, epoch: int | None) -> None:
        """Check that ``epoch`` is the next one. The first after a restart may be any that was
        recorded before, or the next."""
        if self._earlier and epoch is not None and 1 < epoch <= len(self._earlier):
            self._entries, self._earlier = self._earlier[:epoch], []
        if epoch is not None and epoch != len(self._entries):
            raise WtkitError(
                f"record: epoch {epoch} does not follow the last one, expected "
                f"{len(self._entries)}; leave the number out to count by one"
            )
        self._set_aside()
        self._called = True

    def _set_aside(self) -> None:
        """Keep an unfinished record that this run starts anew."""
        if self._earlier:
            kept = self._files.set_aside()
            say(f"{self.folder}: starts again; what was recorded before is {kept}.", self._quiet)
            self._earlier = []

    def _add(self, numbers: dict[str, float]) -> None:
        epoch = len(self._entries)
        if not np.isfinite(numbers.get("train_loss", 0.0)):
            self._status = "diverged"
            numbers = {n: numbers[n] for n in ("train_loss", "learning_rate") if n in numbers}
            say(f"{self._labels.name}  epoch {epoch}  loss not finite: diverged", self._quiet)
        elif epoch % self._labels.angles_every == 0 or epoch == self._labels.epochs:
            numbers |= self._probe.measures()
        self._entries.append(numbers | {"seconds": self._lap()})

    def _lap(self) -> float:
        """Seconds since the last call."""
        before, self._since = self._since, time.perf_counter()
        return self._since - before

    def trajectory(self) -> xr.Dataset:
        """The records so far as a data set, in the schema of :mod:`wtkit.results`; its ``status``
        is ``running`` until the recorder is closed."""
        if self._finished is not None:
            return self._finished
        labels = self._labels
        run = {name: getattr(labels, name) for name in ("method", "variant", "seed")}
        run |= {
            "norm_order": OWN_ORDER,
            "status": self._status,
            "evaluated_on": labels.evaluated_on,
            "held_out_images": -1 if labels.held_out is None else labels.held_out,
            "angles_over": LIVE_WEIGHTS,
            "settings": self._revision,
            "provenance": self._provenance,
        }
        return trajectory(
            self._model,
            self._entries,
            run,
            feeds=self._probe.feeds,
            network=labels.network,
            data=labels.data,
            metrics=labels.metrics,
            live_share=self._probe.live_share,
        )

    # --------------------------------------------------------------------------------- its lifetime

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._leave()

    def close(self) -> xr.Dataset:
        """Finish the run: write its trajectory, and gather all finished runs of the folder.

        Returns:
            the trajectory.

        Raises:
            WtkitError: if nothing was recorded; if the runs of the folder cannot be gathered, in
                which case the trajectory is written nonetheless.
        """
        if self._finished is not None:
            self._files.release()
            self._files.gather()  # the process that finished it may have ended before it could
            return self._finished
        if self._closed:
            raise WtkitError(self._why_closed())
        if not self._called and len(self._entries) == 1:
            self._leave()
            raise WtkitError(
                f"{self._labels.name}: nothing was recorded; call record(…) after every epoch"
            )
        status = self._status
        try:
            if status == "running":
                self._status = "complete"
            run = self.trajectory()
            self._files.finish(run)
        except BaseException:
            self._status = status  # it can go on, or be closed again
            raise
        self._finished, self._closed = run, True
        self._files.gather()
        return run

    def _leave(self) -> None:
        """Give the folder back; an unfinished run stays unfinished."""
        self._closed = True
        self._files.release()

    def _why_closed(self) -> str:
        if self._finished is not None:
            return (
                f"{self._labels.name} is finished: pass over it (if record.finished), give a run "
                f"another seed or variant, or delete {self.folder or 'this recorder'}"
            )
        return f"{self._labels.name}: this recorder was left; make a new one to continue"

    def _state(self) -> dict[str, Any]:
        """What another process needs to continue."""
        state = {
            "revision": self._revision,
            "layers": self._probe.layers,
            "records": self._entries,
            "status": self._status,
            "provenance": self._provenance,
        }
        return state if self._parts is None else state | model_state(self._model, self._parts)

    def _resume(self) -> None:
        """Take up what was recorded before, if anything was."""
        state = self._files.unfinished(self._revision, self._probe.layers)
        if state is None:
            return
        entries = [as_recorded(entry) for entry in state["records"]]
        last = len(entries) - 1
        self._provenance = resumed_provenance(state["provenance"], self._provenance)
        if state["status"] != "running":  # nothing is left to train
            self._entries, self._status, self._called = entries, state["status"], True
            return
        if self._parts is None or "model" not in state:
            self._earlier = entries
            say(
                f"{self.folder}: epochs up to {last} were recorded before. record({last + 1}, …) "
                "continues them; record(1, …) starts again.",
                self._quiet,
            )
            return
        try:
            restore_model(self._model, self._parts, state)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise self._files.unusable(str(error).splitlines()[0]) from None
        self._entries, self._called = entries, True
        say(f"{self.folder}: continues after epoch {last}.", self._quiet)
