"""What a plan has to try out: a few steps of a run, and the layers and first angles of a
network."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import json
import math
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
import torch
from tqdm import tqdm

from .. import data, networks
from ..data import Batch, Data, check_batch, chosen_classes, stored_images
from ..errors import WtkitError
from ..experiments import CLASSES, Facts, RunConfig, known_facts, split
from ..feedback import angle, feedback_layers, find_live_taps, noise_samples
from ..methods import Method
from ..processes import killed_workers
from ..training import (
    Run,
    convert_all,
    cpu_name,
    enough_memory,
    find_device,
    keep_memory,
    precision_warning,
    write_checkpoint,
)
from .formulas import Layer, learns_as_W, mirrors
from .found import Cost, Found, groups

PATIENCE = 2.0
"""Seconds for which steps, and then evaluation, are measured; what takes longer is done once."""
FREE = ("seed", "variant", "epochs", "lr", "weight_decay", "schedule", "lr_drops", "lr_drop_factor",
        "warmup_epochs",
        "label_smoothing", "angles_every")  # fmt: skip
"""Settings that change nothing of what a step takes."""


def survey(
    runs: Iterable[RunConfig], *, measured: bool = True, device: str | None = None
) -> Iterator[tuple[list[RunConfig], Found]]:
    """All that a plan is made of, for every group of runs that differ by their seed alone.

    Args:
        measured: whether to take a few steps of each; without it no data are read but to count
            them.
        device: as :func:`wtkit.train` has it.

    Data that are not there, and runs that cannot be made, are a group's ``problem``.
    """
    found = groups(runs)
    target = find_device(device) if measured else None
    costs: dict[str, Cost] = {}
    loaded: dict[str, tuple[Data, float] | WtkitError] = {}
    for group in tqdm(found, "measuring", leave=False, disable=None if measured else True):
        config, method = group[0], group[0].loaded_method()
        steps = config.epochs * (known_facts(config).steps(config) or 1000)
        at_rest, course = before_and_after(method, steps)
        slow = (
            "" if target is None else precision_warning(config.precision, target.type, cpu_name())
        )
        first = Found(known_facts(config), at_rest=at_rest, course=course, slow=slow)
        try:
            if target is None:
                first = dataclasses.replace(first, facts=counted(config))
                if first.facts.training is not None:
                    check_batch(config, first.facts.training)
            else:
                images, reading = _loaded(config, target, loaded)
                first = dataclasses.replace(first, facts=_facts(images, config))
                alike = repr(
                    {
                        name: value
                        for name, value in dataclasses.asdict(config).items()
                        if name not in FREE
                    }
                )
                costs[alike] = costs.get(alike) or measure(config, target, images)
                cost = dataclasses.replace(costs[alike], start=costs[alike].start + reading)
                first = dataclasses.replace(first, cost=cost)
        except WtkitError as error:
            first = dataclasses.replace(first, problem=str(error))
        try:
            first = dataclasses.replace(first, layers=mirror_layers(config, first.facts))
        except WtkitError as error:
            first = dataclasses.replace(first, problem=first.problem or str(error))
        yield group, first


# ----------------------------------------------------------------------------------------- the data


def counted(config: RunConfig) -> Facts:
    """What the data are like, without decoding them; of those that are the same everywhere, without
    having them."""
    facts = known_facts(config)
    if config.data != "image_folder":
        chosen_classes(config, CLASSES[config.data])  # for its error
        return facts
    how = "put your images there, or name another folder with data_root"
    train, test, classes = stored_images(config, Path(config.data_root), how)
    training, held_out = len(train), len(test)
    if config.evaluate_on == "validation":
        training, held_out = split(training)
    return Facts(training, held_out, classes, facts.image_size)


def _facts(images: Data, config: RunConfig) -> Facts:
    size = images.held_out_examples(2)[0].shape[-1]
    return Facts(images.steps(1), images.number_held_out, images.num_classes, size)


def _loaded(
    config: RunConfig, device: torch.device, before: dict[str, tuple[Data, float] | WtkitError]
) -> tuple[Data, float]:
    """The data of a run, read once for all runs that have them, and the seconds that it took."""
    names = (
        "data",
        "data_root",
        "classes",
        "image_size",
        "augment",
        "evaluate_on",
        "workers",
        "batch_size",
    )
    which = repr([getattr(config, name) for name in names])
    if which not in before:
        try:
            clock = _Clock(device)
            before[which] = data.load(config, device), clock.lap()
        except WtkitError as error:
            before[which] = error
    found = before[which]
    if isinstance(found, WtkitError):
        raise found
    return found


# ----------------------------------------------------------------------------------------- the cost


def measure(config: RunConfig, device: torch.device, images: Data) -> Cost:
    """A few steps of a run, and one of everything else that it is made of but its data, by the
    trainer's own code.

    Raises:
        WtkitError: where the run cannot be made, or there is not enough memory.
    """
    keep_memory()
    with (
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        enough_memory(device),
        killed_workers(),
        tempfile.TemporaryDirectory() as folder,
        _Peak(device) as peak,
    ):
        clock = _Clock(device)
        run = Run(config, device, loaded=images)
        run.records.append({})  # as if it had been recorded before training
        # whatever comes first takes longer
        run.engaged_epoch(["measuring"], quiet=True)
        _evaluated(run, 0.0)
        run.alignment()
        start = clock.lap()

        method, mirror = config.loaded_method(), 0.0
        if method.learns_mirror:
            run.mirror(1)
            clock.lap()
            run.mirror(1)
            mirror = clock.lap()
        steps = _steps(run)
        step = clock.lap() / steps
        if method.learns_mirror:  # what is reckoned apart
            schedule = method.mirror_schedule
            step = max(0.0, step - steps // schedule.every * schedule.steps * mirror / steps)
        seen = _evaluated(run, PATIENCE)
        evaluation = clock.lap() * images.number_held_out / seen
        run.alignment()
        agreement = clock.lap()
        write_checkpoint(run.state(), Path(folder, "checkpoint.pt"))
        checkpoint = clock.lap()
    where = json.loads(run.provenance)
    threads = (
        (f", {where['threads']} thread{'s' if where['threads'] > 1 else ''}")
        if device.type == "cpu"
        else ""
    )
    return Cost(
        start,
        step,
        mirror,
        evaluation,
        agreement,
        checkpoint,
        peak.bytes,
        where["device"] + threads,
    )


class _Peak:
    """The most memory in use meanwhile: of a GPU, what was allocated; else of this process, looked
    at every 5 ms."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes, self.ended = device, 0, threading.Event()

    def __enter__(self) -> _Peak:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            # what the last network left; glibc only
            with contextlib.suppress(AttributeError, OSError):
                ctypes.CDLL(None).malloc_trim(0)
            self.watcher = threading.Thread(target=self._watch, daemon=True)
            self.watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device)
        else:
            self.ended.set()
            self.watcher.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self.ended.wait(0.005):
            self.bytes = max(self.bytes, process.memory_info().rss)


