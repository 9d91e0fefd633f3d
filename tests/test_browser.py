"""Pointer, keyboard, switches and sliders in a real browser, offline, and every notebook in
JupyterLab. Opt-in: make test-browser."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from synthetic import synthetic
from test_explore import POINTS, sweep_of

from wtkit import explore

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))
pytestmark = pytest.mark.slow


@pytest.fixture
def opened(browser, tmp_path):
    """Opens an explorer as the output of an executed notebook shows it; returns its frame."""
    context = browser.new_context(offline=True, viewport={"width": 1100, "height": 900})
    complaints = []

    def open_(explorer):
        path = tmp_path / "page.html"
        path.write_text(f"<!DOCTYPE html><meta charset=utf-8>{explorer._repr_html_()}")
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.goto(path.as_uri())
        frame = page.frames[1]
        frame.wait_for_function("window.Bokeh && Bokeh.documents[0]?.is_idle")
        return frame

    yield open_
    context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def tree():
    return synthetic(seeds=(0, 1), epochs=8, drop=6)


def model(frame, name, expression):
    """An expression of the model with this name, ``it``."""
    found = f"[...Bokeh.documents[0]._all_models.values()].filter(m => m.name === '{name}')"
    return frame.evaluate(f"(() => {{ const it = {found}[0]; return {expression} }})()")


def shown_lines(frame):
    found = "[...Bokeh.documents[0]._all_models.values()]"
    kinds = f"{found}.filter(m => m.type === 'GlyphRenderer' && m.visible)"
    return frame.evaluate(f"{kinds}.length")


def test_the_pointer_shows_a_layer_and_the_keyboard_hides_a_method(opened, tree):
    frame = opened(explore.angles(tree))
    before = shown_lines(frame)
    box = frame.locator("input[type=checkbox]").first
    box.focus()
    box.press("Space")
    assert shown_lines(frame) == before - 1
    canvas = frame.locator(".bk-events").first.bounding_box()
    for share in range(20, 80, 2):
        y = canvas["y"] + canvas["height"] * share / 100
        frame.page.mouse.move(canvas["x"] + canvas["width"] / 2, y)
        frame.page.wait_for_timeout(60)
        if frame.get_by_text("fan-in").count():
            break
    else:
        pytest.fail("no tooltip")
    frame.locator("select").first.select_option(label="δ angle")
    assert "δ angle" in frame.evaluate(
        "[...Bokeh.documents[0]._all_models.values()].filter(m => m.type === 'LinearAxis')"
        ".map(m => m.axis_label).join()"
    )


def test_arrow_keys_move_the_slider(opened, tree):
    frame = opened(explore.epochs(tree))
    angle = "[...it.data.angle]"
    assert max(model(frame, "ResNet-18, WM", angle)) < 20, "the last epoch is shown first"
    handle = frame.locator(".noUi-handle").first
    handle.focus()
    for _ in range(8):
        handle.press("ArrowLeft")
    assert model(frame, "slider", "it.value") == 0
    assert min(model(frame, "ResNet-18, WM", angle)) > 80, "the mirror has not learned at epoch 0"


def test_a_heat_map_changes_its_network(opened, tree):
    frame = opened(explore.heat_map(tree))
    menu = frame.locator("select").first
    texts = menu.locator("option").all_inner_texts()
    menu.select_option(label=next(text for text in texts if text.startswith("ResNet-50")))
    assert model(frame, "heat map", "it.y_range.start") == 53.5
    assert model(frame, "heat map", "it.height") > 54 * 14


def test_a_layer_is_chosen_for_errors(opened, tree):
    frame = opened(explore.error_against_angle(tree))
    frame.locator("select").nth(1).select_option(label="fc")
    assert "matrix angle (°), fc" in frame.evaluate(
        "[...Bokeh.documents[0]._all_models.values()].filter(m => m.type === 'LinearAxis')"
        ".map(m => m.axis_label).join()"
    )


def test_a_sweep_of_two_settings_changes_its_axis(opened):
    both = [f"{point},momentum={m}" for point in POINTS for m in (0.1, 0.2, 0.3)]
    frame = opened(explore.sweep(sweep_of(both)))
    frame.locator("input[type=radio]").nth(1).check()
    factors = frame.evaluate(
        "[...Bokeh.documents[0]._all_models.values()].find(m => m.type === 'FactorRange').factors"
    )
    assert factors == ["0.1", "0.2", "0.3"]


# --------------------------------------------------------------------------------------- JupyterLab

EXPLORE = [
    "import wtkit\nresults = wtkit.open_results('digits')",
    "wtkit.explore.angles(results)",
    "wtkit.explore.epochs(results)",
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on copies of all notebooks and one with explorers: its address and its folder."""
    folder = tmp_path_factory.mktemp("lab")
    for name in NOTEBOOKS:
        shutil.copy(ROOT / "notebooks" / name, folder)
    cells = [nbformat.v4.new_code_cell(text) for text in EXPLORE]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "explorers.ipynb")
    options = {
        "ServerApp.port": 0, "ServerApp.open_browser": False, "ServerApp.allow_root": True,
        "IdentityProvider.token": "secret", "ServerApp.root_dir": folder,
        "LabApp.expose_app_in_browser": True, "LabApp.news_url": "",
    }  # fmt: skip
    command = [sys.executable, "-m", "jupyterlab", *(f"--{k}={v}" for k, v in options.items())]
    env = os.environ | {"PYTHONPATH": str(ROOT), "JUPYTER_PREFER_ENV_PATH": "1"}
    env |= {"HOME": str(folder), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True
    ) as server:
        for line in server.stderr:
            if found := re.search(r"(http://(?:localhost|127\.0\.0\.1):\d+)/lab", line):
                break
        else:
            pytest.fail("JupyterLab did not start")
        # its further words must not fill the pipe
        drain = subprocess.Popen(["cat"], stdin=server.stderr, stdout=subprocess.DEVNULL)
        yield found[1], folder
        server.terminate()
        server.wait(30)
        drain.wait(10)


