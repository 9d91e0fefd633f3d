"""The benchmark of steps: it measures what it says, stores each case, and resumes."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from test_performance import steps

TINY = steps.Case(
    "tiny", "resnet18", 16, 2, 2, "digits", classes=4,
    contestants=("backprop", "kolen_pollack", "weight_mirror"),
    goals={"backprop": 1.0, "weight_mirror": 1e-6},
)  # fmt: skip


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def record():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "CPU", [TINY])
        return steps._measure("tiny", quick=False)


def test_a_case_is_measured_and_told(record, tmp_path):
    assert set(record["times"]) == {"plain", "backprop", "kolen_pollack", "weight_mirror"}
    assert all(len(times) == 4 and min(times) > 0 for times in record["times"].values())
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases/tiny.json").write_text(json.dumps(record))
    steps.report(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        "cases",
        "steps.md",
        "steps.json",
        "steps.svg",
        "steps.png",
    }
    rows = {
        row["contestant"]: row for row in json.loads((tmp_path / "steps.json").read_text())["rows"]
    }
    assert rows["plain"]["ratio"] == 1
    assert rows["weight_mirror"]["ratio"] > 1
    assert not rows["weight_mirror"]["within_noise"]
    text = (tmp_path / "steps.md").read_text()
    assert "ResNet-18, 16×16, batch 2, float32" in text
    assert "| no |" in text


def test_memory_counts_weights_momentum_and_what_passes(record):
    """Bytes by hand: W and its momentum stay, B is one copy more, B that learns has a momentum of
    its own."""
    weights = record["weights"]
    lasting = {who: bytes / weights for who, bytes in record["lasting"].items()}
    assert lasting["plain"] == pytest.approx(2, abs=0.01)  # BatchNorm's statistics are the rest
    assert lasting["backprop"] == lasting["plain"]
    assert lasting["weight_mirror"] == pytest.approx(3, abs=0.01)
    assert lasting["kolen_pollack"] == pytest.approx(4, abs=0.01)
    assert record["bytes"]["plain"] > record["lasting"]["plain"] + 0.99 * weights  # the gradients

    held = []

    def step():
        a = torch.empty(1_000_000)
        del a
        held.append(torch.empty(2_000_000))

    assert steps.passing_bytes(step, "cpu") == 8_000_000


def test_plain_is_torchvisions_own_network_and_all_take_the_same_step():
    case = dataclasses.replace(TINY, batch=16, size=32)
    contestants = {who: steps.contestant(case, who) for who in ("plain", "backprop")}
    plain = contestants["plain"].model
    assert type(plain).__module__ == "torchvision.models.resnet"
    assert all(
        type(module).__module__.startswith(("torch.", "torchvision.")) for module in plain.modules()
    )
    before = [p.detach().clone() for p in plain.parameters()]
    for one in contestants.values():
        one.step()
    for ours, theirs in zip(
        contestants["backprop"].model.parameters(), plain.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    assert not all(map(torch.equal, before, plain.parameters()))


def test_the_mirror_has_the_options_of_the_experiment():
    case = next(case for case in steps.CPU if case.name == "imagenet-mirror")
    assert steps._options(case, "weight_mirror")["noise_batch"] == 1024
    with pytest.raises(LookupError, match="no run of weight_mirror:pink"):
        steps._options(case, "weight_mirror:pink")


@pytest.mark.parametrize("case", [*steps.CPU, *steps.GPU], ids=lambda case: case.name)
def test_every_contestant_is_in_its_experiment(case):
    for who in case.contestants:
        if not who.startswith(("plain", "biotorch")):
            assert isinstance(steps._options(case, who), dict)


def test_ratios_are_of_whole_rounds():
    assert steps.paired([1, 3, 2, 2], [2, 2, 4, 4]) == [1, 0.5]
    assert steps.quartiles([1, 2, 3, 4, 5]) == (2, 3, 4)
    assert steps.quartiles([7]) == (7, 7, 7)


def test_an_interrupted_bench_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        steps, "CPU", [dataclasses.replace(TINY, name=name) for name in ("one", "two")]
    )
    monkeypatch.setattr(steps, "SURROUNDINGS", {})
    times = {who: [1.0, 1.0, 2.0, 2.0] for who in ("plain", *TINY.contestants)}
    bytes_ = dict.fromkeys(times, 8)
    measured = []

    def run(command, **_):
        name = command[command.index("--only") + 1]
        measured.append(name)
        if measured == ["one", "two"]:
            return SimpleNamespace(returncode=1)
        case = dataclasses.asdict(TINY)
        made = {
            "name": name,
            "quick": False,
            "case": case,
            "times": times,
            "bytes": bytes_,
            "weights": 4,
            "failed": {},
        }
        made |= {"sources": steps._sources(name), "device": "none"}
        return SimpleNamespace(returncode=0, stdout=f"words\n{json.dumps(made)}\n")

    monkeypatch.setattr(steps.subprocess, "run", run)
    arguments = ["--device", "cpu", "--output", str(tmp_path)]
    with pytest.raises(SystemExit, match="two failed; the same command continues here"):
        steps.main(arguments)
    steps.main(arguments)
    steps.main(arguments)
    assert measured == ["one", "two", "two"]
    assert "one: kept" in capsys.readouterr().out
    steps.main([*arguments, "--case", "one", "--again"])
    assert measured == ["one", "two", "two", "one"]
    steps.main([*arguments, "--again", "--minutes", "1e-9"])
    assert len(measured) == 4
    assert "no time left" in capsys.readouterr().out
    monkeypatch.setattr(steps, "CPU", [dataclasses.replace(TINY, name="one", batch=3)])
    steps.main(arguments)
    assert measured[4:] == ["one"], "another case of the name"


def test_a_gpu_is_timed_over_a_burst_between_two_waits(monkeypatch):
    happened = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: happened.append("wait"))
    case = dataclasses.replace(TINY, device="cuda", burst=3)
    assert steps._seconds(lambda: happened.append("step"), case) >= 0
    assert happened == ["wait", "step", "step", "step", "wait"]


def test_another_gpu_is_another_measurement(monkeypatch):
    found = set()
    for gpu in ("one kind", "another", "one kind"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda gpu=gpu: gpu)
        found.add(steps._sources(steps.GPU[0].name))
    assert len(found) == 2


def test_no_memory_is_told_of_cuda_graphs(record):
    graphs = record | {"case": record["case"] | {"mode": "reduce-overhead"}}
    assert all(row["megabytes"] is row["weight_copies"] is None for row in steps.summary(graphs))
    assert "|  |  |" in steps.table([graphs])
    assert all(row["megabytes"] > 0 for row in steps.summary(record))


def test_compiled_contestants_are_one_graph(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, **how: asked.append(how) or model)
    steps.contestant(dataclasses.replace(TINY, mode="reduce-overhead"), "backprop").step()
    assert asked == [{"mode": "reduce-overhead", "fullgraph": True}]


def test_gpu_cases_have_the_goals_in_front():
    first = steps.GPU[:3]
    assert [(case.network, case.size, case.images) for case in first] == [
        ("resnet50", 224, 5000), ("resnet18", 224, 18000), ("resnet18", 32, 60000),
    ]  # fmt: skip
    assert all(
        case.mode == "default" and case.precision == "bf16" and case.batch >= 128 for case in first
    )
    assert all((case.network, case.size) in steps.LIMITS for case in steps.GPU)
    assert len({case.name for case in steps.GPU + steps.CPU}) == len(steps.GPU + steps.CPU)
