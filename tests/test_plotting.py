"""The figures: style, what is drawn, and what is said of runs that are missing, single or
diverged."""

import functools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from synthetic import METHODS, altered, diverge, note, synthetic

from wtkit import figures, methods
from wtkit.claims import claim_table
from wtkit.errors import WtkitError
from wtkit.figures import (
    LAYER_COLORS,
    LOOKS,
    angle_columns,
    angle_grid,
    angle_note,
    look_of,
    method_legend,
    save_figure,
    save_table,
    set_style,
)
from wtkit.results import FINAL_ERRORS, error_table, method_label

mpl.use("agg")


@pytest.fixture(autouse=True)
def style():
    with mpl.rc_context():
        set_style()
        yield


@functools.cache
def base():
    return synthetic(
        networks=("resnet18",), seeds=(0, 1), methods=(*METHODS, "weight_mirror:gaussian")
    )


def node(*changes):
    tree = base()
    for change in changes:
        tree = altered(tree, change)
    return tree["resnet18"].to_dataset()


def texts(ax):
    return "\n".join(text.get_text() for text in ax.texts)


def lightness(color):
    """CIE L*, 0 for black and 100 for white."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return 116 * np.cbrt(luminance) - 16 if luminance > 0.008856 else 903.3 * luminance


def test_methods_can_be_told_apart_in_grey():
    steps = np.diff(sorted(lightness(how.color) for how in LOOKS.values()))
    assert steps.min() > 12
    assert len({how.marker for how in LOOKS.values()}) == len(METHODS)


def test_layers_grow_lighter_from_input_to_output():
    levels = [lightness(color) for color in LAYER_COLORS(np.linspace(0, 1, 20))[:, :3]]
    assert (np.diff(levels) > 0).all()


def test_every_method_has_a_look_of_its_own():
    looks = [look_of(name) for name in methods.names()]
    assert len({how.color for how in looks}) == len({how.marker for how in looks}) == len(looks)


def test_a_method_beyond_the_papers_has_a_look():
    assert look_of("a_sixth").color not in {how.color for how in LOOKS.values()}


def test_error_curves_are_means_with_bands():
    ax = Figure().subplots()
    figures.test_error(ax, node())
    curves = [line for line in ax.lines if len(line.get_xdata()) == 17]
    assert len(curves) == len(METHODS) + 1, "a variant has its own"
    np.testing.assert_allclose(
        curves[0].get_ydata(), node()["test_error"].isel(run=[0, 1]).mean("run")
    )
    assert len(
        [c for c in ax.collections if isinstance(c, mpl.collections.FillBetweenPolyCollection)]
    ) == len(curves)
    assert ax.get_yscale() == "log"
    assert "mean ± standard error of 2 seeds" in texts(ax)
    assert "paper, ImageNet" in texts(ax)


@pytest.mark.parametrize(
    ("left_out", "error", "angle"),
    [
        ([], "mean ± standard error of 2 seeds", "ResNet-18: 2)"),
        (["kolen_pollack"], "mean ± standard error of 1 to 2 seeds", "ResNet-18: 1 to 2)"),
        # backprop's angles are not drawn
        (["backprop"], "mean ± standard error of 1 to 2 seeds", "ResNet-18: 2)"),
        (METHODS, "one seed: no standard error", "ResNet-18: 1)"),
    ],
)
def test_seeds_are_counted_for_each_mean(left_out, error, angle):
    def without_second_seeds(runs):
        gone = np.isin(runs["method"].values, left_out) & (runs["seed"].values == 1)
        return runs.isel(run=~gone)

    made, ax, fig = node(without_second_seeds), Figure().subplots(), Figure()
    figures.test_error(ax, made)
    assert error in texts(ax)
    angle_note(fig, [made])
    assert angle in note(fig)
    assert note(fig).startswith("Data: digits. One line per layer")


def test_the_key_of_published_errors_keeps_clear_of_the_axis_label():
    made = synthetic(networks=("resnet18",), seeds=(0, 1), data="cifar10")["resnet18"].to_dataset()
    fig = Figure(figsize=(3.5, 3))
    ax = fig.subplots()
    figures.test_error(ax, made)
    fig.draw_without_rendering()
    (key,) = [text for text in ax.texts if "Nakajima" in text.get_text()]
    assert key.get_text().startswith("mean")
    label = ax.xaxis.label.get_window_extent()
    assert not any(text.get_window_extent().overlaps(label) for text in ax.texts)


def test_the_papers_values_stand_at_the_margin():
    ax = Figure().subplots()
    figures.test_error(ax, node())
    drawn = {
        float(line.get_ydata()[0]) for line in ax.lines if line.get_markerfacecolor() == "white"
    }
    assert drawn == {estimate.mean for estimate in FINAL_ERRORS["resnet18", "relu_bn"].values()}


def test_one_seed_has_no_band_and_says_so():
    ax = Figure().subplots()
    figures.test_error(ax, node(lambda n: n.isel(run=n["seed"].values == 0)))
    assert "one seed: no standard error" in texts(ax)


def test_diverged_runs_are_named_and_crossed():
    ax = Figure().subplots()
    figures.test_error(ax, node(diverge("kolen_pollack", 1), diverge("feedback_alignment", 0, 1)))
    assert "KP: 1 of 2 runs diverged" in texts(ax)
    assert "FA: 2 of 2 runs diverged" in texts(ax)
    assert len([line for line in ax.lines if line.get_marker() == "x"]) == 3
    for method, words in (
        ("kolen_pollack", "1 of 2 runs diverged, left out"),
        ("feedback_alignment", "diverged, shown"),
    ):
        ax = Figure().subplots()
        figures.angles(
            ax,
            node(diverge("kolen_pollack", 1), diverge("feedback_alignment", 0, 1)),
            method,
            "matrix_angle",
        )
        assert words in texts(ax)


def test_an_error_of_zero_and_errors_of_tens_of_percent():
    zero = node(lambda n: n["test_error"].values.__setitem__((slice(None), -1), 0.0))
    ax = Figure().subplots()
    figures.test_error(ax, zero)
    ax = Figure().subplots()
    figures.test_error(
        ax, node(lambda n: n["test_error"].values.__setitem__((slice(None), -1), 40.0))
    )
    assert ax.get_yscale() == "linear"


def test_every_layer_is_a_line():
    ax = Figure().subplots()
    figures.angles(ax, node(), "weight_mirror", "matrix_angle")
    layers = [line for line in ax.lines if len(line.get_xdata()) == 17]
    assert len(layers) == node().sizes["layer"]
    assert "paper: < 12°" in texts(ax)


@pytest.mark.parametrize("method", ["feedback_alignment", "kolen_pollack", "weight_mirror"])
def test_words_in_a_panel_hide_no_line(method):
    ax = Figure().subplots()
    figures.angles(ax, node(diverge(method, 1)), method, "matrix_angle")
    layers = [line for line in ax.lines if len(line.get_xdata()) == 17]
    assert ax.texts and layers
    assert max(text.get_zorder() for text in ax.texts) < min(line.get_zorder() for line in layers)


def test_a_method_that_was_not_run_is_said_to_be_missing():
    ax = Figure().subplots()
    figures.angles(
        ax,
        node(lambda n: n.isel(run=n["method"].values != "sign_symmetry")),
        "sign_symmetry",
        "delta_angle",
    )
    assert texts(ax) == "not run"


def test_marks_of_published_errors_are_not_cut_at_the_edge():
    made = synthetic(networks=("resnet18",), seeds=(0, 1), data="cifar10")["resnet18"].to_dataset()
    ax = Figure().subplots()
    figures.test_error(ax, made)
    marks = [line for line in ax.get_lines() if line.get_marker() == "+"]
    assert marks and not any(line.get_clip_on() for line in marks)


def test_angles_over_all_weights_are_called_that():
    for angles_over, expected in (("live weights", False), ("all weights", True)):
        made = node(
            lambda one, word=angles_over: one.assign_coords(
                angles_over=("run", [word] * one.sizes["run"])
            )
        )
        fig = Figure()
        angle_note(fig, [made])
        assert ("over all weights" in note(fig)) is expected


def test_the_name_of_a_network_fits_its_row():
    name = "vit-depth=6,heads=4,mlp_ratio=4,patch=4,width=128"
    made = node(lambda runs: runs.assign_attrs(network=name))
    fig = Figure(figsize=(4, 3.6), layout="constrained")
    axes = fig.subplots(2, 1, squeeze=False)
    angle_grid(axes, made, [("weight_mirror", "")])
    fig.draw_without_rendering()
    heights = [ax.get_window_extent().height for ax in axes[:, 0]]
    labels = [ax.yaxis.label.get_window_extent() for ax in axes[:, 0]]
    assert labels[0].height < 1.2 * heights[0]
    assert not labels[0].overlaps(labels[1])


@pytest.mark.parametrize("width", [2.5, 5, 11])
def test_the_note_below_the_angles_fits_the_figure(width):
    made = [node(lambda runs, n=name: runs.assign_attrs(network=n)) for name in ("resnet18", "vit")]
    fig = Figure(figsize=(width, 3), layout="constrained")
    fig.subplots()
    angle_note(fig, made)
    fig.draw_without_rendering()
    assert fig._supxlabel.get_window_extent().x1 <= fig.bbox.x1


def test_epochs_without_angles_leave_no_gap():
    sparse = node(
        lambda n: n["matrix_angle"].values.__setitem__((slice(None), slice(1, 16, 2)), np.nan)
    )
    ax = Figure().subplots()
    figures.angles(ax, sparse, "weight_mirror", "matrix_angle")
    assert all(np.isfinite(line.get_ydata()).all() for line in ax.lines)


def test_the_grid_has_the_papers_letters_and_what_was_added():
    columns = angle_columns([node()])
    assert [method_label(*column) for column in columns] == ["WM", "KP", "SS", "FA", "WM gaussian"]
    axes = Figure().subplots(2, len(columns), sharex=True, sharey=True)
    angle_grid(axes, node(), columns)
    titles = [ax.get_title(loc="left") for ax in axes.flat]
    assert [title[5] for title in titles if title.startswith("$")] == ["a", "c", "e", "b", "d", "f"]
    assert "FA (added here)" in titles


def test_networks_of_the_grid_keep_their_own_epochs_and_variants():
    longer, shorter = (
        synthetic(networks=(name,), methods=methods, seeds=(0,), epochs=epochs, drop=2)[
            name
        ].to_dataset()
        for name, methods, epochs in (
            ("resnet50", ["weight_mirror"], 8),
            ("resnet18", ["weight_mirror", "weight_mirror:gaussian"], 5),
        )
    )
    columns = angle_columns([longer, shorter])
    axes = Figure().subplots(4, len(columns), sharex="row", sharey=True)
    angle_grid(axes[:2], longer, columns)
    angle_grid(axes[2:], shorter, columns)
    assert [round(ax.get_xlim()[1]) for ax in axes[:, 0]] == [8, 8, 5, 5]
    assert [ax.get_visible() for ax in axes[:, 1]] == [False, False, True, True]
    assert [ax.get_xlabel() for ax in axes[:, 0]] == ["", "epoch", "", "epoch"]


def test_an_experiment_of_ones_own_has_no_empty_panels_and_no_claims_of_the_paper():
    own = synthetic(
        networks=("wide_resnet50_2",), methods=["backprop", "kolen_pollack", "kolen_pollack:slow"],
        seeds=(0,), epochs=16,
    )["wide_resnet50_2"].to_dataset()  # fmt: skip
    columns = angle_columns([own])
    assert [method_label(*column) for column in columns] == ["KP", "KP slow"]
    axes = Figure().subplots(2, len(columns), sharex=True, sharey=True)
    angle_grid(axes, own, columns)
    assert [ax.get_title(loc="left") for ax in axes.flat] == ["KP", "KP slow"] * 2
    ax = Figure().subplots()
    alone = own.assign_coords(
        method=own["method"].where(own["method"] == "backprop", "feedback_alignment")
    )
    figures.angles(ax, alone, "feedback_alignment", "matrix_angle")
    assert "paper" not in texts(ax), "the bound is that of the paper's networks"
    only = node(lambda n: n.isel(run=n["method"].values == "backprop"))
    assert angle_columns([only]) == [("backprop", "")]


def test_variants_have_lines_of_their_own():
    one = synthetic(
        networks=("resnet18",), methods=[*METHODS, "kolen_pollack:slow", "kolen_pollack:fast"],
        seeds=(0, 1), epochs=16,
    )["resnet18"].to_dataset()  # fmt: skip
    fig = Figure(layout="constrained")
    ax = fig.subplots()
    figures.test_error(ax, one)
    lines = [line for line in ax.lines if len(line.get_xdata()) == 17]
    assert len(lines) == len(METHODS) + 2
    looks = {(line.get_color(), str(line._unscaled_dash_pattern)) for line in lines}
    assert len(looks) == len(lines), "no two look alike"
    assert {"KP", "KP slow", "KP fast"} <= set(texts(ax).split("\n"))
    method_legend(fig, [one])
    (legend,) = fig.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert sorted(labels) == sorted(["BP", "FA", "SS", "WM", "KP", "KP slow", "KP fast"])
    fig.canvas.draw()
    assert legend.get_window_extent().width <= fig.bbox.width


def test_published_errors_stand_in_their_methods_column():
    tree = synthetic(networks=("resnet18",), seeds=(0, 1), data="cifar10")
    ax = Figure().subplots()
    figures.test_error(ax, tree["resnet18"].to_dataset())
    strokes = [line for line in ax.lines if line.get_marker() == "+"]
    assert {(line.get_ydata()[0], line.get_color()) for line in strokes} == {
        (8.14, look_of("backprop").color), (18.32, look_of("direct_feedback_alignment").color),
    }  # fmt: skip
    assert "DFA" in texts(ax).split("\n"), "also that of a method that was not run here"
    assert "+ Nakajima et al. (2022)" in texts(ax).split("\n")
    assert all(line.get_ydata()[0] > ax.get_ylim()[0] for line in strokes)
    ax = Figure().subplots()
    figures.test_error(ax, node())
    assert "et al." not in texts(ax), "nobody published errors on digits"


@pytest.mark.parametrize(
    ("data", "classes", "drawn"),
    [("digits", "null", False), ("imagenet", "null", True), ("imagenet", "100", False)],
)
def test_the_value_of_xiao_is_drawn_for_all_classes_of_imagenet_only(data, classes, drawn):
    made = synthetic(networks=("resnet18",), seeds=(0,), data=data)["resnet18"].to_dataset()
    words = [
        text.replace('"classes": null', f'"classes": {classes}') for text in made["settings"].values
    ]
    ax = Figure().subplots()
    figures.norm_order(ax, made.assign_coords(settings=("run", words)))
    assert any("37.91" in text.get_text() for text in ax.get_legend().get_texts()) == drawn


def test_saved_figures_are_the_same_bytes_every_time(tmp_path):
    for name in ("once", "twice"):
        fig = Figure(figsize=(4, 3), layout="constrained")
        figures.test_error(fig.subplots(), node())
        method_legend(fig, [node()])
        save_figure(fig, tmp_path / "new" / name)
        save_figure(fig, tmp_path / "new" / f"{name}_again")
    for ending in ("svg", "png"):
        files = sorted((tmp_path / "new").glob(f"*.{ending}"))
        assert len(files) == 4
        assert len({file.read_bytes() for file in files}) == 1


def test_tables(tmp_path):
    table = pd.DataFrame({"method": ["WM"], "error %": ["1.50 ± 0.10"]})
    for ending in ("html", "csv", "tex"):
        save_table(table, tmp_path / f"t.{ending}", "Errors")
    assert 'charset="utf-8"' in (tmp_path / "t.html").read_text()
    assert (tmp_path / "t.csv").read_text() == "method,error %\nWM,1.50 ± 0.10\n"
    assert r"error \%" in (tmp_path / "t.tex").read_text()
    assert r"1.50 $\pm$ 0.10" in (tmp_path / "t.tex").read_text()
    with pytest.raises(WtkitError, match=r"use \.html, \.csv or \.tex"):
        save_table(table, tmp_path / "t.xls")


def test_another_network_is_drawn_under_its_own_name():
    """And in the order of BatchNorm and ReLU that it has, which no figure may say is the
    paper's."""
    tree = synthetic(networks=("resnet18", "wide_resnet50_2"), seeds=(0, 1))
    other = tree["wide_resnet50_2"].to_dataset()
    left, right = Figure().subplots(1, 2)
    figures.test_error(left, other)
    assert left.get_title(loc="left") == "wide_resnet50_2, digits"
    assert len([line for line in left.lines if len(line.get_xdata()) == 17]) == len(METHODS)
    figures.norm_order(right, other)
    assert "this network has its own order" in texts(right)
    fig = Figure()
    method_legend(fig, [other])
    assert len(fig.legends[0].get_texts()) == len(METHODS)
    axes = Figure().subplots(2, 4)
    angle_grid(axes, other, angle_columns([other]))
    assert axes[0, 0].get_ylabel().startswith("wide_resnet50_2\n")
    assert "not run" not in "".join(texts(ax) for ax in axes.flat)
    rows = error_table(tree)
    assert set(rows[rows["network"] == "wide_resnet50_2"]["BatchNorm"]) == {"the network's own"}
    found = claim_table(tree)
    found = found[found["network"] == "wide_resnet50_2"]
    assert (found["verdict"] == "holds").sum() > 5
    assert "not run with relu_bn: SS" in " ".join(found["remarks"])


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WtkitError, match=r"cannot write .*file/fig"):
        save_figure(Figure(), tmp_path / "file" / "fig")


