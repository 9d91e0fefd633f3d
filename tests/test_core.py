"""A plain ``pip install wtkit`` converts, trains and opens results; what else needs an extra says
so."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

WORK = """
import torch
import wtkit
from wtkit.__main__ import main
from wtkit.results import select

model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
wtkit.convert(model, "weight_mirror")
wtkit.mirror(model)
assert wtkit.matrix_angles(model).sizes["layer"] == 2
assert "B" not in dict(wtkit.export(model).named_parameters())

words = "--data=digits --network=mlp --image-size=8 --epochs=1 --batch-size=256"
assert main(["train", "--method=kolen_pollack", *words.split(), "--output=run"]) == 0
assert main(["gather", "run/trajectory.nc", "--experiment=mine", "--output=results.nc"]) == 0
results = wtkit.open_results("results.nc")
(node,) = results.children.values()
assert select(node, "kolen_pollack").test_error.notnull().all()
assert main(["plan", "plan.yaml"]) == 0
"""


def run(code, folder):
    command = [sys.executable, "-W", "error", ROOT / "tests/core_only.py", code]
    env = {
        "PYTHONPATH": str(ROOT),
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_it_converts_trains_plans_and_opens_results(tmp_path):
    (tmp_path / "plan.yaml").write_text(
        "methods: [weight_mirror]\nnetworks: [mlp]\nsettings: {data: digits, image_size: 8, "
        "epochs: 1}\n"
    )
    done = run(WORK, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("module", ["figures", "figures.looks"])
def test_figures_name_their_extra_in_one_line(module, tmp_path):
    done = run(f"import wtkit.{module}", tmp_path)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == (
        "wtkit.errors.MissingExtra: matplotlib is not installed; pip install 'wtkit[figures]'"
    )


def test_a_notebook_names_its_extra_in_one_line(tmp_path):
    script = ROOT / "workflow/scripts/execute.py"
    done = run(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')", tmp_path)
    assert done.returncode == 1
    assert done.stderr == "execute.py: nbformat is not installed; pip install 'wtkit[pipeline]'\n"
