"""How cost grows with batch, image size, depth, method, parallel runs and processes per run.

    python benchmarks/scaling.py
        # ten minutes on two quiet cores
    python benchmarks/scaling.py --paper resnet18=15000 resnet50=4000  # measure nothing

The second computes the hours of the whole paper at given rates, in images per second.

Steps are those of benchmarks/steps.py, in seconds of CPU time on one thread: contestants of a point
take turns, and the median of their times is stored. Runs and processes are whole runs of ``wtkit
train``, in wall-clock time, on all cores. Each finished point is stored, and an interrupted
measurement continues after it.
"""

import argparse
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import steps

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "results" / "bench"
WHO = ("plain", "kolen_pollack", "weight_mirror")
SERIES = {
    "batch": [
        dict(network="resnet18", size=32, batch=batch) for batch in (8, 16, 32, 64, 128, 256)
    ],
    "image size": [
        dict(network="resnet18", size=size, batch=8) for size in (32, 64, 96, 128, 160, 224)
    ],
    "depth": [dict(network=f"resnet{depth}", size=64, batch=8) for depth in (18, 34, 50, 101)],
}
AXES = {"batch": "batch", "image size": "size", "depth": "network"}
RUN = [
    "--method=kolen_pollack", "--data=digits", "--network=resnet18", "--batch-size=64",
    "--epochs=3", "--angles-every=3"
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=OUTPUT, help="folder; default: results/bench"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="turns of each contestant there and back"
    )
    parser.add_argument(
        "--paper",
        nargs="+",
        metavar="NETWORK=IMAGES_PER_SECOND",
        help="compute hours, measure nothing",
    )
    given = parser.parse_args()
    if given.paper:
        print(
            paper({name: float(rate) for name, rate in (word.split("=") for word in given.paper)})
        )
        return
    given.output.mkdir(parents=True, exist_ok=True)
    kept = given.output / "scaling.json"
    found: dict[str, Any] = (
        json.loads(kept.read_text()) if kept.exists() else {"machine": machine()}
    )
    jobs: dict[str, Callable[[], Any]] = {
        key(series, point): functools.partial(step_times, point, given.rounds)
        for series, points in SERIES.items()
        for point in points
    }
    jobs |= {f"runs: {number}": functools.partial(side_by_side, number) for number in (1, 2)}
    jobs |= {f"processes: {number}": functools.partial(in_processes, number) for number in (1, 2)}
    for name, measure in jobs.items():
        if name not in found:
            start = time.time()
            found[name] = measure()
            kept.write_text(json.dumps(found, indent=1))
            print(f"{name}  {found[name]}  {time.time() - start:.0f} s", flush=True)
    (given.output / "scaling.md").write_text(table(found))
    draw(found, given.output)
    print(f"{table(found)}\n{given.output}/scaling.{{json,md,png,svg}}")


def label(series: str, point: dict[str, Any]) -> str:
    """Where the point stands in its series."""
    return str(point[AXES[series]]).removeprefix("resnet")


def key(series: str, point: dict[str, Any]) -> str:
    """The key under which the point is stored."""
    return f"{series}: {label(series, point)}"


def machine() -> str:
    import torch

    from wtkit.training import cpu_name

    return f"{cpu_name()}, {os.cpu_count()} cores, torch {torch.__version__}"


def step_times(point: dict[str, Any], rounds: int) -> dict[str, float]:
    """Seconds of the processor a step, by contestant; in a process of its own, whose memory is not
    another point's."""
    code = f"import json, scaling; print(json.dumps(scaling._step_times({point!r}, {rounds})))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _step_times(point: dict[str, Any], rounds: int) -> dict[str, float]:
    import torch

    from wtkit.training import keep_memory

    keep_memory()
    torch.set_num_threads(1)
    experiment = steps.DIGITS if point["size"] == 32 else "imagenet"
    case = steps.Case(name="", rounds=rounds, experiment=experiment, **point)
    times: dict[str, list[float]] = {
        who: [] for who in WHO if who != "weight_mirror" or point["size"] == 32
    }
    field = {who: steps.contestant(case, who) for who in times}
    for one in field.values():
        one.step()
    for _ in range(rounds):
        for who in [*field, *reversed(field)]:
            start = time.process_time()
            field[who].step()
            times[who].append(time.process_time() - start)
    return {who: statistics.median(values) for who, values in times.items()}


