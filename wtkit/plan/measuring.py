"""Measure what formulas cannot predict: the cost of a few steps, and a network's layers."""

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
from typing import Any

import psutil
import torch
from torch import nn
from tqdm import tqdm

from .. import data, networks
from ..data import Batch, Data, check_batch, chosen_classes, count
from ..data_sets import data_set
from ..errors import WtkitError
from ..experiments import Facts, RunConfig, known_facts
from ..feedback import angle, as_mirrored, feedback_layers, find_live_taps, noise_samples
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
from .advice import LONGEST_LAG
from .formulas import ASSUMED_STEPS, Layer, mirrors
from .inspection import Cost, Inspection, groups
from .stability import tolerates_lag

PATIENCE = 2.0
"""Seconds spent on measuring training steps, and again on evaluation; at least one of each is
measured."""
COST_NEUTRAL = (
    "seed", "variant", "epochs", "lr", "weight_decay", "schedule", "lr_drops", "lr_drop_factor",
    "warmup_epochs", "label_smoothing", "angles_every",
)  # fmt: skip
"""Settings that do not change the cost of a step."""
DATA_SETTINGS = (
    "data", "data_root", "classes", "image_size", "augment", "evaluate_on", "workers", "batch_size"
)  # fmt: skip
"""Settings that determine the loaded data."""


def survey(
    runs: Iterable[RunConfig],
    *,
    measured: bool = True,
    device: str | torch.device | None = None,
) -> Iterator[tuple[list[RunConfig], Inspection]]:
    """Inspect every group of runs that differ only in their seed.

    Args:
        measured: take a few steps of each group; if false, data are counted but not read.
        device: as in :func:`wtkit.train`.

    Missing data, and runs that cannot start, are reported in the inspection's ``problem``.
    """
    grouped = groups(runs)
    surveyor = _Surveyor(find_device(device) if measured else None)
    for group in tqdm(grouped, "measuring", leave=False, disable=None if measured else True):
        yield group, surveyor.inspect(group[0])


class _Surveyor:
    """Inspects runs; loaded data and measured costs are shared between them.

    Args:
        device: where to measure; None to measure nothing.
    """

    def __init__(self, device: torch.device | None) -> None:
        self.device = device
        self.busy = busy_warning() if device is not None and device.type == "cpu" else ""
        self.costs: dict[str, Cost] = {}
        self.loaded: dict[str, tuple[Data, float] | WtkitError] = {}

    def inspect(self, config: RunConfig) -> Inspection:
        steps = config.epochs * (known_facts(config).steps(config) or ASSUMED_STEPS)
        at_rest, course = angles_at_rest(config.loaded_method(), steps)
        fields: dict[str, Any] = {
            "facts": known_facts(config), "at_rest": at_rest, "course": course
        }  # fmt: skip
        try:
            if self.device is None:
                fields["facts"] = facts = count_data(config)
                if facts.training is not None:
                    check_batch(config, facts.training)
            else:
                self._measure(config, self.device, fields)
        except WtkitError as error:
            fields["problem"] = str(error)
        try:
            fields["layers"] = mirror_layers(config, fields["facts"])
            if config.loaded_method().lag > LONGEST_LAG:
                fields["tolerates_lag"] = tolerates_lag(_built(config, fields["facts"]))
        except WtkitError as error:
            fields.setdefault("problem", str(error))
        return Inspection(**fields)

    def _measure(self, config: RunConfig, device: torch.device, fields: dict[str, Any]) -> None:
        """Add the measured fields, as far as the run can start."""
        fields["slow"] = precision_warning(config.precision, device.type, cpu_name())
        fields["busy"] = self.busy
        images, reading = self._load(config, device)
        fields["facts"] = _facts(images, config)
        settings = dataclasses.asdict(config)
        key = repr({name: settings[name] for name in settings if name not in COST_NEUTRAL})
        if key not in self.costs:
            self.costs[key] = measure(config, device, images)
        cost = self.costs[key]
        fields["cost"] = dataclasses.replace(cost, start=cost.start + reading)

    def _load(self, config: RunConfig, device: torch.device) -> tuple[Data, float]:
        """The run's data and the seconds that reading them took; read once for all runs."""
        key = repr([getattr(config, name) for name in DATA_SETTINGS])
        if key not in self.loaded:
            try:
                clock = _Clock(device)
                self.loaded[key] = data.load(config, device), clock.lap()
            except WtkitError as error:
                self.loaded[key] = error
        result = self.loaded[key]
        if isinstance(result, WtkitError):
            raise result
        return result


