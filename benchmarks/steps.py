"""The cost of a training step compared with plain torchvision backprop, in time and memory, and
of what surrounds the steps.

    python benchmarks/steps.py
        # what fits this machine: 10 minutes on two cores, or on a GPU
    python benchmarks/steps.py --quick        # a look, in two minutes
    python benchmarks/steps.py --case digits  # only the cases whose names contain this
    python benchmarks/steps.py --device cuda
        # stops before its tenth minute; the same command then continues

A case is one network, batch and precision, in its own process. Convolutions in one and three
dimensions are measured in small networks of their own. All its contestants are in memory at
once and take single steps in turn, A B C … C B A; a ratio is that of two sums over such a round. A
step is forward pass, loss, backward pass, the trainer's optimizer and zero_grad, with one fixed
batch; the weight mirror's includes mirror mode. On the CPU, time is CPU time on one thread, which
other load hardly affects. Each finished case is stored, and an interrupted bench continues after
it. BioTorch is included if it is installed.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import io
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("backprop", "feedback_alignment", "sign_symmetry", "kolen_pollack", "weight_mirror")
PEERS = ("biotorch:fa", "biotorch:usf")
OWN = {"conv1d": 1, "conv3d": 3}
"""Networks that are no torchvision's, with the dimensions of their inputs."""
# images per second that the memory of an H200 allows: eager, and with BatchNorm and ReLU fused
LIMITS = {
    ("resnet50", 224): (9_400, 13_000),
    ("resnet18", 224): (44_000, 61_000),
    ("resnet18", 32): (168_000, 232_000),
}


SEQUENCES = ("MultiheadAttention", "RNN", "LSTM", "GRU")
"""Modules of torch.nn that are measured with nothing but a layer that reads their mean output."""
WIDTH = 256
"""Their features."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One network, batch and precision, and who is measured on it.

    Attributes:
        network: of torchvision, or one of :data:`SEQUENCES`.
        size: height and width of the images, or steps of the sequences.
        experiment: the experiment whose options the weight mirror has.
        mode: ``eager``, or torch.compile's mode.
        rounds: pairs of turns there and back.
        burst: steps between two looks at the clock.
        goals: what a contestant's time should be at most, as a ratio to plain torchvision.
        images: what the GPU should reach, images per second.
    """

    name: str
    network: str
    size: int
    batch: int
    rounds: int
    experiment: str
    precision: str = "float32"
    stem: str = "imagenet"
    classes: int = 1000
    contestants: tuple[str, ...] = METHODS
    device: str = "cpu"
    mode: str = "eager"
    burst: int = 1
    goals: dict[str, float] = dataclasses.field(default_factory=dict)
    images: float | None = None

    @property
    def dimensions(self) -> int:
        return OWN.get(self.network, 2)

    @property
    def title(self) -> str:
        of_sequences = self.network in SEQUENCES
        words = [
            self.network.replace("resnet", "ResNet-").replace("conv", "Conv"),
            f"{self.size} steps of {WIDTH}"
            if of_sequences
            else "×".join([str(self.size)] * self.dimensions),
            f"batch {self.batch}",
        ]
        return ", ".join(
            [*words, self.precision, *([] if self.mode == "eager" else [f"compiled ({self.mode})"])]
        )


def _goals(
    fixed: float, kolen_pollack: float | None = None, mirror: float | None = None
) -> dict[str, float]:
    goals = dict.fromkeys(("feedback_alignment", "sign_symmetry"), fixed)
    goals |= {"backprop": 1.0, "kolen_pollack": kolen_pollack or fixed}
    return goals if mirror is None else goals | {"weight_mirror": mirror}