def shortened(method, epochs):
    """The first run of a method ends after so many epochs."""

    def change(node):
        run = int(np.flatnonzero(node["method"].values == method)[0])
        for name in ("test_error", "matrix_angle", "delta_angle"):
            node[name][{"run": run, "epoch": slice(epochs + 1, None)}] = np.nan

    return change


def test_a_mean_ends_where_the_shortest_run_does():
    shown = node(shortened("kolen_pollack", 5))
    ax = Figure().subplots()
    figures.test_error(ax, shown)
    assert [len(line.get_xdata()) for line in ax.lines].count(6) == 1
    ax = Figure().subplots()
    figures.angles(ax, shown, "kolen_pollack", "matrix_angle")
    layers = [line for line in ax.lines if len(line.get_xdata()) == 6]
    assert len(layers) == shown.sizes["layer"]


def test_an_error_that_is_measured_every_other_epoch_is_a_line():
    def sparse(node):
        node["test_error"][{"epoch": slice(1, None, 2)}] = np.nan

    ax = Figure().subplots()
    figures.test_error(ax, node(sparse))
    curves = [line for line in ax.lines if len(line.get_xdata()) == 9]
    assert len(curves) == len(METHODS) + 1
    assert all(np.isfinite(line.get_ydata()).all() for line in curves)


