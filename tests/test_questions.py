"""The six questions of docs/questions.md are answered by its code, in at most three lines each."""

import contextlib
import io
import re
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

TEXT = (Path(__file__).resolve().parent.parent / "docs/questions.md").read_text()
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```", re.M | re.S)


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    monkeypatch.delenv("WTKIT_RESULTS", raising=False)
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever style other tests have set
        mpl.use("agg")
        yield
    plt.close("all")


@pytest.mark.slow
def test_the_blocks_run_in_order_and_print_what_the_page_shows():
    plt.close("all")  # another test's
    names, printed, figures = {}, "", 0
    for language, block in BLOCK.findall(TEXT):
        if language == "text":
            assert printed == block
        else:
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(block, names)
            printed = re.sub(" +$", "", output.getvalue(), flags=re.M)
            figures += len(plt.get_fignums())
            plt.close("all")  # as a notebook does after a cell
    assert figures == 3, "two relplots and a heat map"


def test_each_answer_has_at_most_three_lines():
    _, *questions = TEXT.split("\n## ")
    assert len(questions) == 6
    for question in questions:
        blocks = [block for language, block in BLOCK.findall(question) if language == "python"]
        assert blocks and len(blocks[0].splitlines()) <= 3, question.splitlines()[0]
        assert all(block.startswith("print(") for block in blocks[1:])
