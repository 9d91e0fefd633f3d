"""Fair baselines: each method's own best settings from as many trials."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from synthetic import METHODS, synthetic

from wtkit.errors import WtkitError
from wtkit.figures import (
    best_so_far,
    comparison,
    error_against_trials,
    own_best,
    shared_best,
    trials,
)
from wtkit.results import select

HEAD = "trial,method,validation_error,train_loss\n"


@pytest.fixture
def path(tmp_path):
    """Three trials of two methods, a diverged run among them, one trial of one method only, and an
    option of its own."""
    path = tmp_path / "trials.csv"
    path.write_text(
        HEAD + '"lr=1,weight_decay=0",kolen_pollack,9,0.5\n"lr=1,weight_decay=0",backprop,5,0.1\n'
        '"lr=2,weight_decay=0",backprop,nan,nan\n"lr=2,weight_decay=0",kolen_pollack,4,0.3\n'
        '"lr=3,weight_decay=0",backprop,5,0.05\n"lr=3,weight_decay=0",kolen_pollack,6,0.2\n'
        '"lr=4,weight_decay=0",backprop,1,0.01\n"lr=1,kolen_pollack.apart=true",kolen_pollack,1,0.01\n'
    )
    return path


def test_only_trials_of_all_methods_count(path):
    table = trials(path)
    assert table["trial"].str[3].tolist() == ["1", "1", "2", "2", "3", "3"]
    assert table["method"].tolist() == ["backprop", "kolen_pollack"] * 3


def test_best_so_far_never_rises_and_passes_over_a_diverged_run(path):
    best = best_so_far(trials(path))
    assert best.index.tolist() == [1, 2, 3]
    assert best["backprop"].tolist() == [5, 5, 5]
    assert best["kolen_pollack"].tolist() == [9, 4, 4]


def test_own_best_breaks_ties_by_training_loss_and_the_shared_one_has_no_diverged_run(path):
    table = trials(path)
    assert own_best(table) == {
        "backprop": "lr=3,weight_decay=0",
        "kolen_pollack": "lr=2,weight_decay=0",
    }
    assert shared_best(table) == "lr=3,weight_decay=0"


def test_the_figure_has_a_line_a_method(path):
    _, ax = plt.subplots()
    error_against_trials(ax, trials(path), "ResNet-18")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["BP", "KP"]
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), [9, 4, 4])
    plt.close("all")


def test_the_table_puts_own_best_beside_shared(tmp_path):
    rows = [f'"lr={n}",{method},{10 - n},0.1\n' for n in (1, 2) for method in METHODS]
    (tmp_path / "trials.csv").write_text(HEAD + "".join(rows))
    node = synthetic(networks=["resnet18"])["resnet18"].to_dataset()
    own = select(node, "backprop")
    table = comparison(node, own, trials(tmp_path / "trials.csv")).set_index("method")
    assert table.index.tolist() == ["BP", "FA", "SS", "WM", "KP"]
    assert (table["trials"] == 2).all() and (table["own best settings"] == "lr=2").all()
    shared, best = "test error %, shared settings", "test error %, own best"
    assert table.loc["BP", best] == table.loc["BP", shared] != "–"
    assert (table.loc["FA":, best] == "–").all()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "not a table of trials"),
        ("a,b\n1,2\n", "no column trial, method, validation_error"),
        (
            HEAD + "x,backprop,1,1\ny,kolen_pollack,1,1\n",
            "no trial was run with all of backprop, kolen_pollack",
        ),
    ],
)
def test_what_is_no_table_of_trials_is_named(tmp_path, content, said):
    if content is not None:
        (tmp_path / "trials.csv").write_text(content)
    with pytest.raises(WtkitError, match=said):
        trials(tmp_path / "trials.csv")