def test_published_errors_are_not_drawn_beside_another_measure():
    made = synthetic(networks=("resnet18",), seeds=(0, 1), data="cifar10")["resnet18"].to_dataset()
    accuracy = made["test_error"].assign_attrs(units="%", long_name="accuracy")
    made = made.assign(accuracy=accuracy, test_error=made["test_error"] * np.nan)
    made.attrs["metrics"] = "accuracy"
    ax = Figure().subplots()
    figures.test_error(ax, made)
    assert "accuracy" in ax.get_ylabel()
    assert not any(line.get_marker() == "+" for line in ax.lines)


def test_a_final_error_of_zero_is_in_the_margin():
    def zero(node):
        node["test_error"][{"run": node["method"].values == "backprop", "epoch": -1}] = 0

    def small(node):
        return node.assign(test_error=node["test_error"] / 20)

    last, counts = float(node()["epoch"].max()), []
    for changes in ([small], [small, zero]):
        ax = Figure().subplots()
        figures.test_error(ax, node(*changes))
        assert ax.get_yscale() == "log"
        beyond = [line for line in ax.lines if (np.asarray(line.get_xdata()) > 1.05 * last).any()]
        counts.append([line.get_marker() for line in beyond].count("v"))
    assert counts[1] == counts[0] + 1, "BP's; the others are FA's"