class _Clock:
    """The seconds since it was last asked."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.last = device, time.perf_counter()

    def lap(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        before, self.last = self.last, time.perf_counter()
        return self.last - before


def _steps(run: Run) -> int:
    """Take steps for as long as the patience lasts, one at least; returns their number."""
    run.begin_epoch()
    told: list[str] = []
    timer = threading.Timer(PATIENCE, told.append, ["measured"])
    timer.start()
    try:
        stopped = run.engaged_epoch(told, quiet=True)
    finally:
        timer.cancel()
    return run.step if stopped else run.steps


def _evaluated(run: Run, patience: float) -> int:
    """Evaluate for so many seconds, a batch at least; returns the number of images."""
    seen, end = 0, time.perf_counter() + patience

    def some() -> Iterator[Batch]:
        nonlocal seen
        for batch in run.held_out_batches():
            seen += len(batch[1])
            yield batch
            if time.perf_counter() > end:
                return

    run.test_errors(some())
    return seen


# ------------------------------------------------------------------------ networks and first angles


@torch.no_grad()
def mirror_layers(config: RunConfig, facts: Facts) -> list[Layer]:
    """The layers of a run that learn in mirror mode, from a network without values where that can
    be had.

    Raises:
        WtkitError: where the network cannot be made.
    """
    method = config.loaded_method()
    if not mirrors(method):
        return []
    size = facts.image_size
    try:
        # a class of the user's may want values
        with torch.random.fork_rng([]), torch.device("cpu" if ":" in config.network else "meta"):
            model = networks.build(config, num_classes=facts.classes or 10, image_size=size)
            convert_all(model, method, config)
            find_live_taps(model, torch.zeros(2, 3, size, size))
    except WtkitError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = textwrap.shorten(str(error), 120)
        raise WtkitError(
            f"{config.network_name} does not take images of {size} pixels ({reason}); take another "
            "image_size"
        ) from None
    return [
        Layer(
            name,
            inputs=layer.weight[layer.taps][0].numel(),
            fan_in=layer.weight[0].numel(),
            samples=noise_samples(layer),
            phi=method.output_phi if layer.is_output else method.phi,
        )
        for name, layer in feedback_layers(model).items()
        if layer.method.learns_mirror
    ]


@torch.no_grad()
def before_and_after(method: Method, steps: int) -> tuple[tuple[float, float] | None, str]:
    """Matrix angles in degrees, before and after so many updates, of a Gaussian W that stays; and
    why, in words.

    None for a method whose B learns as W does, and for the weight mirror, whose formulas are
    :mod:`wtkit.plan`'s.
    """
    if learns_as_W(method) or mirrors(method):
        return None, ""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(256, 512, generator=generator)
    kept = method.initial(W, generator)
    B = method.feedback_weights(W, kept)
    if B is None:
        return (math.nan, math.nan), "nothing is sent back"
    before = float(angle(B.flatten(), W.flatten()))
    if method.follows and kept is not None:
        for _ in range(min(steps, 2000)):
            kept = method.follow(W, kept, generator)
        after = method.feedback_weights(W, kept)
        assert after is not None
        return (
            before,
            float(angle(after.flatten(), W.flatten())),
        ), "B follows W after every update; this is of a Gaussian W at rest"
    of_another = method.feedback_weights(-W, kept)
    if of_another is not None and not torch.equal(of_another, B):
        return (before, before), (
            "δ travels through W"
        ) if before < 0.1 else "B is made of W; this is of a Gaussian W"
    if method.learns_mirror or method.learns_engaged:
        how = "in mirror mode" if method.learns_mirror else "but not all that W learns"
        return (before, math.nan), f"B learns, {how}: there is no formula"
    where = "of the output layer: " if method.direct else ""
    return (before, before), f"{where}B stays; W may turn towards it"