ENGAGED = METHODS[:-1]
AGAIN = "plain:again"
"""Torchvision a second time: what its ratio differs from 1 by is the noise of the measurement."""
NOISE = 0.01
"""Nearer than that to its goal, a ratio says neither yes nor no."""
AT_224 = _goals(1.02)
DIGITS = "digits_full_width"
CPU = [
    Case("resnet18-32-float32", "resnet18", 32, 128, 14, DIGITS, contestants=METHODS + PEERS,
        goals=_goals(1.03)),
    Case("resnet18-32-bf16", "resnet18", 32, 128, 14, DIGITS, "bf16",
         contestants=(*METHODS, AGAIN),
         goals=_goals(1.05, 1.08)),
    Case("resnet18-224-float32", "resnet18", 224, 32, 3, "imagenet", contestants=ENGAGED + PEERS,
        goals=AT_224),
    Case("resnet18-224-bf16", "resnet18", 224, 32, 5, "imagenet", "bf16",
         contestants=(*ENGAGED, AGAIN), goals=AT_224),
    Case("resnet50-224-float32", "resnet50", 224, 16, 2, "imagenet", contestants=ENGAGED,
        goals=AT_224),
    Case("resnet50-224-bf16", "resnet50", 224, 32, 3, "imagenet", "bf16", contestants=ENGAGED,
        goals=AT_224),
    Case("imagenet-mirror", "resnet18", 224, 256, 2, "imagenet", "bf16",
         contestants=("weight_mirror",), goals={"weight_mirror": 1.10}),
    Case("digits-resnet18", "resnet18", 32, 32, 20, DIGITS, classes=10,
         contestants=(*METHODS, "weight_mirror:gaussian", AGAIN), goals=_goals(1.03, mirror=1.6)),
    Case("digits-resnet50", "resnet50", 32, 32, 8, DIGITS, classes=10,
        goals=_goals(1.03, mirror=1.6)),
    Case("attention", "MultiheadAttention", 128, 32, 14, DIGITS, classes=10,
        contestants=(*ENGAGED, AGAIN), goals=_goals(1.05)),
    # a loop over time where torch has a kernel of its own: reported as what it costs
    *(Case(name.lower(), name, 128, 32, 8, DIGITS, classes=10, contestants=(*ENGAGED, AGAIN))
        for name in SEQUENCES[1:]),
    Case("conv1d-float32", "conv1d", 256, 64, 10, DIGITS, classes=10,
         contestants=(*METHODS, AGAIN), goals=_goals(1.05)),
    Case("conv3d-float32", "conv3d", 16, 8, 6, DIGITS, classes=10,
         contestants=(*METHODS, AGAIN), goals=_goals(1.05)),
]  # fmt: skip


def _gpu() -> list[Case]:
    """Every network in every mode; those of the goals first, so that they are there if time runs
    out."""
    cases = []
    goals = _goals(1.02, mirror=1.10)
    for mode in ("default", "eager", "reduce-overhead"):
        for network, size, stem, batch, images in (
            ("resnet50", 224, "imagenet", 256, 5_000.0),
            ("resnet18", 224, "imagenet", 256, 18_000.0),
            ("resnet18", 32, "small", 512, 60_000.0),
            ("resnet18", 32, "small", 128, None),
        ):
            if (mode == "reduce-overhead" and size == 224) or (mode == "default" and batch == 128):
                continue  # launches are a small part of the one; the other asks for CUDA graphs
            cases.append(Case(
                f"cuda-{network}-{size}-{batch}-{mode}", network, size, batch, 8, "imagenet",
                "bf16", stem, device="cuda", mode=mode, burst=10,
                images=images if mode != "eager" else None, goals=goals,
            ))  # fmt: skip
    return cases


GPU = _gpu()

# ----------------------------------------------------------------------------------- one contestant


def contestant(case: Case, who: str) -> "Contestant":
    """``plain`` (torchvision's network without wtkit), a method of wtkit, or
    ``biotorch:<method>``."""
    import torch
    from torch import nn

    import wtkit

    torch.manual_seed(0)
    of_biotorch = who.startswith("biotorch:")
    # the same on both sides of the ratio
    model = _biotorch(case, who.partition(":")[2]) if of_biotorch else _torchs(case)
    if who.partition(":")[0] in METHODS:
        wtkit.convert(model, who.partition(":")[0], seed=0, **_options(case, who))
    assert isinstance(model, nn.Module)
    return Contestant(case, model)