def side_by_side(number: int) -> float:
    """Images a second of so many runs at a time together, one thread each, without the first epoch
    and the angles."""
    folder = Path(tempfile.mkdtemp())
    try:
        commands = [
            [
                sys.executable,
                "-m",
                "wtkit",
                "train",
                *RUN,
                f"--seed={seed}",
                "--output",
                str(folder / str(seed)),
            ]
            for seed in range(number)
        ]
        trained = [
            subprocess.Popen(
                command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL
            )
            for command in commands
        ]
        assert not any(process.wait() for process in trained)
        return sum(rate(folder / str(seed)) for seed in range(number))
    finally:
        shutil.rmtree(folder)


def in_processes(number: int) -> float:
    """Images a second of one run in so many processes of one thread each."""
    folder = Path(tempfile.mkdtemp())
    try:
        launch = (
            ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
            if number > 1
            else []
        )
        command = [sys.executable, *launch, "-m", "wtkit", "train", *RUN, "--output", str(folder)]
        subprocess.run(
            command,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=ROOT,
        )
        return rate(folder)
    finally:
        shutil.rmtree(folder)


def rate(folder: Path) -> float:
    """Training images per second of the second epoch, in which no angles are taken."""
    from wtkit.results import open_run

    return 1437 // 64 * 64 / float(open_run(folder / "trajectory.nc").seconds[2])


def table(found: dict[str, Any]) -> str:
    """What was found, as Markdown."""
    lines = [found["machine"], ""]
    for series, points in SERIES.items():
        lines += [
            row(series, "ms per step, plain", "ms per image", "KP ÷ plain", "WM ÷ plain"),
            row(*["---"] * 5),
        ]
        for point in points:
            times = found.get(key(series, point))
            if times is not None:
                plain = times["plain"]
                ratios = [f"{times[who] / plain:.2f}" if who in times else "–" for who in WHO[1:]]
                lines.append(
                    row(
                        label(series, point),
                        f"{1e3 * plain:.0f}",
                        f"{1e3 * plain / point['batch']:.2f}",
                        *ratios,
                    )
                )
        lines.append("")
    lines += [row("one thread each", "images per second"), row("---", "---")]
    lines += [
        row(name, f"{value:.0f}")
        for name, value in found.items()
        if name.startswith(("runs", "processes"))
    ]
    return "\n".join(lines) + "\n"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def draw(found: dict[str, Any], folder: Path) -> None:
    """The three series, in a panel each, on logarithmic axes where they are numbers."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    import seaborn as sns

    from wtkit.figures import save_figure

    sns.set_theme(context="paper", style="ticks")
    figure, axes = plt.subplots(1, len(SERIES), figsize=(9, 3), layout="constrained")
    names = {"plain": "plain torchvision", "kolen_pollack": "KP", "weight_mirror": "WM"}
    for ax, (name, points) in zip(axes, SERIES.items(), strict=True):
        for who in WHO:
            at = [
                (label(name, point), 1e3 * found[key(name, point)][who] / point["batch"])
                for point in points
                if who in found.get(key(name, point), {})
            ]
            if at:
                xs, ys = zip(*at, strict=True)
                ax.plot([float(x) for x in xs], ys, "o-", markersize=3, label=names[who])
        ticks = [float(label(name, point)) for point in points]
        ax.set(
            xscale="log", yscale="log", xlabel=name, xticks=ticks, ylabel="ms per image, one core"
        )
        ax.set_xticks([], minor=True)
        ax.set_xticklabels([f"{tick:g}" for tick in ticks])
    axes[0].legend(frameon=False)
    sns.despine(figure)
    save_figure(figure, folder / "scaling")


def paper(images_a_second: dict[str, float]) -> str:
    """Hours that config/imagenet.yaml takes at these rates of a GPU: altogether, and on 1, 8 and 64
    of them.

    A run has one GPU, and GPUs take the longest run that is left. With more GPUs than runs, the
    longest runs are shared by two, as if two were twice as fast.
    """
    from wtkit.experiments import expand

    hours = []
    for run in expand(ROOT / "config" / "imagenet.yaml"):
        if run.network in images_a_second:
            hours.append(run.epochs * 1_281_167 / images_a_second[run.network] / 3600)
    lines = [f"{len(hours)} runs, {sum(hours):.0f} GPU-hours"]
    for gpus in (1, 8, 64):
        lines.append(f"on {gpus} GPU{'s' * (gpus > 1)}: {makespan(hours, gpus):.1f} hours")
    return "\n".join(lines)


def makespan(hours: list[float], gpus: int) -> float:
    """When the last of the runs ends."""
    jobs = sorted(hours, reverse=True)
    spare = max(0, gpus - len(jobs))
    shared = [job / 2 for job in jobs[:spare]]
    busy = [0.0] * min(gpus, len(jobs))
    for job in [*jobs[spare:], *shared]:
        busy.sort()
        busy[0] += job
    return max(busy)


if __name__ == "__main__":
    main()