def test_long_names_of_variants_leave_the_axes_their_size():
    variant = "lr=0.02,momentum=0.9,weight_decay=0.0001"
    made = synthetic(
        networks=("resnet18",), seeds=(0,), methods=(*METHODS, f"weight_mirror:{variant}")
    )["resnet18"].to_dataset()
    fig = Figure(figsize=(5.2, 3.6), layout="constrained")
    ax = fig.subplots()
    figures.test_error(ax, made)
    method_legend(fig, [made])
    fig.draw_without_rendering()  # a layout that cannot be met is a warning, and so an error
    assert ax.get_window_extent().height > 0.25 * fig.bbox.height
    assert variant not in texts(ax) and "…" in texts(ax)


def test_methods_of_ones_own_and_many_variants_can_be_told_apart():
    own = [look_of(name) for name in ("mine", "yours", "theirs")]
    assert len({how.color for how in own}) == 3
    variants = [look_of("backprop", number) for number in range(40)]
    assert len(set(map(repr, variants))) == 40


def test_a_method_of_ones_own_that_one_network_lacks_was_not_run():
    made = node(lambda n: n.isel(run=n["method"].values == "backprop"))
    own = made.assign_coords(method=("run", ["mine"] * made.sizes["run"]))
    axes = Figure().subplots(2, 1, squeeze=False)
    angle_grid(axes, made, angle_columns([own]))
    assert all("not run" in texts(ax) for ax in axes.flat)


def test_runs_of_several_experiments_have_no_mean():
    made = node()
    names = ["a", "b"] * (made.sizes["run"] // 2)
    joined = made.assign_coords(experiment=("run", np.array(names, dtype=object)))
    for draw in (
        lambda ax: figures.test_error(ax, joined),
        lambda ax: figures.angles(ax, joined, "weight_mirror", "matrix_angle"),
    ):
        with pytest.raises(WtkitError, match=r"several experiments, a, b.*experiment='a'"):
            draw(Figure().subplots())