def _torchs(case: Case) -> Any:
    """Torchvision's own network, with a small stem if the case has one; convolutions in one or
    three dimensions; or torch's module, and a layer that reads it."""
    import torchvision
    from torch import nn

    if case.network in SEQUENCES:
        return _reader(case)
    if case.network in OWN:
        return _own(case)
    model = torchvision.models.get_model(case.network, num_classes=case.classes)
    if case.stem == "small":
        model.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model


def _reader(case: Case) -> Any:
    from torch import nn

    class Reader(nn.Module):
        """(N, steps, features) to logits."""

        def __init__(self) -> None:
            super().__init__()
            kind = getattr(nn, case.network)
            self.attends = kind is nn.MultiheadAttention
            self.body = kind(WIDTH, 8 if self.attends else WIDTH, batch_first=True)
            self.head = nn.Linear(WIDTH, case.classes)

        def forward(self, y: Any) -> Any:
            out = self.body(y, y, y, need_weights=False) if self.attends else self.body(y)
            return self.head(out[0].mean(1))

    return Reader()


def _own(case: Case) -> Any:
    """Four convolutions with BatchNorm and a Linear layer, in the case's dimensions."""
    from torch import nn

    convolution = {1: nn.Conv1d, 3: nn.Conv3d}[case.dimensions]
    norm = {1: nn.BatchNorm1d, 3: nn.BatchNorm3d}[case.dimensions]
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 64, 1), (64, 64, 2), (64, 128, 1), (128, 128, 2)):
        layers += [convolution(inputs, outputs, 3, stride, 1, bias=False), norm(outputs)]
        layers += [nn.ReLU(inplace=True)]
    pooling = {1: nn.AdaptiveAvgPool1d, 3: nn.AdaptiveAvgPool3d}[case.dimensions]
    return nn.Sequential(*layers, pooling(1), nn.Flatten(), nn.Linear(128, case.classes))


def _options(case: Case, who: str) -> dict[str, Any]:
    """A method's options in the case's experiment, those for the case's network if it is in
    there."""
    from wtkit.experiments import expand

    method, _, variant = who.partition(":")
    runs = expand(ROOT / "config" / f"{case.experiment}.yaml")
    runs = [run for run in runs if (run.method, run.variant) == (method, variant)]
    if not runs:
        raise LookupError(f"{case.experiment} has no run of {who}")
    return next((run for run in runs if run.network == case.network), runs[0]).options


def _biotorch(case: Case, method: str) -> Any:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
        models = importlib.import_module(f"biotorch.models.{method}")
        return getattr(models, case.network)(num_classes=case.classes)