# ----------------------------------------------------------------------------------------- the data


def count_data(config: RunConfig) -> Facts:
    """Sizes of the data without decoding them; known sizes of the usual data sets without reading
    them."""
    facts = known_facts(config)
    classes = data_set(config.data).classes
    if facts.training is None or classes is None:
        return Facts(*count(config), facts.image_size)
    chosen_classes(config, classes)  # for its error
    return facts


def _facts(images: Data, config: RunConfig) -> Facts:
    size = images.held_out_examples(2)[0].shape[-1]
    return Facts(images.steps(1), images.number_held_out, images.num_classes, size)


# ----------------------------------------------------------------------------------------- the cost


def measure(config: RunConfig, device: torch.device, images: Data) -> Cost:
    """Measure a few steps of a run and one evaluation, record and checkpoint, with the trainer's
    own code.

    Raises:
        WtkitError: if the run cannot start, or there is not enough memory.
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
        run.records.append({})  # stands in for the record of epoch 0
        # first calls are slower, so they count towards the start
        run.engaged_epoch(["measuring"], quiet=True)
        _evaluate_for(run, 0.0)
        run.alignment()
        start = clock.lap()

        method, mirror = config.loaded_method(), 0.0
        if method.learns_mirror:
            run.mirror(1)
            clock.lap()
            run.mirror(1)
            mirror = clock.lap()
        steps = _take_steps(run)
        step = clock.lap() / steps
        if method.learns_mirror:  # mirror steps are counted separately
            schedule = method.mirror_schedule
            step = max(0.0, step - steps // schedule.every * schedule.steps * mirror / steps)
        evaluated = _evaluate_for(run, PATIENCE)
        evaluation = clock.lap() * images.number_held_out / evaluated
        run.alignment()
        alignment = clock.lap()
        write_checkpoint(run.state(), Path(folder, "checkpoint.pt"))
        checkpoint = clock.lap()
    name = _device_name(json.loads(run.provenance), device)
    return Cost(start, step, mirror, evaluation, alignment, checkpoint, peak.bytes, name)


def busy_warning() -> str:
    """Warning that other programs keep cores busy that the measured threads need; otherwise empty.
    Takes 0.3 s.

    Threads that wait for each other on busy cores can be tens of times slower than a single one.
    """
    cores, threads = psutil.cpu_count() or 1, torch.get_num_threads()
    used = cores * psutil.cpu_percent(interval=0.3) / 100
    if cores - used > threads - 0.5:
        return ""
    single = ", and one thread may be faster than several: set OMP_NUM_THREADS=1"
    return (
        f"other programs keep {used:.1f} of {cores} cores busy; on a quiet machine runs are "
        f"faster{single if threads > 1 else ''}"
    )


def _device_name(provenance: dict[str, Any], device: torch.device) -> str:
    name, threads = provenance["device"], provenance["threads"]
    if device.type != "cpu":
        return name
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


class _Peak:
    """Peak memory inside a with block: allocated memory on a GPU, otherwise this process's resident
    memory, sampled every 5 ms."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes, self.ended = device, 0, threading.Event()

    def __enter__(self) -> _Peak:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            # return the last network's memory to the system; glibc only
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
    """Measures the seconds between two calls of ``lap``."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.last = device, time.perf_counter()

    def lap(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        before, self.last = self.last, time.perf_counter()
        return self.last - before


def _take_steps(run: Run) -> int:
    """Train for :data:`PATIENCE` seconds, at least one step; returns the number of steps."""
    run.begin_epoch()
    stop: list[str] = []
    timer = threading.Timer(PATIENCE, stop.append, ["measured"])
    timer.start()
    try:
        stopped = run.engaged_epoch(stop, quiet=True)
    finally:
        timer.cancel()
    return run.step if stopped else run.steps


def _evaluate_for(run: Run, seconds: float) -> int:
    """Evaluate for ``seconds``, at least one batch; returns the number of images."""
    images, end = 0, time.perf_counter() + seconds

    def batches() -> Iterator[Batch]:
        nonlocal images
        for batch in run.held_out_batches():
            images += len(batch[1])
            yield batch
            if time.perf_counter() > end:
                return

    run.test_errors(batches())
    return images


# ---------------------------------------------------------------------- networks and initial angles


@torch.no_grad()
def mirror_layers(config: RunConfig, facts: Facts) -> list[Layer]:
    """The layers of a run that learn in mirror mode.

    Raises:
        WtkitError: if the network cannot be built.
    """
    method = config.loaded_method()
    if not mirrors(method):
        return []
    model = _built(config, facts, converted=True)
    return [
        Layer(
            name,
            inputs=as_mirrored(layer).inputs,
            fan_in=layer.fan_in,
            samples=noise_samples(layer),
            phi=method.output_phi if layer.is_output else method.phi,
        )
        for name, layer in feedback_layers(model).items()
        if layer.method.learns_mirror
    ]


@torch.no_grad()
def _built(config: RunConfig, facts: Facts, *, converted: bool = False) -> nn.Module:
    """The run's network, on the meta device if possible.

    Args:
        converted: convert it, and find its live taps with one batch.

    Raises:
        WtkitError: if the network cannot be built.
    """
    size = facts.image_size
    try:
        # a user's own network may need real values
        with torch.random.fork_rng([]), torch.device("cpu" if ":" in config.network else "meta"):
            model = networks.build(config, num_classes=facts.classes or 10, image_size=size)
            if converted:
                model.eval()(torch.zeros(2, 3, size, size))  # may refuse, in its own words
                convert_all(model.train(), config.loaded_method(), config)
                find_live_taps(model, torch.zeros(2, 3, size, size))
    except WtkitError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = textwrap.shorten(str(error), 120)
        raise WtkitError(
            f"{config.network_name} does not accept images of {size} pixels ({reason}); set "
            "another image_size"
        ) from None
    return model


@torch.no_grad()
def angles_at_rest(method: Method, steps: int) -> tuple[tuple[float, float] | None, str]:
    """Matrix angles in degrees to a constant Gaussian W, before and after ``steps`` updates, with
    an explanation.

    None for a method whose B learns as W does, and for the weight mirror, whose formulas are
    :mod:`wtkit.plan.formulas`'.
    """
    if method.learns_as_W or mirrors(method):
        return None, ""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(256, 512, generator=generator)
    stored = method.initial(W, generator)
    B = method.feedback_weights(W, stored)
    if B is None:
        return (math.nan, math.nan), "no error is sent back"
    before = float(angle(B.flatten(), W.flatten()))
    if method.follows and stored is not None:
        for update in range(1, min(steps, 2000) + 1):
            stored = method.follow(W, stored, generator, update)
        B = method.feedback_weights(W, stored)
        assert B is not None
        after = float(angle(B.flatten(), W.flatten()))
        return (before, after), "B follows W after every update; computed for a constant Gaussian W"
    opposite = method.feedback_weights(-W, stored)
    if opposite is not None and not torch.equal(opposite, B):
        computed = "B is a function of W; computed for a Gaussian W"
        return (before, before), "δ travels through W" if before < 0.1 else computed
    if method.learns_mirror or method.learns_engaged:
        how = "B learns in mirror mode" if method.learns_mirror else "B gets other updates than W"
        return (before, math.nan), f"{how}: there is no formula"
    where = "output layer: " if method.direct else ""
    return (before, before), f"{where}B is constant; W may turn towards it"
