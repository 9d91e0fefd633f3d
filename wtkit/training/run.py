"""The state of one run: its model and optimizer, the steps, the records, and checkpoints."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional as F

from .. import data, networks
from ..data import Batch, Data
from ..errors import WtkitError
from ..experiments import RunConfig, learning_rate
from ..feedback import fed_layers, feedback_layers, find_live_taps, mirror
from ..networks import try_out
from ..processes import ALONE, Share, any_of, refuse_differing, together
from ..results import LIVE_WEIGHTS
from ..seeds import stream_seed
from .machine import progress_bar
from .measures import as_recorded, delta_measures, trajectory, weight_measures
from .preparation import convert_all, data_parallel, make_optimizer, match_layout
from .provenance import describe_provenance, resumed_provenance

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
EVALUATION_BATCH = 256
STOP_CHECK_EVERY = 10  # steps between cross-process stop checks


class Run:
    """The state of one run.

    Args:
        config: the settings.
        device: where to train.
        share: this process's share of the work.
        loaded: the run's data, if they are loaded already.
    """

    def __init__(
        self,
        config: RunConfig,
        device: torch.device,
        share: Share = ALONE,
        loaded: Data | None = None,
    ) -> None:
        self.config, self.device, self.share = config, device, share
        self.method = config.loaded_method()
        together(share, lambda: self._prepare(loaded))
        self.network = data_parallel(self.model, device) if share.world > 1 else self.model
        self.forward: Callable[[Tensor], Tensor] = (
            torch.compile(self.network) if config.compile else self.network
        )
        self.layers = feedback_layers(self.model)
        self.learning = feedback_layers(self.model, scales=True)
        self.optimizer = make_optimizer(self.model, config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        find_live_taps(self.model, self.examples[0])
        self.feeds = fed_layers(self.model, self.examples[0][:2])
        self.records: list[dict[str, Any]] = []
        self.status = "running"
        self.on_step: Callable[[], None] = lambda: None  # of those who watch
        self.provenance = describe_provenance(device, share)
        self.begin_epoch()

    def _prepare(self, loaded: Data | None) -> None:
        """The part of the setup that each process does for itself: load the data, make the
        model."""
        config, device, world = self.config, self.device, self.share.world
        if config.batch_size % world:
            raise WtkitError(
                f"setting 'batch_size': {config.batch_size} images cannot be split equally among "
                f"{world} processes; take a multiple of {world}, or another number of processes"
            )
        self.data = loaded or data.load(config, device)
        self.steps = self.data.steps(config.batch_size)
        self.examples = self.data.held_out_examples(config.delta_examples)
        torch.manual_seed(config.seed)
        model = networks.build(
            config, num_classes=self.data.num_classes, image_size=self.examples[0].shape[-1]
        )
        convert_all(model, self.method, config)
        # images are channels_last everywhere, weights only on GPUs: on the CPU it would cost a copy
        # of each gradient
        layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self.model = model.to(device, memory_format=layout)  # type: ignore[call-overload]  # torch forgets the pair
        with self.autocast():
            try_out(self.model, self.examples[0][:2], self.data.num_classes, config.network_name)

    def begin_epoch(self) -> None:
        """Reset what is counted within an epoch: steps, the sum of their losses, seconds."""
        self.step, self.loss, self.seconds = 0, torch.zeros((), device=self.device), 0.0

    def autocast(self) -> torch.autocast:
        dtype = PRECISIONS[self.config.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not torch.float32)

    def mirror(self, steps: int, running_mean: bool = False) -> None:
        with self.autocast():
            mirror(self.network, steps, running_mean=running_mean)

    def mirror_before_training(self) -> None:
        """The mirror steps before the first engaged step."""
        if self.method.learns_mirror:
            self.mirror(self.method.mirror_schedule.initial, running_mean=True)

    def engaged_epoch(self, stop_signals: list[str], quiet: bool) -> bool:
        """The rest of a pass through the training images, with the method's mirror steps.

        Args:
            stop_signals: names of the signals received so far; the list may grow at any time.
            quiet: whether to show no progress bar.

        Returns:
            whether the epoch was cut short by a signal. It then ends after the current step or,
            with several processes, after the next step at which they check.
        """
        config, share, epoch = self.config, self.share, len(self.records) - 1
        self.model.train()
        stopped = False
        batches = self.data.train_batches(
            config.batch_size, epoch, start=self.step, rank=share.rank, world=share.world
        )
        for x, labels in progress_bar(
            batches, self.step, self.steps, f"epoch {epoch + 1}/{config.epochs}", quiet
        ):
            self._engaged_step(x, labels, epoch)
            self._mirror_phase(epoch)
            self.on_step()
            stopped = self.stops(stop_signals)
            if stopped:
                break
        self.average_over_processes()
        return stopped

    def _engaged_step(self, x: Tensor, labels: Tensor, epoch: int) -> None:
        config = self.config
        if self.share.world > 1:
            # each process has its own dropout, which a checkpoint does not disturb
            seed = stream_seed(config.seed, "step", epoch, self.step, self.share.rank)
            torch.manual_seed(seed)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, epoch + self.step / self.steps)
        with self.autocast():
            loss = F.cross_entropy(self.forward(x), labels, label_smoothing=config.label_smoothing)
        self.scaler.scale(loss).backward()
        # Where B learns: in engaged mode inside this optimizer step, through the hooks of
        # wtkit/feedback/follow.py (Kolen–Pollack's B gets W's gradient just before it, methods that
        # follow W update just after it); in mirror mode in _mirror_phase.
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        # stays on the device: only SyncBatchNorm waits for anything in this loop
        self.loss += loss.detach()
        self.step += 1

    def _mirror_phase(self, epoch: int) -> None:
        """The mirror steps that are due after this engaged step."""
        if self.method.learns_mirror:
            schedule = self.method.mirror_schedule
            if (epoch * self.steps + self.step) % schedule.every == 0:
                self.mirror(schedule.steps)

    def average_over_processes(self) -> None:
        """Average the loss so far and BatchNorm's running statistics over all processes, so that
        they are the same in each."""
        share = self.share
        if share.world == 1:
            return
        averaged = [self.loss]
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                averaged += [b for b in (module.running_mean, module.running_var) if b is not None]
        for tensor in averaged:
            share.total(tensor).div_(share.world)

    def stops(self, stop_signals: list[str]) -> bool:
        """Whether any process received a stop signal; the answer is the same in all of them."""
        if self.share.world == 1:
            return bool(stop_signals)
        if self.step % STOP_CHECK_EVERY and self.step != self.steps:
            return False
        # not from the list: a signal may arrive here after the others were told of none
        stopped = any_of(self.share, bool(stop_signals))
        if stopped and not stop_signals:
            stop_signals.append("a signal to another process")
        return stopped

    def record(self, start: float) -> None:
        """Add a record after an epoch, or before the first. Measuring changes nothing in the
        run."""
        config, epoch = self.config, len(self.records)
        loss = self.loss.item() / self.steps if epoch else float("nan")
        entry: dict[str, Any] = {
            "train_loss": loss,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        self.refuse_differing(f"after epoch {epoch}")
        errors = self.test_errors() if epoch == 0 or np.isfinite(loss) else None
        if errors is not None:
            entry["test_error"], entry["test_error_top5"] = errors
            if epoch % config.angles_every == 0 or epoch == config.epochs:
                entry |= self.alignment()
        if epoch == 0:
            entry["learning_rate"] = float("nan")
        self.records.append(entry | {"seconds": self.seconds + time.perf_counter() - start})
        self.begin_epoch()

    def alignment(self) -> dict[str, np.ndarray]:
        """Angles and norms of every layer, by the names of their records."""
        self.model.train()  # δ as in training: BatchNorm normalises with the batch
        return delta_measures(self.model, *self.examples) | weight_measures(self.model)

    def refuse_differing(self, when: str) -> None:
        """Raise if weights, forward or feedback, differ between processes."""
        refuse_differing(self.share, self.model.state_dict(), when)

    @torch.no_grad()
    def test_errors(self, batches: Iterable[Batch] | None = None) -> tuple[float, float] | None:
        """Top-1 and top-5 error in % on the held-out images, or on ``batches``; None if an output
        is not finite."""
        self.model.eval()
        counts = torch.zeros(4, device=self.device)
        wrong, wrong5, finite, seen = counts.unbind()
        with self.autocast():
            for x, labels in batches or self.held_out_batches():
                outputs = self.forward(x)
                best = outputs.topk(min(5, self.data.num_classes)).indices == labels[:, None]
                finite += outputs.isfinite().all(1).sum()
                wrong += (~best[:, 0]).sum()
                wrong5 += (~best.any(1)).sum()
                seen += len(labels)
        number_wrong, number_wrong5, number_finite, number = self.share.total(counts).tolist()
        if number_finite != number:
            return None
        return 100 * number_wrong / number, 100 * number_wrong5 / number

    def held_out_batches(self) -> Iterator[Batch]:
        """This process's share of the held-out images."""
        return self.data.held_out_batches(
            EVALUATION_BATCH, rank=self.share.rank, world=self.share.world
        )

    def trajectory(self) -> xr.Dataset:
        """The records so far as a data set, in the schema of :mod:`wtkit.results`."""
        config = self.config
        run = {name: getattr(config, name) for name in ("method", "variant", "norm_order", "seed")}
        run |= {
            "status": self.status,
            "evaluated_on": config.evaluate_on,
            "held_out_images": self.data.number_held_out,
            "angles_over": LIVE_WEIGHTS,
            "settings": config.revision,
            "provenance": self.provenance,
        }
        return trajectory(
            self.model,
            self.records,
            run,
            feeds=self.feeds,
            network=config.network_name,
            data=config.data,
        )

    def report(self) -> str:
        """One line on the last epoch."""
        entry, epoch, epochs = self.records[-1], len(self.records) - 1, self.config.epochs
        if self.status == "diverged":
            return (
                f"{self.config.name}  epoch {epoch}/{epochs}  loss or outputs not finite: "
                "diverged, run ends"
            )
        words = [f"{self.config.name}  epoch {epoch}/{epochs}"]
        if epoch:
            words.append(f"loss {entry['train_loss']:.3f}")
        words.append(f"error {entry['test_error']:.2f} %")
        for name, word in (("matrix_angle", "matrix angles"), ("delta_angle", "δ angles")):
            # not if only the output layer has one
            if name in entry and np.isfinite(entry[name]).all():
                words.append(f"{word} {entry[name].min():.1f}–{entry[name].max():.1f}°")
        words.append(f"{entry['seconds']:.1f} s")
        if epoch:
            left = np.mean([e["seconds"] for e in self.records[1:]]) * (epochs - epoch)
            words.append(f"{datetime.timedelta(seconds=round(left))} left")
        return "  ".join(words)

    def state(self) -> dict[str, Any]:
        """Everything that another process needs to resume here; for a run that has ended, only what
        its trajectory needs."""
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
            "mirror_counts": {name: layer.mirror_count for name, layer in self.learning.items()},
            "update_counts": {name: layer.update_count for name, layer in self.learning.items()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "loss": self.loss,
            "seconds": self.seconds,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device)
            if self.device.type == "cuda"
            else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from the result of :meth:`state`, as it comes back from a checkpoint."""
        self.records, self.status = [as_recorded(e) for e in state["records"]], state["status"]
        self.provenance = resumed_provenance(state["provenance"], self.provenance)
        if self.status != "running":
            return
        self.model.load_state_dict(state["model"])
        for name, layer in self.learning.items():
            layer.mirror_count, layer.update_count = (
                state["mirror_counts"][name],
                state["update_counts"][name],
            )
        # the groups are this run's own, as its settings are the same; only the rate is restored: it
        # is recorded at the end of an epoch, perhaps with no step before it
        groups = [
            own | {"lr": saved["lr"]}
            for own, saved in zip(
                self.optimizer.state_dict()["param_groups"],
                state["optimizer"]["param_groups"],
                strict=True,
            )
        ]
        self.optimizer.load_state_dict(state["optimizer"] | {"param_groups": groups})
        match_layout(self.optimizer)
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.loss, self.seconds = (
            state["step"],
            state["loss"].to(self.device),
            state["seconds"],
        )
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