class Contestant:
    """A network with its optimizer, as the trainer sets them up, and one batch."""

    def __init__(self, case: Case, model: Any) -> None:
        import torch
        from torch.nn import functional as F

        from wtkit.experiments import run_config
        from wtkit.feedback import feedback_layers, find_live_taps, mirror
        from wtkit.training import PRECISIONS, make_optimizer

        generator = torch.Generator().manual_seed(1)
        is_image = case.dimensions == 2 and case.network not in SEQUENCES
        size = (case.size,) * case.dimensions
        shape = (case.size, WIDTH) if case.network in SEQUENCES else (3, *size)
        images = torch.randn(case.batch, *shape, generator=generator)
        labels = torch.randint(case.classes, (case.batch,), generator=generator).to(case.device)
        given = torch.channels_last if is_image else torch.contiguous_format
        images = images.to(case.device, memory_format=given)
        layout = torch.channels_last if case.device == "cuda" else torch.contiguous_format
        self.model = model.to(case.device, memory_format=layout).train()
        forward = (
            self.model
            if case.mode == "eager"
            else torch.compile(self.model, mode=case.mode, fullgraph=True)
        )
        # rates at which no method diverges on a batch that never changes: what is not finite costs
        # other time
        run = run_config({"method": "backprop", "lr": 1e-4, "momentum": 0.9, "weight_decay": 1e-4})
        self.optimizer = make_optimizer(self.model, run)
        mirrors = [
            layer.method
            for layer in feedback_layers(self.model).values()
            if layer.method.learns_mirror
        ]
        dtype = PRECISIONS[case.precision]
        if mirrors:
            find_live_taps(self.model, images[:2])

        def engaged() -> None:
            with torch.autocast(case.device, dtype=dtype, enabled=dtype is not torch.float32):
                loss = F.cross_entropy(forward(images), labels)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

        def step() -> None:
            engaged()
            if mirrors:
                with torch.autocast(case.device, dtype=dtype, enabled=dtype is not torch.float32):
                    mirror(self.model, mirrors[0].mirror_schedule.steps)

        self.step: Callable[[], None] = step

    def lasting_bytes(self) -> int:
        """What stays between two steps: parameters, buffers and the optimizer's momentum."""
        import torch

        tensors = [*self.model.parameters(), *self.model.buffers()]
        tensors += [
            t
            for state in self.optimizer.state.values()
            for t in state.values()
            if isinstance(t, torch.Tensor)
        ]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        return sum(storages.values())


def passing_bytes(step: Callable[[], None], device: str) -> int:
    """The most memory that a step allocates at a time."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    from torch.profiler import ProfilerActivity, profile

    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=False
    ) as profiled:
        step()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(itertools.accumulate(sizes), default=0)


# ----------------------------------------------------------------------------------------- one case


def measure(case: Case) -> dict[str, Any]:
    """The case's record: seconds of every turn and bytes at the peak, by contestant."""
    import torch

    from wtkit.training import keep_memory

    keep_memory()
    if case.device == "cpu":
        torch.set_num_threads(1)
        _keep_large_memory()
    field, failed = _ready_contestants(case)
    lasting = {who: one.lasting_bytes() for who, one in field.items()}
    peak = {who: lasting[who] + passing_bytes(one.step, case.device) for who, one in field.items()}
    return {
        "times": _interleaved_times(field, case),
        "bytes": peak,
        "lasting": lasting,
        "failed": failed,
        "weights": sum(p.nbytes for p in field["plain"].model.parameters()),
    }


def _ready_contestants(case: Case) -> tuple[dict[str, Contestant], dict[str, str]]:
    """The contestants after their first steps, and the errors of those of BioTorch that fail."""
    field, failed = {}, {}
    for who in ("plain", *case.contestants):
        of_biotorch = who.startswith("biotorch:")
        if of_biotorch and importlib.util.find_spec("biotorch") is None:
            continue
        try:
            ready = contestant(case, who)
            for _ in range(3 if case.device == "cuda" else 1):  # compiles, and warms up
                ready.step()
        except Exception as error:
            if not of_biotorch:
                raise
            failed[who] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        else:
            field[who] = ready
    return field, failed


def _interleaved_times(field: dict[str, Contestant], case: Case) -> dict[str, list[float]]:
    """Seconds of every turn. Each round starts with another contestant and goes there and back."""
    times: dict[str, list[float]] = {who: [] for who in field}
    order = list(field)
    for number in range(case.rounds):
        first = number % len(order)
        there = order[first:] + order[:first]
        for who in [*there, *reversed(there)]:
            times[who].append(_seconds(field[who].step, case))
    return times


def _keep_large_memory() -> None:
    """Have the C library keep blocks above 32 MB too, as the trainer does not.

    The kernel hands them out page by page in every step otherwise, and backprop through wtkit was
    then found 5 % slower than torchvision on ResNet-50 in float32, by the same operators
    (docs/performance.md).
    """
    with contextlib.suppress(AttributeError, OSError):  # glibc only
        ctypes.CDLL(None).mallopt(-4, 0)  # M_MMAP_MAX


