"""Snakemake as a user starts it, and an experiment of seconds."""

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


def planned(done):
    """Jobs of the plan by rule."""
    rows = re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE)
    return {rule: int(count) for rule, count in rows}


def experiment(folder, *, settings=None, **changes):
    """A file of an experiment that takes seconds a run."""
    images = image_folder(folder / "images")
    content = {
        "methods": ["backprop", "kolen_pollack"],
        "networks": ["resnet18"],
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
