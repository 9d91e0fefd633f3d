import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_it_measures_and_says_all_that_the_document_has(tmp_path):
    command = [
        sys.executable,
        "benchmarks/data.py",
        "--number",
        "12",
        "--rounds",
        "1",
        "--output",
        tmp_path / "x.json",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "x.json").read_text())
    for part in ("in_memory", "reading", "packing"):
        for found in results[part].values():
            assert found["images_per_second"] > 0
    written = (ROOT / "docs" / "performance.md").read_text()
    for line in done.stdout.splitlines():
        if line.startswith("|") and "nvJPEG" not in line and " --- " not in line:
            assert line.split("|")[1] in written
