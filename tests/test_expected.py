"""A small experiment gives the numbers that were recorded, within what CPUs differ by."""

import csv
import json

import expected
import pytest

RECORDED = json.loads(expected.NUMBERS.read_text())


@pytest.mark.slow
def test_the_pipeline_gives_the_recorded_numbers_and_measures_every_run(tmp_path):
    measured = expected.measured(tmp_path)
    assert measured.keys() == RECORDED.keys()
    for method, numbers in measured.items():
        for name, value in numbers.items():
            away = abs(value - RECORDED[method][name])
            assert away <= expected.TOLERANCE[name], (method, name, value, RECORDED[method][name])

    tables = list(tmp_path.glob("results/expected/benchmarks/*.tsv"))
    assert len(tables) == len(RECORDED)
    for table in tables:
        with table.open() as file:
            (row,) = csv.DictReader(file, delimiter="\t")
        assert float(row["s"]) > 1
        assert float(row["max_rss"]) > 100  # MB


def test_the_recorded_numbers_tell_the_methods_apart():
    """Or the tolerances would let anything pass."""
    angle = {method: numbers["matrix_angle"] for method, numbers in RECORDED.items()}
    assert angle["backprop"] == 0
    assert angle["weight_mirror"] + 10 < angle["sign_symmetry"]
    assert max(angle["sign_symmetry"], angle["kolen_pollack"]) + 10 < angle["feedback_alignment"]
    error = {method: numbers["test_error"] for method, numbers in RECORDED.items()}
    assert error["feedback_alignment"] > error["backprop"] + 10
