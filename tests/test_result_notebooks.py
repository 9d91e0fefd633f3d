"""The notebooks that read results: tidy in the repository, and executed on results of every
shape."""

import ast
from pathlib import Path

import nbformat
import pytest
from synthetic import METHODS, altered, diverge, labels_of, layers, records, synthetic

from wtkit import results
from wtkit.experiments import run_config
from wtkit.results import open_results, settings

FOLDER = Path(__file__).parent.parent / "notebooks"
FILES = {
    "fig3_test_error": ["fig3_test_error.svg", "fig3_test_error.png"],
    "fig4_angles": ["fig4_angles.svg", "fig4_angles.png"],
    "fig_d3_norm_order": ["fig_d3_norm_order.svg", "fig_d3_norm_order.png"],
    "table1_errors": ["table1_errors.html", "table1_errors.csv", "table1_errors.tex"],
    "claims": ["claims.html", "claims.csv"],
}


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


@pytest.mark.parametrize("name", FILES)
def test_committed_without_outputs_and_with_parameters(name):
    notebook = read(name)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    (parameters,) = (cell for cell in code if "parameters" in cell.metadata.get("tags", []))
    assert ast.unparse(ast.parse(parameters.source)) == "results = None\nfigures = None"
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.kernelspec.language == "python"
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


@pytest.mark.parametrize("name", FILES)
def test_code_is_thin_and_free_of_torch(name):
    code = [cell.source for cell in read(name).cells if cell.cell_type == "code"]
    assert all(source.count("\n") < 15 for source in code)
    tree = ast.parse("\n".join(code))
    imported = {
        alias.name
        for step in ast.walk(tree)
        if isinstance(step, ast.Import)
        for alias in step.names
    }
    assert imported <= {"matplotlib.pyplot", "wtkit"}


def all_networks():
    """The paper's two, and one without the choice of norm order."""
    networks = ("resnet18", "resnet50", "vgg11")
    return synthetic(
        networks=networks,
        methods=(*METHODS, "weight_mirror:gaussian"),
        seeds=(0, 1),
        epochs=6,
        drop=4,
    )


def smoke():
    """One network and seed, a method missing, one diverged."""
    tree = synthetic(
        networks=("resnet18",), seeds=(0,), methods=METHODS[:4], both_orders=(), epochs=3, drop=3
    )
    return altered(tree, diverge("weight_mirror", 0, epoch=1))


@pytest.mark.slow
@pytest.mark.parametrize("make", [all_networks, smoke])
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:(papermill|nbclient|jupyter_client|traitlets|zmq).*"
)
@pytest.mark.filterwarnings("ignore::FutureWarning:papermill.*")
def test_executes_and_saves(make, tmp_path, monkeypatch):
    papermill = pytest.importorskip("papermill")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    results.save(make(), tmp_path / "results.nc")
    cells = []  # of all notebooks: a kernel takes longer to start than to execute one of them
    for name, files in FILES.items():
        figures = tmp_path / "figures" / name
        own = read(name).cells
        (parameters,) = (cell for cell in own if "parameters" in cell.metadata.get("tags", []))
        parameters.metadata = {}
        parameters.source = f"results, figures = {str(tmp_path / 'results.nc')!r}, {str(figures)!r}"
        checks = ["import sys\nassert 'torch' not in sys.modules"]
        if files[0].endswith(".svg"):
            checks.append("save_figure(fig, Path(figures) / 'second')")
        cells += [nbformat.v4.new_code_cell("%reset -f"), *own]
        cells += map(nbformat.v4.new_code_cell, checks)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "all.ipynb")
    papermill.execute_notebook(
        tmp_path / "all.ipynb",
        tmp_path / "all-done.ipynb",
        kernel_name="python3",
        language="python",
        progress_bar=False,
    )
    for name, files in FILES.items():
        figures = tmp_path / "figures" / name
        for file in files:
            assert (figures / file).stat().st_size > 0
        if files[0].endswith(".svg"):
            assert (figures / files[0]).read_bytes() == (figures / "second.svg").read_bytes()


@pytest.mark.slow
def test_names_survive_gathering_saving_and_opening(tmp_path):
    import numpy as np

    paths = []
    for method in ("backprop", "weight_mirror"):  # the first is the shorter name
        config = run_config({"method": method, "epochs": 2})
        values = records(config, 1.0, np.random.default_rng(0), 2)
        run = results.dataset(
            values, layers("resnet18"), labels_of(config), network="resnet18", data="digits"
        )
        paths.append(tmp_path / f"{method}.nc")
        results.save(run, paths[-1])
    results.save(results.gather(paths, "names"), tmp_path / "results.nc")
    opened = open_results(tmp_path / "results.nc", quiet=True)["resnet18"]
    assert opened["method"].values.tolist() == ["backprop", "weight_mirror"]
    assert settings(opened.to_dataset().isel(run=1))["method"] == "weight_mirror"