def _seconds(step: Callable[[], None], case: Case) -> float:
    """Seconds of one step, as the mean of a burst of steps: CPU time on the CPU, wall time on a
    GPU, which is waited for only before and after the burst."""
    if case.device == "cpu":
        start = time.process_time()
        for _ in range(case.burst):
            step()
        return (time.process_time() - start) / case.burst
    import torch

    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(case.burst):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / case.burst


# ------------------------------------------------------------------------- what surrounds the steps


def measure_recording(quick: bool = False) -> dict[str, Any]:
    """The share of an epoch that its record of the angles takes, on one thread."""
    import torch

    from wtkit.experiments import expand
    from wtkit.training import Run

    torch.set_num_threads(1)
    shares = {}
    for network in ("resnet18",) if quick else ("resnet18", "resnet50"):
        config = next(
            run
            for run in expand(ROOT / "config/digits_full_width.yaml")
            if (run.method, run.network) == ("kolen_pollack", network)
        )
        run = Run(config, torch.device("cpu"))
        run.records.append({})  # what is before training; the first epoch follows
        epoch = _processor(lambda run=run: run.engaged_epoch([], quiet=True))
        angles = _processor(lambda run=run: _record(run.model, run.examples), repeats=3)
        shares[f"digits, {network}"] = {"angles": angles, "epoch": epoch, "goal": 0.15}
    if not quick:
        case = Case("", "resnet18", 224, 16, 1, "imagenet")
        one = contestant(case, "kolen_pollack")
        step = _processor(one.step, repeats=3)
        examples = torch.randn(64, 3, 224, 224), torch.randint(1000, (64,))
        angles = _processor(lambda: _record(one.model, examples))
        epoch = step * 1_281_167 / case.batch  # ImageNet's training images
        shares["ImageNet, resnet18 at 224×224"] = {"angles": angles, "epoch": epoch, "goal": 0.02}
    return shares


def _record(model: Any, examples: Any) -> None:
    from wtkit.feedback import delta_statistics, feedback_norm_ratios, matrix_angles

    matrix_angles(model)
    feedback_norm_ratios(model)
    delta_statistics(model.train(), *examples)


def _processor(do: Callable[[], Any], repeats: int = 1) -> float:
    """The least of some times of ``do``, in seconds of the processor; once more to warm up, where
    it is repeated."""
    times = []
    for _ in range(repeats + (repeats > 1)):
        start = time.process_time()
        do()
        times.append(time.process_time() - start)
    return min(times[-repeats:])


BLANK = "pass"
HELP = (
    "import sys; sys.argv = ['wtkit', '--help']; import wtkit.__main__ as m\ntry: "
    "m.main()\nexcept SystemExit: pass"
)
IMPORT = "import wtkit"
FIRST_STEP = """
import time, torch
torch.set_num_threads(1)
import sklearn.datasets, sklearn.model_selection, wtkit.training
from torch.optim.optimizer import register_optimizer_step_post_hook
from wtkit.experiments import expand
class Stepped(Exception): pass
def stepped(*_): raise Stepped
register_optimizer_step_post_hook(stepped)
run = next(r for r in expand({experiment!r}) if (r.method, r.network) == ({method!r}, "resnet18"))
start = time.process_time()
try: wtkit.training.train(run, quiet=True)
except Stepped: pass
"""
SPENT = "\nimport sys, time; print(time.process_time() - start, file=sys.stderr)"


def processor_seconds(code: str, best_of: int = 3) -> float:
    """The least time of the processor that a new Python takes for ``code``, from its ``start`` if
    it sets one."""
    times = []
    for _ in range(best_of):
        command = [
            sys.executable,
            "-c",
            ("" if "start =" in code else "start = 0\n") + code + SPENT,
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=ROOT, env=_environment()
        )
        times.append(float(done.stderr.splitlines()[-1]))
    return min(times)


def first_step(method: str) -> str:
    """Code that trains a run of the default experiment up to its first step, counted from the end
    of the imports."""
    return FIRST_STEP.format(experiment=str(ROOT / "config/digits_full_width.yaml"), method=method)