def run_all(browser, lab, name):
    """The page of a notebook in JupyterLab after all cells ran and it was saved."""
    address, _ = lab
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(600_000)  # a busy machine
    # a workspace of its own: JupyterLab opens again what another page of the same one has open
    page.goto(f"{address}/lab/workspaces/{name.removesuffix('.ipynb')}/tree/{name}?token=secret")
    opened = "window.jupyterapp?.shell.currentWidget?.context"
    page.wait_for_function(f"{opened}?.isReady && {opened}.path === '{name}'")
    kernel = page.locator(".jp-Dialog button.jp-mod-accept")
    context = "window.jupyterapp.shell.currentWidget.context"
    for _ in range(120):
        if kernel.count():  # which kernel: the only one
            kernel.first.click()
        status = page.evaluate(f"{context}.sessionContext.session?.kernel?.status")
        if status == "idle":
            break
        page.wait_for_timeout(500)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    # a cell that failed ends the run, and leaves the rest without a number
    page.wait_for_function(f"{context}.sessionContext.session.kernel.status === 'idle'")
    cells = "window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells"
    page.wait_for_function(
        f"{cells}.filter(c => c.cell_type === 'code').every(c => c.execution_count)"
        f" || {cells}.some(c => c.outputs?.some(o => o.output_type === 'error'))"
    )
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_function(f"!{context}.model.dirty")
    return page


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_notebook_runs_in_jupyterlab_and_leaves_the_checkout_clean(browser, lab, name):
    git = ["git", "-C", ROOT, "status", "--porcelain"]
    before = subprocess.run(git, capture_output=True, check=True).stdout
    run_all(browser, lab, name).close()
    cells = [c for c in nbformat.read(lab[1] / name, 4).cells if c.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/svg+xml" in o.get("data", {}) or "image/png" in o.get("data", {})
               or "text/html" in o.get("data", {}) for o in outputs)  # fmt: skip
    assert subprocess.run(git, capture_output=True, check=True).stdout == before


def test_explorers_answer_in_jupyterlab(browser, lab):
    page = run_all(browser, lab, "explorers.ipynb")
    page.locator("iframe").nth(1).wait_for()
    frames = [frame for frame in page.frames if frame != page.main_frame]
    assert len(frames) == 2
    for frame in frames:
        frame.wait_for_function("window.Bokeh && Bokeh.documents[0]?.is_idle")
    before = shown_lines(frames[0])
    frames[0].locator("input[type=checkbox]").first.uncheck()
    assert shown_lines(frames[0]) < before
    handle = frames[1].locator(".noUi-handle").first
    last = model(frames[1], "slider", "it.value")
    handle.focus()
    handle.press("ArrowLeft")
    assert model(frames[1], "slider", "it.value") == last - 1
    page.close()
