"""The notebooks that train something live, their numbers held to the predictions. test_pipeline.py
executes two of them, since each takes seconds."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from synthetic import synthetic

from wtkit import results

ROOT = Path(__file__).parent.parent


def execute(name, folder, **parameters):
    """What the executed notebook printed; its figures are in folder/figures."""
    done = folder / f"{name}.ipynb"
    given = [
        f"{key}={value}" for key, value in (parameters | {"figures": folder / "figures"}).items()
    ]
    command = [
        sys.executable,
        ROOT / "workflow/scripts/execute.py",
        ROOT / f"notebooks/{name}.ipynb",
        done,
        *given,
    ]
    run = subprocess.run(map(str, command), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return printed_by(done)


def printed_by(notebook):
    outputs = [out for cell in nbformat.read(notebook, 4).cells for out in cell.get("outputs", [])]
    return "".join(
        out.text for out in outputs if out.output_type == "stream" and out.name == "stdout"
    )


def numbers(notebook):
    return json.loads(printed_by(notebook).strip().splitlines()[-1])


def the_weight_mirror_does_as_its_equations_say(folder):
    """In ``notebooks/fig1_weight_mirror.ipynb`` of the folder, as executed."""
    shown = numbers(folder / "notebooks/fig1_weight_mirror.ipynb")
    for name in ("hidden_by_samples", "output_by_samples"):
        measured, predicted = shown[name]
        np.testing.assert_allclose(measured, predicted, rtol=0.1, err_msg=name)
        assert measured[0] > 40
        assert measured[-1] < 15
    opened, blocked = (np.array(shown[name]) for name in ("bias_open", "bias_blocked"))
    np.testing.assert_allclose(blocked[0], blocked[1], rtol=0.15)
    assert opened[0, -1] > blocked[0, -1] + 5  # biases harm where they are not blocked
    measured, predicted = np.array([shown["norm_with_decay"], shown["norm_without_decay"]]).T
    np.testing.assert_allclose(measured, predicted, rtol=0.1)
    assert measured[1] > 10 * measured[0]  # bounded only with decay
    for name in ("hidden_floor", "output_floor"):
        measured, predicted = shown[name]
        np.testing.assert_allclose(measured, predicted, rtol=0.1, err_msg=name)
    assert all(
        (folder / f"figures/fig1_weight_mirror.{kind}").stat().st_size > 10_000
        for kind in ("svg", "png")
    )


def kolen_pollack_does_as_its_law_says(folder):
    """In ``notebooks/fig2_kolen_pollack.ipynb`` of the folder, as executed."""
    shown = numbers(folder / "notebooks/fig2_kolen_pollack.ipynb")
    assert max(shown["law"].values()) < 0.01
    assert max(shown["momentum"].values()) < 0.01
    assert shown["mismatch"]["0"] == pytest.approx(1, abs=1e-4)  # without decay it stays
    assert min(shown["first_angle"].values()) > 80
    assert shown["last_angle"]["0.005"] < 1
    assert shown["last_angle"]["0"] > 30
    # the price of a large decay
    assert shown["test_error"]["0.0005"] < 8 < shown["test_error"]["0.005"]
    assert all(
        (folder / f"figures/fig2_kolen_pollack.{kind}").stat().st_size > 10_000
        for kind in ("svg", "png")
    )


@pytest.mark.slow
def test_the_tour_can_be_taken(tmp_path):
    results.save(synthetic(seeds=(0, 1), epochs=3, drop=2), tmp_path / "results.nc")
    printed = execute("explore", tmp_path, results=tmp_path / "results.nc", epochs=1)
    assert "BP" in printed
    close, slow, calm = map(float, re.findall(r"test error +([\d.]+) %\n", printed)[-3:])
    assert max(close, calm) < 20 < slow  # a mirror that lags fails where the learning rate is high
    assert (tmp_path / "figures/explore_angle_and_error.svg").exists()