def measure_start(quick: bool = False) -> dict[str, Any]:
    """How long it takes to begin, in seconds of the processor."""
    found = {
        "wtkit --help": {"seconds": processor_seconds(HELP, 5), "goal": 0.5},
        "import wtkit": {"seconds": processor_seconds(IMPORT, 5), "goal": 0.3},
    }
    for method in ("backprop",) if quick else METHODS:
        found[f"first step, {method}"] = {
            "seconds": processor_seconds(first_step(method), 2),
            "goal": 3.0,
        }
    return found


def _environment() -> dict[str, str]:
    """This process's environment, without the profiler's log, and with compiled bytecode stored
    elsewhere if PYTHONDONTWRITEBYTECODE is set."""
    environment = os.environ | {"KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    if environment.pop("PYTHONDONTWRITEBYTECODE", ""):
        environment.setdefault(
            "PYTHONPYCACHEPREFIX", os.path.join(tempfile.gettempdir(), "wtkit-bytecode")
        )
    return environment


SURROUNDINGS = {"recording": measure_recording, "start": measure_start}

# -------------------------------------------------------------------------------------- all of them


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="default: both, or the CPU where there is no GPU"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "results/bench")
    parser.add_argument("--case", default="", help="only the cases whose names contain this")
    parser.add_argument(
        "--minutes", type=float, help="start no further case after so long; default on a GPU: 7"
    )
    parser.add_argument("--quick", action="store_true", help="two rounds, without the large cases")
    parser.add_argument("--again", action="store_true", help="repeat measurements that are stored")
    # the one case that a process is started for
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.only:
        print(json.dumps(_measure(given.only, given.quick)))
        return
    # the longest case there takes about 3
    minutes = given.minutes or (7.0 if given.device == "cuda" else math.inf)
    begin = time.monotonic()
    folder = given.output / "cases"
    folder.mkdir(parents=True, exist_ok=True)
    names = [name for name in _names(given.device, given.quick) if given.case in name]
    if not names:
        parser.error(f"no case has {given.case!r} in its name")
    for number, name in enumerate(names, 1):
        path = folder / f"{name}.json"
        if not given.again and _fresh(path, given.quick):
            print(f"[{number}/{len(names)}] {name}: kept", flush=True)
        elif time.monotonic() - begin > 60 * minutes:
            print(
                f"[{number}/{len(names)}] {name}: no time left; the same command continues here",
                flush=True,
            )
        else:
            print(f"[{number}/{len(names)}] {name} …", end=" ", flush=True)
            start = time.monotonic()
            _keep(path, given.quick)
            print(
                f"{time.monotonic() - start:.0f} s, {(time.monotonic() - begin) / 60:.1f} min in "
                "all",
                flush=True,
            )
    report(given.output)


def _names(device: str | None, quick: bool) -> list[str]:
    if device is None:
        import torch

        devices = ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",)
    else:
        devices = (device,)
    names = [case.name for device in devices for case in {"cpu": CPU, "cuda": GPU}[device]]
    if "cpu" in devices:
        names += SURROUNDINGS
    return (
        [name for name in names if "resnet50-224" not in name and name != "imagenet-mirror"]
        if quick
        else names
    )


def _measure(name: str, quick: bool) -> dict[str, Any]:
    """One case in this process: its record, and what it depends on."""
    from wtkit.training import describe_provenance

    if name in SURROUNDINGS:
        record: dict[str, Any] = {"found": SURROUNDINGS[name](quick)}
        device = "cpu"
    else:
        case = next(case for case in CPU + GPU if case.name == name)
        case = dataclasses.replace(case, rounds=min(case.rounds, 2)) if quick else case
        record = {"case": dataclasses.asdict(case), **measure(case)}
        device = case.device
    import torch

    return {"name": name, "quick": quick, "sources": _sources(name), **record} | json.loads(
        describe_provenance(torch.device(device))
    )


