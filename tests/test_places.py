"""Places that people run in: a long or missing TMPDIR, and notebooks of other tools."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from images import image_folder

from wtkit import data
from wtkit.__main__ import main
from wtkit.experiments import RunConfig

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "workflow/scripts/execute.py"
STREAM = """
import sys
from wtkit import data
from wtkit.experiments import RunConfig
loaded = data.load(RunConfig(method="backprop", data="image_folder", data_root=sys.argv[1],
                             image_size=80, batch_size=2, workers=1))
print(sum(len(x) for x, _ in loaded.train_batches(2, 0)))
"""


@pytest.fixture(scope="module")
def execute():
    spec = importlib.util.spec_from_file_location("execute", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    module.PrivateKernel._folder.cleanup()


@pytest.fixture
def long_folder(tmp_path):
    folder = tmp_path / ("x" * 137)
    folder.mkdir()
    return folder


def notebook(path, source="x = 1", **metadata):
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=metadata), path)
    return path


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        {"kernelspec": {"name": "gone", "display_name": "Gone"}},
        {"language_info": {"name": "python"}},
    ],
    ids=["none", "whole", "unknown kernel", "language"],
)
def test_parameters_are_found_whatever_metadata_a_notebook_has(execute, tmp_path, metadata):
    path = notebook(tmp_path / "own.ipynb", "results = 'digits'\nfigures: str = None", **metadata)
    before = path.read_bytes()
    assert execute.parameters_of(str(path)) == {"results", "figures"}
    assert path.read_bytes() == before


def test_an_unknown_parameter_of_a_notebook_without_metadata_is_named(execute, tmp_path):
    path = notebook(tmp_path / "own.ipynb")
    with pytest.raises(SystemExit, match=r"own\.ipynb: no parameter y in its cell tagged 'para"):
        execute.main(str(path), str(tmp_path / "executed.ipynb"), "x=1", "y=2")


def test_sockets_of_a_kernel_have_a_path_that_the_system_takes(execute, long_folder, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(long_folder))
    with execute.socket_folder() as folder:
        assert len(folder) < 30
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    with execute.socket_folder() as folder:
        assert Path(folder).parent == Path("/tmp")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["long", "missing"])
def test_a_notebook_without_metadata_is_executed_wherever_temporary_files_go(
    tmp_path, long_folder, where
):
    source, target = (
        notebook(tmp_path / "own.ipynb"),
        tmp_path / "executed.ipynb",
    )
    folder = long_folder if where == "long" else tmp_path / "missing"
    subprocess.run(
        [sys.executable, SCRIPT, source, target, "x=3"],
        check=True,
        env=os.environ | {"TMPDIR": str(folder)},
        timeout=120,
    )
    cells = nbformat.read(target, 4).cells
    assert "x = 3" in cells[1].source


PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
TRAIN = """
import wtkit
from wtkit.experiments import RunConfig
wtkit.train(RunConfig(method="kolen_pollack", network="mlp", image_size=8, classes=2, epochs=1))
"""


@pytest.mark.slow
@pytest.mark.parametrize("environment", [PLAIN, {"PYTHONIOENCODING": "ascii"}], ids=["C", "ascii"])
def test_a_locale_of_ascii_stops_nothing(tmp_path, environment):
    def done(*words):
        command = [sys.executable, *words]
        where = {"cwd": ROOT, "env": os.environ | environment}
        return subprocess.run(command, check=True, capture_output=True, **where).stdout

    assert "°" in done("-m", "wtkit", "plan", "config/smoke.yaml", "--no-measure").decode()
    assert done("-m", "wtkit", "schema") == (ROOT / "config/schema.json").read_bytes()
    assert b"matrix angles" in done("-c", TRAIN)


def test_names_of_files_in_no_encoding_are_read_packed_and_said(tmp_path, capsys):
    root = image_folder(tmp_path / "images", train=2, held_out=1)
    folder = os.fsencode(root / "train" / "class0")
    os.rename(folder + b"/0.png", folder + b"/\xff.png")
    with open(folder + b"/\xfe.b\xffmp", "wb"):
        pass
    assert main(["data", "pack", str(root), str(tmp_path / "pack"), "--workers=0"]) == 0
    assert "passed over 1 file: 1 .b" in capsys.readouterr().out
    for where in (root, tmp_path / "pack"):
        loaded = data.load(
            RunConfig(
                method="backprop", data="image_folder", data_root=str(where), image_size=8,
                batch_size=2,
            )
        )  # fmt: skip
        assert loaded.steps(1) == 6


@pytest.mark.slow
@pytest.mark.parametrize("where", ["long", "missing"])
def test_a_worker_sends_images_wherever_temporary_files_go(tmp_path, long_folder, where):
    folder = long_folder if where == "long" else tmp_path / "missing"
    process = subprocess.Popen(
        [sys.executable, "-c", STREAM, image_folder(tmp_path / "images", train=2, held_out=1)],
        env=os.environ | {"TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    try:
        assert process.communicate(timeout=100)[0] == "6\n"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert list(long_folder.iterdir()) == []
