"""The report of a whole experiment in a real browser, offline: it fetches nothing, and every file
in it can be looked at. Opt-in: make test-browser."""

import base64
import urllib.parse

import pytest
from pipeline import experiment, snakemake

pytestmark = pytest.mark.slow
KINDS = {"svg", "png", "html", "csv"}


@pytest.fixture(scope="module")
def report(browser, tmp_path_factory):
    """The report of an experiment of seconds, after its figures were drawn. The browser comes
    first: without one, nothing is trained."""
    folder = tmp_path_factory.mktemp("report")
    path = experiment(folder, methods=["backprop", "kolen_pollack", "sign_symmetry"])
    arguments = ("--cores", "2", "--config", f"experiment={path}")
    for more in ([], ["--report", "report.html"]):
        done = snakemake(folder, *arguments, *more)
        assert done.returncode == 0, done.stderr[-4000:]
    return folder / "report.html"


@pytest.fixture
def page(browser, report):
    """The report, opened with the network off; whatever it asks for or cannot do fails the test."""
    context = browser.new_context(offline=True, viewport={"width": 1400, "height": 1000})
    page, complaints = context.new_page(), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url[:200]))
    page.on("request", lambda request: complaints.extend(fetched(request.url)))
    page.goto(report.as_uri())
    page.wait_for_function("window.results && document.querySelector('nav, ul')")
    yield page
    context.close()
    assert complaints == []


def fetched(url):
    """The address if it leads out of the page."""
    return [] if url.startswith(("file:", "data:", "blob:", "about:")) else [url[:200]]


def test_it_begins_with_the_error_table_the_verdicts_and_the_figures(page):
    assert page.locator("figure.drawn svg").count() == 2
    assert page.locator("table").first.inner_text().count("KP") >= 1
    assert "The paper's claims" in page.locator("#app").inner_text()


def test_every_file_can_be_looked_at(page):
    reached = set()
    for category in page.evaluate("Object.keys(categories)"):
        rows = page.locator("table.table-auto tbody tr")
        page.evaluate("app.setView({navbarMode: 'menu'})")  # as one comes from one to another
        rows.first.wait_for(state="detached")
        page.evaluate("name => app.showCategory(name)", category)
        rows.first.wait_for()
        # two files that differ in their format alone are one row with a switch
        switch = page.locator("fieldset label")
        for position in range(switch.count() or 1):
            if switch.count():
                switch.nth(position).click()
            for number in range(rows.count()):
                reached.add(looked_at(page, rows.nth(number)))
    assert reached == set(page.evaluate("Object.keys(results)"))
    assert {name.rpartition(".")[2] for name in reached} == KINDS
    assert len(reached) >= 20


def looked_at(page, row):
    """The path of a row's file, after its button has shown it, or its link has it whole."""
    button = row.locator("a").first
    if button.get_attribute("download"):
        text = content(button.get_attribute("href"))
        assert text.count(",") > 5
        name = button.get_attribute("download")
        (path,) = [p for p in page.evaluate("Object.keys(results)") if p.endswith(f"/{name}")]
        return path
    button.click()
    path = page.evaluate("app.state.resultPath")
    if page.evaluate("app.state.content") == "img":
        page.wait_for_function("document.querySelector('.grow img')?.naturalWidth > 300")
    else:
        frame = page.locator("iframe").content_frame
        assert len(frame.locator("body").inner_text()) > 100, path
        if "/notebooks/fig1" in path:
            assert frame.locator("math").count() > 10, "the equations are there without a script"
    return path


def content(uri):
    """The text of a data URI."""
    head, _, data = uri.partition(",")
    return base64.b64decode(data).decode() if "base64" in head else urllib.parse.unquote(data)