def _keep(path: Path, quick: bool) -> None:
    """Measure a case in a process of its own and keep its record."""
    command = [sys.executable, __file__, "--only", path.stem, *(["--quick"] if quick else [])]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=False, cwd=ROOT, env=_environment()
    )
    if done.returncode:
        sys.exit(f"{path.stem} failed; the same command continues here")
    partial = path.with_suffix(".partial")
    partial.write_text(done.stdout.splitlines()[-1])
    os.replace(partial, path)


def _fresh(path: Path, quick: bool) -> bool:
    """Whether the record is of this wtkit and this case, and of as many rounds."""
    if not path.exists():
        return False
    record = json.loads(path.read_text())
    return record.get("sources") == _sources(path.stem) and record["quick"] <= quick


def _sources(name: str) -> str:
    """A digest of what a case's numbers depend on: wtkit's code, the case, PyTorch, and the GPU if
    it is for one."""
    digest = hashlib.sha256(importlib.metadata.version("torch").encode())
    cases = [case for case in CPU + GPU if case.name == name]
    digest.update(repr(cases).encode())
    if any(case.device == "cuda" for case in cases):
        import torch

        digest.update(torch.cuda.get_device_name().encode())
    for file in sorted((ROOT / "wtkit").rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


# ------------------------------------------------------------------------------------------- report


def report(output: Path) -> None:
    """Write what there is as a table, JSON and a figure, and print the table."""
    order = [case.name for case in GPU + CPU] + list(SURROUNDINGS)
    records = [json.loads(path.read_text()) for path in (output / "cases").glob("*.json")]
    records.sort(
        key=lambda record: order.index(record["name"]) if record["name"] in order else len(order)
    )
    rows = [row for record in records for row in summary(record)]
    (output / "steps.json").write_text(
        json.dumps({"rows": rows, "records": records}, indent=1) + "\n"
    )
    text = table(records)
    (output / "steps.md").write_text(f"# Time and memory of a step\n\n{text}")
    print(f"\n{text}")
    steps = [record for record in records if "case" in record]
    if steps:
        figure(steps, output / "steps")
    print(f"{output}: steps.md, steps.json" + (", steps.svg, steps.png" if steps else ""))


def paired(times: list[float], others: list[float]) -> list[float]:
    """A round's ratio: its turn there and its turn back, over the other's."""
    ours, theirs = (
        [there + back for there, back in zip(t[::2], t[1::2], strict=True)] for t in (times, others)
    )
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def summary(record: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per contestant of a case."""
    if "case" not in record:
        return []
    case, times = record["case"], record["times"]
    beside, graphs = times.get("backprop"), case["mode"] == "reduce-overhead"
    rows = []
    for who in times:
        low, ratio, high = quartiles(paired(times[who], times["plain"]))
        seconds = statistics.median(times[who])
        goal = case["goals"].get(who)
        images = case["batch"] / seconds
        limit = LIMITS.get((case["network"], case["size"])) if case["device"] == "cuda" else None
        rows.append(
            {
                "case": record["name"],
                "contestant": who,
                "device": record["device"],
                "milliseconds": 1e3 * seconds,
                "ratio": ratio,
                "ratio_low": low,
                "ratio_high": high,
                "goal": goal,
                "ratio_to_backprop": statistics.median(paired(times[who], beside))
                if beside
                else None,
                "met": goal is None or ratio <= goal,
                "within_noise": goal is None or ratio - NOISE <= goal,
                "images_per_second": images,
                "images_goal": case["images"],
                "share_of_limit": None
                if limit is None
                else images / limit[case["mode"] != "eager"],
                # a CUDA graph has its memory from the start, and its replay asks the allocator for
                # none
                "megabytes": None if graphs else record["bytes"][who] / 1e6,
                "weight_copies": None
                if graphs
                else (record["bytes"][who] - record["bytes"]["plain"]) / record["weights"],
            }
        )
    return rows


def table(records: list[dict[str, Any]]) -> str:
    """Markdown, one table a case."""
    parts = []
    for record in records:
        if "case" not in record:
            parts.append(_surroundings(record))
            continue
        case = Case(**record["case"])
        gpu = case.device == "cuda"
        head = ["", "ms", "÷ plain", "quartiles", "goal", "", "÷ wtkit's BP", "MB", "weights more"]
        head += ["images/s", "goal", "of an H200's limit"] if gpu else []
        title = f"**{case.title}** ({record['device']}, {case.rounds} rounds)"
        lines = [title, "", _line(head), _line(["---"] * len(head))]
        for row in summary(record):
            goal, beside = row["goal"], row["ratio_to_backprop"]
            verdict = (
                ""
                if goal is None
                else "met"
                if row["met"]
                else "within noise"
                if row["within_noise"]
                else "no"
            )
            cells = [
                row["contestant"], f"{row['milliseconds']:.1f}", f"{row['ratio']:.3f}",
                f"{row['ratio_low']:.3f}–{row['ratio_high']:.3f}",
                "" if goal is None else f"{goal:.2f}", verdict,
                "" if beside is None else f"{beside:.3f}",
                "" if row["megabytes"] is None else f"{row['megabytes']:.0f}",
                "" if row["weight_copies"] is None else f"{row['weight_copies']:.2f}",
            ]  # fmt: skip
            if gpu:
                share = row["share_of_limit"]
                cells += [
                    f"{row['images_per_second']:,.0f}",
                    f"{case.images:,.0f}" if case.images else "",
                ]
                cells += ["" if share is None else f"{100 * share:.0f} %"]
            lines.append(_line(cells))
        lines += [f"\n{who}: {why}" for who, why in record["failed"].items()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _surroundings(record: dict[str, Any]) -> str:
    lines = []
    if record["name"] == "recording":
        lines = [_line(["angles per record", "s", "epoch, s", "share", "goal"]), _line(["---"] * 5)]
        for what, found in record["found"].items():
            share = f"{100 * found['angles'] / found['epoch']:.2g} %"
            goal = f"{100 * found['goal']:.0f} %"
            lines.append(
                _line([what, f"{found['angles']:.2f}", f"{found['epoch']:.1f}", share, goal])
            )
    else:
        lines = [_line(["to begin", "s", "goal"]), _line(["---"] * 3)]
        for what, found in record["found"].items():
            lines.append(_line([what, f"{found['seconds']:.2f}", f"{found['goal']:.1f}"]))
    return "\n".join(lines)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def figure(records: list[dict[str, Any]], stem: Path) -> None:
    """Each contestant's ratio to plain torchvision with its quartiles, a panel a case; a tick is
    the goal."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    from wtkit.figures import GREY, look_of, save_figure, set_style

    set_style()
    columns = 3 if len(records) > 2 else len(records)
    height = -(-len(records) // columns)
    fig, axes = plt.subplots(height, columns, figsize=(3.8 * columns, 2 * height), squeeze=False)
    for ax, record in itertools.zip_longest(axes.flat, records):
        if record is None:
            ax.set_axis_off()
            continue
        rows = [row for row in summary(record) if row["contestant"] != "plain"]
        for position, row in enumerate(rows):
            look = look_of(row["contestant"].partition(":")[0])
            ax.plot([row["ratio_low"], row["ratio_high"]], [position] * 2, color=look.color, lw=1.5)
            ax.plot(row["ratio"], position, color=look.color, marker=look.marker, ls="")
            if row["goal"] is not None:
                ax.plot(row["goal"], position, color=GREY, marker="|", ms=12, ls="")
        ax.axvline(1, color=GREY, lw=0.8, zorder=0)
        ax.set_yticks(range(len(rows)), [row["contestant"].replace("_", " ") for row in rows])
        ax.invert_yaxis()
        ax.set_title(Case(**record["case"]).title, fontsize=8)
        ax.margins(x=0.1)
    fig.supxlabel("time of a step ÷ plain torchvision's; grey ticks: the goals", fontsize=9)
    save_figure(fig, stem)


if __name__ == "__main__":
    main()
