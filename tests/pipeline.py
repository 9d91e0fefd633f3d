"""Snakemake as a user starts it, and an experiment of seconds."""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml
from images import image_folder

ROOT = Path(__file__).resolve().parent.parent


def command(folder, *arguments):
    words = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        ROOT / "Snakefile",
        "--directory",
        folder,
        *arguments,
    ]
    return list(map(str, words))


def snakemake(folder, *arguments, **environment):
    return subprocess.run(
        command(folder, *arguments),
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
        cwd=ROOT,
    )


# makes plans in forks of itself, which take a quarter of the time of a new Snakemake
PLANNER = """
import json, os, sys
import snakemake.cli, snakemake.report.html_reporter, yte, wtkit.data_sets, wtkit.experiments
for line in sys.stdin:
    arguments, environment, *outputs = json.loads(line)
    child = os.fork()
    if not child:
        for number, path in enumerate(outputs, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.environ.update(environment)
        sys.argv[1:] = arguments
        snakemake.cli.main(arguments)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@contextlib.contextmanager
def planner(folder):
    """What ``snakemake(…)`` does, for plans only. Not on macOS, whose libraries do not take a
    fork."""
    if sys.platform != "linux":
        yield snakemake
        return
    with subprocess.Popen(
        [sys.executable, "-c", PLANNER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    ) as process:  # fmt: skip

        def plan(directory, *arguments, **environment):
            words = command(directory, *arguments)[3:]
            assert "-n" in words
            outputs = [folder / "stdout", folder / "stderr"]
            asked = [words, environment, *map(str, outputs)]
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
            status = int(process.stdout.readline())
            return subprocess.CompletedProcess(words, status, *(p.read_text() for p in outputs))

        yield plan


def planned(done):
    """Jobs of the plan by rule."""
    rows = re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE)
    return {rule: int(count) for rule, count in rows}


def experiment(folder, *, settings=None, **changes):
    """A file of an experiment that takes seconds a run."""
    images = image_folder(folder / "images")
    content = {
        "methods": ["backprop", "kolen_pollack"],
        "networks": [{"resnet18": {"width": 16}}],
        "seeds": [0],
        "settings": {
            "data": "image_folder", "data_root": str(images), "image_size": 8, "epochs": 1,
            "batch_size": 12, "lr": 0.02, "weight_decay": 0.05, "delta_examples": 6,
            **(settings or {}),
        },
    }  # fmt: skip
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return path
