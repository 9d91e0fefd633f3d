"""Ablations of every shape, from made-up runs to their tables and figures."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from matplotlib.colors import to_hex
from synthetic import labels_of, layers, note, records

import wtkit
from wtkit.experiments import expand
from wtkit.figures import ablation, set_style
from wtkit.plan import mismatch
from wtkit.results import config_of, data_label, dataset, store

ONE = {"sweep": {"weight_decay": [0, 0.1, 1.0]}}
SHAPES = {
    "one quantity": ONE,
    "an option": {"sweep": {"mirror_lr": [0.01, 0.05, 0.25]}, "methods": ["weight_mirror"]},
    "two quantities": {"sweep": {"lr": [0.01, 0.1], "weight_decay": [0, 0.1, 1.0]}},
    "three quantities": {"sweep": {"lr": [0.01, 0.1], "weight_decay": [0, 1.0],
        "momentum": [0, 0.9]}},
    "lists": {"sweep": {"lr_drops": [[], [1, 2]]}},
    "names": {"variants": {"as_it_is": {}, "fast": {"lr": 1}},
        "norm_orders": ["relu_bn", "bn_relu"]},
    "two networks": ONE | {"networks": ["resnet18", "resnet50"]},
    "one seed": ONE | {"seeds": [0]},
    "other networks": ONE | {"networks": ["resnet18", "vgg11"]},
    "layers on backprop": {"sweep": {"backprop": [[], ["fc"]]}},
    "an option of mlp": {
        "networks": ["mlp"], "methods": ["backprop"], "sweep": {"activation": ["tanh", "relu"]},
    },
    "layers kept on backprop": {"sweep": {"keep_on_backprop": [[], ["fc"]]}},
    "of a variant": {"methods": ["weight_mirror:fast"], "sweep": {"lr": [0.1, 0.01]}},
    "names with a sign": {
        "variants": {"rate=low": {"lr": 0.1}, "rate=high": {"lr": 1}},
    },
    "networks swept": {"sweep": {"network": ["resnet50", "vgg11", "resnet18"]}},
    "norm orders swept": {"sweep": {"norm_order": ["relu_bn", "bn_relu"]}},
    "networks and a quantity": {"sweep": {"network": ["resnet50", "resnet18"], "lr": [0.1, 0.01]}},
    "an mlp's options": {
        "networks": ["mlp"], "methods": ["weight_mirror"],
        "sweep": {"bias_blocking": [False, True], "unit": ["tanh", "relu"]},
    },
    "named networks": {
        "variants": {
            "small": {"network": "vgg11"}, "a_network": {"network": "mlp", "unit": "tanh"},
            "after": {"norm_order": "relu_bn"}, "before": {"norm_order": "bn_relu"},
        },
    },
    "difficulty": {
        "variants": {
            "digits": {}, "CIFAR-10": {"data": "cifar10"}, "few": {"data": "image_folder"},
            "many": {"data": "tiny_imagenet", "classes": 100},
        },
    },
}  # fmt: skip


@pytest.fixture
def results(tmp_path):
    """Gathered made-up runs of an ablation, a node a network."""

    def build(content):
        base = {
            "methods": ["backprop", "kolen_pollack"],
            "networks": ["resnet18"],
            "settings": {"epochs": 4},
        }
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
        path = tmp_path / "mine.yaml"
        path.write_text(
            yaml.safe_dump({"base": "base", "seeds": [0, 1]} | content, sort_keys=False)
        )
        rng, nodes = np.random.default_rng(0), {}
        for number, run in enumerate(expand(path)):
            values = records(run, 5 + number, rng, 4)
            made = dataset(
                values, layers(run.network), labels_of(run), network=run.network_name, data=run.data
            )
            nodes.setdefault(run.network_name, []).append(made)
        return [store.join_runs(runs) for runs in nodes.values()]

    return build


@pytest.mark.parametrize(
    ("shape", "keys"),
    [
        ("one quantity", ["weight_decay"]),
        ("two quantities", ["lr", "weight_decay"]),
        ("lists", ["lr_drops"]),
        ("names", ["variant"]),
        ("norm orders swept", ["norm_order"]),
        ("difficulty", ["variant"]),
        ("layers kept on backprop", ["keep_on_backprop"]),
        ("of a variant", ["variant"]),
        ("names with a sign", ["variant"]),
    ],
)
def test_what_was_swept_is_read_off_the_runs(shape, keys, results):
    (node,) = results(SHAPES[shape])
    assert ablation.swept(node) == keys
    points = ablation.runs(node)[keys].drop_duplicates()
    assert len(points) == len(np.unique(node["variant"])), "each point has a label of its own"


def test_an_option_of_mlp_has_its_name_and_value_in_every_record(results):
    nodes = results(SHAPES["an option of mlp"])
    assert [ablation.swept(node) for node in nodes] == [["activation"]] * 2
    assert [set(ablation.runs(node)["activation"]) for node in nodes] == [{"tanh"}, {"relu"}]


def test_the_table_has_a_row_a_run_with_what_it_ended_with(results):
    (node,) = results(ONE)
    node["status"][3] = "diverged"
    table = ablation.runs(node)
    assert table["weight_decay"].tolist() == [0, 0.1, 1.0] * 4
    assert table["seed"].tolist() == [0, 0, 0, 1, 1, 1] * 2
    for index, row in table.iterrows():
        run = node.isel(run=index)
        expected = [
            run.test_error.values[-1],
            np.mean(run.matrix_angle.values[-1]),
            np.max(run.matrix_angle.values[-1]),
            np.mean(run.delta_angle.values[-1, :-1]),  # the output layer's is 0 by construction
        ]
        found = row[["test_error", "matrix_angle", "matrix_angle_max", "delta_angle"]].to_list()
        np.testing.assert_allclose(found, np.full(4, np.nan) if index == 3 else expected)


def test_the_epochs_are_those_of_the_runs(results):
    (node,) = results(ONE)
    table = ablation.epochs(node)
    last = table[
        (table.epoch == 4)
        & (table.method == "kolen_pollack")
        & (table.weight_decay == 1)
        & (table.seed == 1)
    ]
    (index,) = np.flatnonzero(
        (node["method"] == "kolen_pollack")
        & (node["variant"] == "weight_decay=1.0")
        & (node["seed"] == 1)
    )
    assert last["test_error"].item() == node["test_error"].isel(run=index, epoch=4).item()
    assert last["delta_angle"].item() == pytest.approx(
        node["delta_angle"][index, 4, :-1].mean().item()
    )


def test_the_axis_says_which_layers_a_mean_is_over(results):
    (node,) = results(ONE)
    fig = ablation.draw([node])
    matrix, delta = (" ".join(ax.get_ylabel().split()) for ax in fig.axes[1:3])
    assert matrix.endswith("mean over layers") and delta.endswith("mean over layers but the output")
    fig.draw_without_rendering()
    for ax in fig.axes[:3]:
        assert ax.yaxis.label.get_window_extent().height < 1.1 * ax.get_window_extent().height
    plt.close(fig)


@pytest.mark.parametrize(
    ("names", "label"),
    [(["0.25", "4"], "variant"), (["as_it_is", "4"], ""), (["fast", "slow"], "")],
)
def test_named_points_have_an_axis_label_if_the_names_are_numbers(names, label, results):
    variants = {name: {"lr": 0.1 * (1 + number)} for number, name in enumerate(names)}
    fig = ablation.draw(results({"variants": variants}))
    assert {ax.get_xlabel() for ax in fig.axes[:3]} == {label}
    plt.close(fig)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_drawn(shape, results):
    set_style()
    nodes = results(SHAPES[shape])
    for draw in (ablation.draw, ablation.draw_epochs, ablation.draw_predicted):
        fig = draw(nodes)
        fig.draw_without_rendering()  # lays it out, with every label
        for ax in fig.axes:
            assert ax.has_data() or not ax.axison
            assert ax.get_ylabel() or not ax.axison
        plt.close(fig)


def looks_of(fig):
    """The colour and dashes of every point in the legend."""
    (legend,) = fig.legends
    return {
        text.get_text(): (to_hex(line.get_color()), line._unscaled_dash_pattern)
        for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True)
    }


def test_of_named_points_the_word_is_shown_by_colour_and_the_number_by_dashes(results):
    variants = {
        "matched": {},
        **{f"lr_{factor}": {"lr": 0.02 * factor} for factor in (1.5, 3)},
        **{f"decay_{factor}": {"weight_decay": 0.1 * factor} for factor in (1.5, 3)},
    }
    fig = ablation.draw_epochs(results({"methods": ["backprop"], "variants": variants}))
    looks = looks_of(fig)
    assert len(set(looks.values())) == len(looks) == 5
    assert len({color for color, _ in looks.values()}) == 3
    assert looks["lr 1.5"][0] == looks["lr 3"][0] != looks["decay 3"][0]
    assert looks["lr 3"][1] == looks["decay 3"][1] != looks["decay 1.5"][1]
    plt.close(fig)


def test_of_two_swept_quantities_one_is_shown_by_colour_and_one_by_dashes(results):
    noises, rates = ["gaussian", "uniform"], [0.02, 0.04, 0.08]
    sweep = {"noise": noises, "mirror_lr": rates}
    fig = ablation.draw_epochs(results({"methods": ["weight_mirror"], "sweep": sweep}))
    looks = looks_of(fig)
    for noise in noises:
        assert len({looks[f"{noise}, {rate}"][0] for rate in rates}) == 3
        assert len({looks[f"{noise}, {rate}"][1] for rate in rates}) == 1
    for rate in rates:
        assert len({looks[f"{noise}, {rate}"][0] for noise in noises}) == 1
        assert len({looks[f"{noise}, {rate}"][1] for noise in noises}) == 2
    lines = fig.axes[0].get_lines()
    drawn = {(to_hex(line.get_color()), line._unscaled_dash_pattern) for line in lines}
    assert drawn == set(looks.values())
    plt.close(fig)


def test_what_was_predicted_is_drawn_beside_what_was_measured_on_one_line(results):
    (node,) = results({"methods": ["kolen_pollack"], "sweep": {"weight_decay": [0.1, 1.0]}})
    # mismatches that fall as predicted: ‖B‖ = ‖W‖ = 1, and the angle between them
    for index in range(4):
        run = node.isel(run=index)
        left = mismatch(config_of(run), 22)
        node["matrix_angle"][index] = np.degrees(2 * np.arcsin(left / np.sqrt(2)))[:, None]
        node["feedback_norm_ratio"][index] = 1
    fig = ablation.draw_predicted([node])
    points, line = fig.axes[0].get_lines()
    assert len(points.get_xdata()) == 4
    np.testing.assert_allclose(points.get_ydata(), points.get_xdata(), rtol=1e-6)
    np.testing.assert_allclose(line.get_ydata(), line.get_xdata())
    assert len(fig.axes) == 1, "no panel for mirror mode, which these runs do not have"
    plt.close(fig)


def test_an_option_that_came_later_is_read_where_it_is_not_recorded(results):
    (node,) = results({"methods": ["feedback_alignment"], "sweep": {"scale": [0.5, 1, 2]}})
    node["settings"] = node["settings"].str.replace('"options": {"scale": 1}', '"options": {}')
    assert all('"options": {}' in text for text in node["settings"].values[[1, 4]])
    assert ablation.runs(node)["scale"].tolist() == [0.5, 1, 2] * 2


def test_an_option_that_is_the_networks_own_is_read_where_it_is_not_recorded(results):
    nodes = results({"networks": ["resnet18"], "sweep": {"width": [16, 64]}})
    table = pd.concat([ablation.runs(node) for node in nodes])
    assert table.groupby("network")["width"].unique().to_dict() == {
        "resnet18": [64], "resnet18-width=16": [16]
    }  # fmt: skip


def test_a_method_without_angles_in_all_layers_has_none_on_average(results, tmp_path):
    """Not those of the output layer alone, which would look like perfect alignment."""
    (node,) = results(ONE)
    without = node["method"] == "kolen_pollack"
    for name in ("matrix_angle", "delta_angle"):
        node[name] = node[name].where(~without | (node["layer"] == node["layer"][-1]))
    table = ablation.runs(node).set_index("method")
    angles = table[["matrix_angle", "matrix_angle_max", "delta_angle", "delta_angle_max"]].isna()
    assert angles.loc["kolen_pollack"].all(axis=None) and not angles.loc["backprop"].any(axis=None)
    set_style()
    for draw in (ablation.draw, ablation.draw_epochs):
        fig = draw([node])
        fig.draw_without_rendering()
        plt.close(fig)


def drawn(nodes):
    """The panels of the test errors: of each, ticks by place, and lines by name as places and
    values."""
    fig = ablation.draw(nodes)
    found = []
    for ax in fig.axes[::3]:
        ticks = dict(
            zip(ax.get_xticks(), (tick.get_text() for tick in ax.get_xticklabels()), strict=True)
        )
        handles, labels = ax.get_legend_handles_labels()
        lines = {name: getattr(h, "lines", [h])[0] for h, name in zip(handles, labels, strict=True)}
        found.append(
            (ticks, {name: (line.get_xdata(), line.get_ydata()) for name, line in lines.items()})
        )
    plt.close(fig)
    return found


@pytest.mark.parametrize(
    ("shape", "ticks"),
    [
        ("networks swept", ["resnet50", "vgg11", "resnet18"]),
        ("norm orders swept", ["relu_bn", "bn_relu"]),
        ("named networks", ["small", "a network", "after", "before"]),
    ],
)
def test_networks_and_norm_orders_that_were_swept_stand_on_the_axis_of_one_panel(
    shape, ticks, results
):
    ((found, lines),) = drawn(results(SHAPES[shape]))
    assert [found[place] for place in range(len(ticks))] == ticks
    assert {"BP", "KP"} <= set(lines) <= {"BP", "KP", "chance"}
    assert list(lines["KP"][0]) == list(range(len(ticks)))


def test_the_norm_order_that_is_not_the_papers_is_said_in_words(results):
    nodes = results(ONE | {"norm_orders": ["relu_bn", "bn_relu"]})
    ((_, lines),) = drawn(nodes)
    names = ["BP", "BP, BatchNorm before ReLU", "KP", "KP, BatchNorm before ReLU"]
    assert sorted(set(lines) - {"chance"}) == names
    set_style()
    fig = ablation.draw_epochs(nodes)
    assert sorted(filter(None, (ax.get_title(loc="left") for ax in fig.axes))) == names
    plt.close(fig)


def test_networks_that_were_not_swept_have_a_row_each(results):
    assert len(drawn(results(SHAPES["two networks"]))) == 2
    both = {
        "variants": {"as_it_is": {}, "other": {"network": "resnet50", "lr": 1}},
        "networks": ["resnet18", "resnet50"],
    }
    assert len(drawn(results(both))) == 2


def test_the_error_of_guessing_is_a_step_where_it_is_known_and_near(results):
    (node,) = results(SHAPES["difficulty"])
    assert node.attrs["data"] == "digits+cifar10+image_folder+tiny_imagenet"
    assert data_label(node) == "digits, CIFAR-10, data, Tiny ImageNet (100 classes)"
    assert "chance" not in drawn([node])[0][1], (
        "errors of a few per cent would be a line at the bottom"
    )
    node["test_error"] += 30
    ((_, lines),) = drawn([node])
    assert list(lines["chance"][0]) == [0, 1, 2, 3]
    np.testing.assert_allclose(lines["chance"][1], [90, 90, np.nan, 99])


def test_the_legend_has_the_methods_of_all_networks(results):
    nodes = results(SHAPES["two networks"])
    nodes[0] = nodes[0].isel(run=nodes[0]["method"].values == "backprop")
    fig = ablation.draw(nodes)
    assert {"BP", "KP"} <= {text.get_text() for text in fig.legends[0].get_texts()}
    nodes[0] = nodes[0].isel(run=nodes[0]["seed"].values == 0)
    assert "standard error of 1 or 2 seeds" in note(ablation.draw(nodes))
    plt.close("all")


def test_many_points_have_a_legend_that_fits(results):
    rates = [round(0.1 + 0.01 * number, 2) for number in range(40)]
    fig = ablation.draw_epochs(results({"sweep": {"lr": rates}, "methods": ["backprop"]}))
    fig.draw_without_rendering()
    box = fig.legends[0].get_window_extent()
    assert box.height <= fig.bbox.height and box.width < 0.7 * fig.bbox.width
    plt.close(fig)


def test_a_selection_without_runs_is_refused(results):
    (node,) = results(ONE)
    for draw in (ablation.draw, ablation.draw_epochs, ablation.draw_predicted):
        with pytest.raises(wtkit.WtkitError, match="no run of ResNet-18"):
            draw([node.isel(run=[])])


def test_a_point_is_drawn_at_the_mean_of_its_seeds(results):
    (node,) = results(ONE)
    fig, ax = plt.subplots()
    table = ablation.runs(node)
    ablation.plot_against(ax, table, ["weight_decay"], "test_error", "test error (%)")
    line = ax.get_lines()[0]
    mean = table[table.method == "backprop"].groupby("weight_decay")["test_error"].mean()
    np.testing.assert_allclose(line.get_xdata(orig=False), mean.index)
    np.testing.assert_allclose(line.get_ydata(orig=False), mean)
    plt.close(fig)


@pytest.mark.parametrize(
    ("shape", "network", "means"),
    [
        ("one quantity", "ResNet-18", "mean ± standard error of 2 seeds"),
        ("two quantities", "ResNet-18", "2 seeds"),
        ("two networks", "ResNet-18, ResNet-50", "mean ± standard error of 2 seeds"),
        ("one seed", "ResNet-18", "one seed: no standard error"),
    ],
)
def test_a_note_says_what_was_run(shape, network, means, results):
    set_style()
    nodes = results(SHAPES[shape])
    count = means.removeprefix("mean ± standard error of ").removesuffix(": no standard error")
    for draw, counted in (
        (ablation.draw, means), (ablation.draw_epochs, count), (ablation.draw_predicted, count),
    ):  # fmt: skip
        fig = draw(nodes)
        fig.draw_without_rendering()
        assert note(fig) == f"{network}; digits; 4 epochs; {counted}"
        for ax in fig.axes:
            for label in (ax.xaxis.label, ax.yaxis.label):
                extent = label.get_window_extent()
                assert fig.bbox.y0 <= extent.y0 and extent.y1 <= fig.bbox.y1
                assert fig.bbox.x0 <= extent.x0 and extent.x1 <= fig.bbox.x1
        plt.close(fig)


def test_a_run_that_diverged_is_marked(results):
    (node,) = results(ONE | {"methods": ["backprop"], "seeds": [0]})
    node["status"][1] = "diverged"
    fig = ablation.draw([node])
    assert "1 of 3 runs diverged (×)" in note(fig)
    for ax in fig.axes:
        (cross,) = (line for line in ax.get_lines() if line.get_marker() == "x")
        assert list(cross.get_xdata()) == [0.1]
    assert "1 of 3 runs diverged" in note(ablation.draw_epochs([node]))


@pytest.mark.parametrize("offset", [0.0, -10.0])
def test_a_sweep_of_a_loop_of_ones_own_is_drawn_by_its_metric(tmp_path, offset):
    for number, decay in enumerate((0.1, 0.2)):
        model = wtkit.convert(torch.nn.Sequential(torch.nn.Linear(3, 2)), "feedback_alignment")
        with wtkit.Recorder(
            tmp_path, model, seed=0, variant=f"decay={decay}", settings={"decay": decay},
            metrics={"log_likelihood": "nat"}, quiet=True,
        ) as record:  # fmt: skip
            record(0, log_likelihood=3.0 + offset)
            record(train_loss=1.0, log_likelihood=number + 1.0 + offset)
    tree = wtkit.open_results(tmp_path / "results.nc", quiet=True)
    (node,) = (child.to_dataset() for child in tree.children.values())
    table = ablation.runs(node)
    assert table["log_likelihood"].tolist() == [1 + offset, 2 + offset]
    assert "test_error" not in table
    fig = ablation.draw([node])
    assert fig.axes[0].get_ylabel() == "test log likelihood (nat)"
    line = fig.axes[0].get_lines()[0]
    assert line.get_ydata().tolist() == [1 + offset, 2 + offset]
    low, high = fig.axes[0].get_ylim()
    assert low <= 1 + offset and high >= 2 + offset
    assert ablation.draw_epochs([node]).axes[0].get_ylabel() == "test log likelihood (nat)"
    page = wtkit.explore.sweep(tree).to_html()
    assert '["test log likelihood (nat)","@log_likelihood{0.00}"]' in page
