"""One run: the loop, its schedule, its records and its checkpoints, in one process or, under torchrun, in several."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import functools
import inspect
import io
import json
import os
import platform
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from . import __version__, angles, data, networks, parallel, precision, trajectory
from .config import RunConfig, learning_rate
from .errors import Stopped, WtkitError, is_lack_of_memory
from .files import held, write_whole
from .images import killed_workers
from .layers import FeedbackLayer, convert, convertible, feedback_layers, stream_seed
from .methods import Method
from .mirroring import learns_mirror, mirror, noise_samples
from .parallel import ALONE, Share

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
EVALUATION_BATCH = 256
ASKED_EVERY = 10  # steps between two times that several processes ask each other whether to stop


def train(
    config: RunConfig,
    folder: str | Path | None = None,
    *,
    device: str | None = None,
    on_epoch: Callable[[xr.Dataset], None] | None = None,
    quiet: bool = False,
) -> xr.Dataset:
    """Train one run and return its trajectory, in the schema of :mod:`wtkit.trajectory`.

    Under ``torchrun`` all its processes train the one run together, each on its share of every batch: ``batch_size`` is
    that of all of them, and the result, to rounding, is that of a process alone. BatchNorm normalises with the batch of
    all processes on GPUs; on CPUs PyTorch has no such BatchNorm, and each normalises with its own share.

    A loss or an output that is not finite ends the run; its record is kept, with the status ``diverged``.

    Args:
        config: what to train.
        folder: where to write ``trajectory.nc``, and a checkpoint after every epoch, so that a run that is killed at
            any moment and started again goes on where it was: on the CPU to the same result, on a GPU to what its
            kernels repeat. On SIGTERM or SIGUSR1 the step is finished, a checkpoint written, and
            :class:`~wtkit.errors.Stopped` raised. None writes nothing.
        device: ``cpu``, ``cuda``, …; by default a GPU if there is one.
        on_epoch: called with the trajectory so far, before training and after every epoch.
        quiet: print nothing.

    Raises:
        WtkitError: for missing data; for a folder that holds another run, or that another process is writing to; for a
            batch that the processes cannot share equally.
    """
    folder = None if folder is None else Path(folder)
    with contextlib.ExitStack() as stack:
        target = _device(device)
        share = stack.enter_context(parallel.joined(target))
        quiet = quiet or share.rank > 0
        if folder is not None:
            finished = parallel.agreed(share, lambda: _claimed(folder, config, stack))
            if finished is not None:
                _say(f"{folder} holds this run already, finished.", quiet)
                return finished
        if not quiet and (slow := precision.warning(config.precision, target.type, _processor())):
            _say(f"Warning: {slow}", quiet)
        told_to_stop = stack.enter_context(_told_to_stop(folder is not None))
        _keep_memory()
        stack.enter_context(torch.random.fork_rng([target] if target.type == "cuda" else []))
        with _enough_memory(target), killed_workers():
            run = _Run(config, target, share)
            if folder is not None:
                _resume(run, folder, quiet)
            run.refuse_differing("at the start")
            _loop(run, folder, told_to_stop, on_epoch, quiet)
        result = run.trajectory()
        if folder is not None:
            parallel.agreed(share, lambda: _finish(result, folder))
        return result


@contextlib.contextmanager
def _told_to_stop(listen: bool) -> Iterator[list[str]]:
    """A list that the name of SIGTERM or SIGUSR1 is put on when it arrives, as before a machine is taken away."""
    told: list[str] = []
    # only a program's main thread may listen, and only a run that can be resumed has a use for it
    signals = (
        (signal.SIGTERM, signal.SIGUSR1) if listen and threading.current_thread() is threading.main_thread() else ()
    )
    before = {number: signal.signal(number, lambda n, _: told.append(signal.Signals(n).name)) for number in signals}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _enough_memory(device: torch.device) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_lack_of_memory(error):
            raise
        raise WtkitError(
            f"out of memory on {device}: {textwrap.shorten(str(error), 120)}; take a smaller batch_size, image_size or "
            f"noise_batch; epochs that were saved are kept"
        ) from None


def _device(name: str | None) -> torch.device:
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # torchrun's number of this process on this machine
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = textwrap.shorten(str(error).splitlines()[0], 120)
        if is_lack_of_memory(error):
            raise WtkitError(f"out of memory on {name}, before anything was put there ({reason})") from None
        raise WtkitError(
            f"no device {name!r} here, expected 'cpu', or 'cuda' where there is a GPU ({reason})"
        ) from None
    if not torch.amp.is_autocast_available(device.type):
        raise WtkitError(f"device {name!r} cannot train; expected 'cpu', or 'cuda' where there is a GPU")
    return device


def _loop(
    run: _Run,
    folder: Path | None,
    told_to_stop: list[str],
    on_epoch: Callable[[xr.Dataset], None] | None,
    quiet: bool,
) -> None:
    """From wherever ``run`` stands to its end."""
    config = run.config
    while run.status == "running":
        start = time.perf_counter()
        epoch = len(run.records)
        if epoch > 0:
            stopped = run.engaged_epoch(told_to_stop, quiet)
            if stopped and folder is not None:
                run.seconds += time.perf_counter() - start
                _checkpoint(run, folder)
                stop = Stopped(
                    f"{folder}: stopped by {told_to_stop[0]} after step {run.step} of {run.steps} of epoch {epoch}; "
                    f"the same command goes on from there"
                )
                stop.said_elsewhere = run.share.rank > 0
                raise stop
        run.record(start)
        if epoch == config.epochs:
            run.status = "complete"
        if "test_error" not in run.records[-1]:
            run.status = "diverged"
        if folder is not None:
            _checkpoint(run, folder)
        _say(run.report(), quiet)
        if on_epoch is not None:
            on_epoch(run.trajectory())


class _Run:
    """Everything that changes while a run goes on.

    Args:
        loaded: the run's data, if they are loaded already.
    """

    def __init__(
        self, config: RunConfig, device: torch.device, share: Share = ALONE, loaded: data.Data | None = None
    ) -> None:
        self.config, self.device, self.share = config, device, share
        self.method = config.loaded_method()
        parallel.together(share, lambda: self._prepare(loaded))
        self.network = _data_parallel(self.model, device) if share.world > 1 else self.model
        self.forward: Callable[[Tensor], Tensor] = torch.compile(self.network) if config.compile else self.network
        self.layers = feedback_layers(self.model)
        self.optimizer = _optimizer(self.model, config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        angles.find_live_taps(self.model, self.examples[0])
        self.records: list[dict[str, Any]] = []
        self.status = "running"
        self.provenance = _provenance(device, share)
        self.begin_epoch()

    def _prepare(self, loaded: data.Data | None) -> None:
        """What each process does for itself: load the data and make the model."""
        config, device, world = self.config, self.device, self.share.world
        if config.batch_size % world:
            raise WtkitError(
                f"setting 'batch_size': {config.batch_size} images cannot be shared equally by {world} processes; "
                f"take a multiple of {world}, or start another number of processes"
            )
        self.data = loaded or data.load(config, device)
        self.steps = self.data.steps(config.batch_size)
        self.examples = self.data.held_out_examples(config.delta_examples)
        torch.manual_seed(config.seed)
        model = networks.build(config, num_classes=self.data.num_classes, image_size=self.examples[0].shape[-1])
        _convert(model, self.method, config)
        # images are channels_last everywhere; weights only where it pays: on the CPU it costs a copy of each gradient
        layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self.model = model.to(device, memory_format=layout)  # type: ignore[call-overload]  # torch forgets the pair
        with self.autocast():
            networks.try_out(self.model, self.examples[0][:2], self.data.num_classes, config.network_name)

    def begin_epoch(self) -> None:
        """Set what is counted within an epoch to its start: steps taken, the sum of their losses, seconds spent."""
        self.step, self.loss, self.seconds = 0, torch.zeros((), device=self.device), 0.0

    def autocast(self) -> torch.autocast:
        dtype = PRECISIONS[self.config.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not torch.float32)

    def mirror(self, steps: int, settle: bool = False) -> None:
        with self.autocast():
            mirror(self.network, steps, settle=settle)

    def engaged_epoch(self, told_to_stop: list[str], quiet: bool) -> bool:
        """What is left of a pass through the training images, and whatever the method does between its steps.

        Returns:
            whether it was told to stop: then it ends after the step it is in, or, with other processes, the next at
            which they ask each other.
        """
        config, method, share, epoch = self.config, self.method, self.share, len(self.records) - 1
        if epoch == self.step == 0 and learns_mirror(method):
            self.mirror(method.mirror_before, settle=True)
        self.model.train()
        stopped = False
        batches = self.data.train_batches(config.batch_size, epoch, start=self.step, rank=share.rank, world=share.world)
        for x, labels in _bar(batches, self.step, self.steps, f"epoch {epoch + 1}/{config.epochs}", quiet):
            if share.world > 1:  # dropout is each process's own, and goes on after a checkpoint as it would have
                torch.manual_seed(stream_seed(config.seed, "step", epoch, self.step, share.rank))
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(config, epoch + self.step / self.steps)
            with self.autocast():
                loss = F.cross_entropy(self.forward(x), labels, label_smoothing=config.label_smoothing)
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()
            self.loss += loss.detach()  # stays on the device: nothing in this loop waits for it, but SyncBatchNorm
            self.step += 1
            if learns_mirror(method) and (epoch * self.steps + self.step) % method.mirror_every == 0:
                self.mirror(method.mirror_steps)
            stopped = self.stops(told_to_stop)
            if stopped:
                break
        self.average_over_processes()
        return stopped

    def average_over_processes(self) -> None:
        """Make the loss so far, and BatchNorm's running statistics, those of all processes and so the same in each."""
        share = self.share
        if share.world == 1:
            return
        averaged = [self.loss]
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                averaged += [b for b in (module.running_mean, module.running_var) if b is not None]
        for tensor in averaged:
            share.total(tensor).div_(share.world)

    def stops(self, told_to_stop: list[str]) -> bool:
        """Whether any process was told to stop; all of them get the same answer, and then know why."""
        if self.share.world > 1:
            if self.step % ASKED_EVERY and self.step != self.steps:
                return False
            if parallel.any_of(self.share, bool(told_to_stop)) and not told_to_stop:
                told_to_stop.append("a signal to another process")
        return bool(told_to_stop)

    def record(self, start: float) -> None:
        """Measure what there is to measure after an epoch, or before the first; nothing of the run changes."""
        config, epoch = self.config, len(self.records)
        loss = self.loss.item() / self.steps if epoch else float("nan")
        entry: dict[str, Any] = {"train_loss": loss, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        self.refuse_differing(f"after epoch {epoch}")
        errors = self.test_errors() if epoch == 0 or np.isfinite(loss) else None
        if errors is not None:
            entry["test_error"], entry["test_error_top5"] = errors
            if epoch % config.angles_every == 0 or epoch == config.epochs:
                entry |= self.agreement()
        if epoch == 0:
            entry["learning_rate"] = float("nan")
        self.records.append(entry | {"seconds": self.seconds + time.perf_counter() - start})
        self.begin_epoch()

    def agreement(self) -> dict[str, np.ndarray]:
        """Angles and norms of every layer, as they are recorded."""
        self.model.train()  # δ as training has it, BatchNorm normalising with the batch
        deltas = angles.delta_statistics(self.model, *self.examples)
        measures = {
            "matrix_angle": angles.matrix_angles,
            "feedback_norm_ratio": angles.feedback_norm_ratios,
            "weight_norm": angles.weight_norms,
        }
        found = {name: deltas[name].values for name in ("delta_angle", "delta_norm_ratio")}
        for name, measure in measures.items():
            found[name] = measure(self.model).values
            found[f"{name}_all_weights"] = measure(self.model, all_weights=True).values
        return found

    def refuse_differing(self, when: str) -> None:
        """Refuse to go on with weights, forward or feedback, that are not the same in all processes."""
        parallel.refuse_differing(self.share, self.model.state_dict(), when)

    @torch.no_grad()
    def test_errors(self, batches: Iterable[data.Batch] | None = None) -> tuple[float, float] | None:
        """Top-1 and top-5 error on the held-out images, or on ``batches``, in %; None where an output is not finite."""
        self.model.eval()
        counts = torch.zeros(4, device=self.device)
        wrong, wrong5, sane, seen = counts.unbind()
        with self.autocast():
            for x, labels in batches or self.held_out_batches():
                outputs = self.forward(x)
                best = outputs.topk(min(5, self.data.num_classes)).indices == labels[:, None]
                sane += outputs.isfinite().all(1).sum()
                wrong += (~best[:, 0]).sum()
                wrong5 += (~best.any(1)).sum()
                seen += len(labels)
        number_wrong, number_wrong5, number_sane, number = self.share.total(counts).tolist()
        return (100 * number_wrong / number, 100 * number_wrong5 / number) if number_sane == number else None

    def held_out_batches(self) -> Iterator[data.Batch]:
        """This process's share of the held-out images."""
        return self.data.held_out_batches(EVALUATION_BATCH, rank=self.share.rank, world=self.share.world)

    def trajectory(self) -> xr.Dataset:
        """The records so far as a data set."""
        records: dict[str, Any] = {}
        for name, (dims, *_) in trajectory.VARIABLES.items():
            missing = np.full(len(self.layers), np.nan) if "layer" in dims else np.nan
            if "epoch" in dims:
                records[name] = [entry.get(name, missing) for entry in self.records]
        fan_in = [layer.weight[0].numel() for layer in self.layers.values()]
        records["live_share"] = angles.live_shares(self.model).values
        if learns_mirror(self.method):
            records["mirror_samples"] = [
                noise_samples(layer) if learns_mirror(layer.method) else np.nan for layer in self.layers.values()
            ]
        run = {
            "method": self.config.method,
            "variant": self.config.variant,
            "norm_order": self.config.norm_order,
            "seed": self.config.seed,
            "status": self.status,
            "evaluated_on": self.config.evaluate_on,
            "held_out_images": self.data.number_held_out,
            "angles_over": trajectory.LIVE,
            "settings": self.config.revision,
            "provenance": self.provenance,
        }
        kinds = [type(layer).__name__.removeprefix("Feedback") for layer in self.layers.values()]
        layers = {"layer": list(self.layers), "kind": kinds, "fan_in": fan_in}
        return trajectory.dataset(records, layers, run, network=self.config.network_name, data=self.config.data)

    def report(self) -> str:
        """One line on the last epoch."""
        entry, epoch, epochs = self.records[-1], len(self.records) - 1, self.config.epochs
        if self.status == "diverged":
            return f"{self.config.name}  epoch {epoch}/{epochs}  loss or outputs not finite: diverged, it ends here"
        words = [f"{self.config.name}  epoch {epoch}/{epochs}"]
        if epoch:
            words.append(f"loss {entry['train_loss']:.3f}")
        words.append(f"error {entry['test_error']:.2f} %")
        for name, word in (("matrix_angle", "matrix angles"), ("delta_angle", "δ angles")):
            if name in entry and np.isfinite(entry[name]).all():  # not where only the output layer has one
                words.append(f"{word} {entry[name].min():.1f}–{entry[name].max():.1f}°")
        words.append(f"{entry['seconds']:.1f} s")
        if epoch:
            left = np.mean([e["seconds"] for e in self.records[1:]]) * (epochs - epoch)
            words.append(f"{datetime.timedelta(seconds=round(left))} left")
        return "  ".join(words)

    def state(self) -> dict[str, Any]:
        """All that another process needs to go on from here; of a run that ended, what its trajectory is made of."""
        ended = {
            "revision": self.config.revision,
            "records": self.records,
            "status": self.status,
            "provenance": self.provenance,
        }
        if self.status != "running":
            return ended
        return ended | {
            "model": self.model.state_dict(),
            "mirror_counts": {name: layer.mirror_count for name, layer in self.layers.items()},
            "update_counts": {name: layer.update_count for name, layer in self.layers.items()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "loss": self.loss,
            "seconds": self.seconds,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave."""
        self.records, self.status = state["records"], state["status"]
        self.provenance = _resumed(state["provenance"], self.provenance)
        if self.status != "running":
            return
        self.model.load_state_dict(state["model"])
        for name, layer in self.layers.items():
            layer.mirror_count, layer.update_count = state["mirror_counts"][name], state["update_counts"][name]
        self.optimizer.load_state_dict(state["optimizer"])
        _match_layout(self.optimizer)
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.loss, self.seconds = state["step"], state["loss"].to(self.device), state["seconds"]
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)


def _convert(model: nn.Module, method: Method, config: RunConfig) -> None:
    """Convert ``model``; layers that stay on backprop too, so that they are measured like the others."""
    convert(model, method, seed=config.seed, backprop=config.backprop)
    if not feedback_layers(model):
        raise WtkitError("setting 'backprop': no layer is left for the method; take the method 'backprop' instead")
    for module in list(model.modules()):
        if convertible(module) and not isinstance(module, FeedbackLayer):
            convert(module, "backprop", seed=config.seed)


def _data_parallel(model: nn.Module, device: torch.device) -> nn.parallel.DistributedDataParallel:
    """``model`` with its gradients averaged over all processes. Kolen–Pollack's B, which is handed W's, needs none."""
    on_gpu = device.type == "cuda"
    if on_gpu:  # PyTorch has none for CPUs
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    # said of 1×1 kernels, whose gradients' strides differ only along dimensions of one element
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    # Buffers are the same in all of them without being sent at every step; B is one of those. The argument that says so
    # has a new name since torch 2.15.
    named = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in named else "broadcast_buffers"
    cut = any(layer.B is None for layer in feedback_layers(model).values())  # then what lies below has no gradient
    settings: dict[str, Any] = {"gradient_as_bucket_view": True, sync: False, "find_unused_parameters": cut}
    if on_gpu:
        settings["device_ids"] = [device]
    return nn.parallel.DistributedDataParallel(model, **settings)


def _optimizer(model: nn.Module, config: RunConfig) -> torch.optim.SGD:
    """SGD over all parameters; weights, forward and feedback, decay, biases and BatchNorm do not."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    sgd = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused)
    if config.precision == "fp16" and config.momentum:
        # a fused first step whose gradients overflow leaves the momentum that it makes as the memory was
        for parameter in model.parameters():
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def _match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Lay momentum out in memory as its parameter is: a checkpoint of another kind of device has another layout, which
    fused SGD refuses on a GPU and takes for the parameter's on the CPU."""
    for parameter, kept in optimizer.state.items():
        if kept.get("momentum_buffer") is not None:
            kept["momentum_buffer"] = torch.empty_like(parameter).copy_(kept["momentum_buffer"])


def _keep_memory() -> None:
    """Have the C library keep what is freed: handing gradients' pages back and forth costs a tenth of a CPU step."""
    with contextlib.suppress(AttributeError, OSError):  # glibc only
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: what is smaller comes from the heap, which is kept …
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: … until that much of it is free


# ------------------------------------------------------------------------------------- the run's folder


def _claimed(folder: Path, config: RunConfig, stack: contextlib.ExitStack) -> xr.Dataset | None:
    """Hold ``folder`` until ``stack`` is left, and return the run in it, if it is this one and finished."""
    taken = f"another process is training in {folder}; wait for it, or take another folder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(held(folder, taken))
    except OSError as error:
        raise WtkitError(f"cannot write to {folder}: {error.strerror}; choose another folder with --output") from None
    return _finished(folder, config)


def _finished(folder: Path, config: RunConfig) -> xr.Dataset | None:
    """The finished run in ``folder``, if it is this one."""
    path = folder / "trajectory.nc"
    if not path.exists():
        return None
    run = trajectory.open_run(path)
    if str(run["settings"].values) != config.revision:
        raise WtkitError(f"{path} is a run with other settings; choose another folder, or delete it to train anew")
    return run


def _finish(result: xr.Dataset, folder: Path) -> None:
    trajectory.save(result, folder / "trajectory.nc")
    (folder / "checkpoint.pt").unlink(missing_ok=True)


def _checkpoint(run: _Run, folder: Path) -> None:
    """Write the run's state."""
    parallel.agreed(run.share, lambda: _write(run.state(), folder / "checkpoint.pt"))


def _write(state: dict[str, Any], path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    then = "goes on from the last checkpoint that was saved" if path.exists() else "begins anew"
    write_whole(path, buffer.getbuffer(), f"free some space and start the same command again: it {then}")


def _resume(run: _Run, folder: Path, quiet: bool) -> None:
    """Go on from the checkpoint in ``folder``, if there is one of these settings."""
    state = parallel.agreed(run.share, lambda: _take_up(folder / "checkpoint.pt", run.config.revision, quiet))
    if state is None:
        return
    run.restore(state)
    where = f", step {run.step} of {run.steps}" if run.step else ""
    _say(f"Going on after epoch {len(run.records) - 1} of {run.config.epochs}{where}.", quiet)


def _take_up(path: Path, revision: str, quiet: bool) -> dict[str, Any] | None:
    """The checkpoint of these settings; one of others is put aside."""
    state = _load(path)
    if state is not None and state["revision"] != revision:
        aside = _aside(path, state["revision"])
        os.replace(path, aside)
        _say(f"{path} belongs to other settings: it is {aside.name} now.", quiet)
        state = None
    own = _aside(path, revision)
    if state is None and own.exists():  # these settings were here before
        os.replace(own, path)
        state = _load(path)
    return state


def _aside(path: Path, revision: str) -> Path:
    """What a checkpoint of these settings is called while others are trained in its folder."""
    return path.with_name(f"checkpoint.{stream_seed(revision):016x}.pt")


def _load(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=False)
        state["revision"]
    except Exception as error:  # whatever a damaged file, or another program's, makes of itself
        raise WtkitError(f"cannot read {path} ({type(error).__name__}); delete it to train anew") from None
    return state


def _resumed(before: str, now: str) -> str:
    """The provenance of a run that goes on: as it began, and under ``resumed`` what changed at each resumption."""
    began, goes_on = json.loads(before), json.loads(now)
    until_now = dict(began)
    for resumed in began.get("resumed", []):
        until_now |= resumed
    change = {key: value for key, value in goes_on.items() if key != "started" and value != until_now.get(key)}
    if change:
        began["resumed"] = [*began.get("resumed", []), change | {"started": goes_on["started"]}]
    return json.dumps(began)


def _provenance(device: torch.device, share: Share = ALONE) -> str:
    """What a result depends on beside its settings, as JSON."""
    return json.dumps(
        {
            "wtkit": __version__,
            "commit": _commit(),
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
            "threads": torch.get_num_threads(),
            "processes": share.world,
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
    )


@functools.cache
def _commit() -> str:
    """The commit of the checkout that wtkit is run from, with ``+`` where wtkit itself differs from it; or nothing."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", str(here)) else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({torch.backends.cpu.get_cpu_capability()})"
    return platform.processor() or platform.machine()


# ------------------------------------------------------------------------------------------------------- progress


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        print(f"{text}\n", end="", flush=True)  # in one go: a process that is killed in between leaves no half line


def _bar(batches: Iterator, done: int, total: int, text: str, quiet: bool) -> Iterator:
    """A bar on a terminal, nothing elsewhere: the line at the epoch's end then says it all."""
    return tqdm(batches, text, total, initial=done, leave=False, disable=quiet or not sys.stderr.isatty())
