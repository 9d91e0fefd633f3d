import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from wtkit import methods
from wtkit.__main__ import main
from wtkit.experiments import RunConfig, expand
from wtkit.validation import described

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--method", "kolen_polack"], ["kolen_polack", "kolen_pollack"]),
        (["train", "--lr", "1"], ["method", "is required"]),
        (["train", "--method", "backprop", "--lr", "fast"], ["lr", "fast"]),
        (["train", "--method", "backprop", "--lr", "-1"], ["lr", "greater than 0", "-1"]),
        (
            ["train", "--method", "weight_mirror", "--option", "noise=pink"],
            ["noise", "pink", "gaussian"],
        ),
        (["train", "--method", "weight_mirror", "--option", "nois=uniform"], ["nois", "'noise'"]),
        (["train", "--method", "weight_mirror", "--option", "noise"], ["noise", "NAME=VALUE"]),
        (
            [
                "train",
                "--method",
                "weight_mirror",
                "--option=noise=uniform",
                "--option=noise=gaussian",
            ],
            ["noise", "twice"],
        ),
        (["train", "--method", "backprop", "--option", "noise=uniform"], ["noise", "none"]),
        (
            ["train", "--method", "backprop", "--network", "vg11"],
            ["'vg11'", "'vgg11'", "package.module:Class"],
        ),
        (
            ["train", "--method", "backprop", "--network", "nowhere.nets:Mine"],
            ["nowhere.nets:Mine", "No module named"],
        ),
        (
            ["train", "--method", "backprop", "--network-option", "activation"],
            ["--network-option", "NAME=VALUE"],
        ),
        (
            ["train", "--method", "backprop", "--data", "imagenet", "--data-root", "nowhere"],
            ["nowhere", "image-net.org"],
        ),
        (
            ["train", "--method", "backprop", "--epochs=3", "--lr-drops=3"],
            ["'lr_drops': expected epochs below 3"],
        ),
        (["train", "--method", "backprop", "--classes=11"], ["11 is more than the 10 classes of "]),
        (["train", "--method", "backprop", "--batch-size=9999"], ["than the 1437 training images"]),
        (
            ["train", "--method", "weight_mirror", "--option=noise_std=1e30"],
            ["'noise_std': input should be less than or equal to 1000000"],
        ),
        (
            ["train", "--method", "weight_mirror", "--option=noise_std=1e-30"],
            ["'noise_std': expected 1e-6 or more, got 1e-30"],
        ),
        (
            ["train", "--method", "backprop", "--lr=1e30"],
            ["'lr': 1e+30 is too large", "expected a size from 1e-15 to 1e+15"],
        ),
        (
            ["train", "--method", "weight_mirror", f"--option=noise={'[' * 10**5}"],
            ["--option noise: its value is nested too deeply"],
        ),
        (
            [
                "train",
                "--method",
                "backprop",
                "--network=a:B",
                '--network-option=x={"k": 1, "k": 2}',
            ],
            ["two keys are called 'k'"],
        ),
        (["gather", "ts.py", "--experiment", "x", "--output", "x.nc"], ["no run at ts.py"]),
        (["runs", "config/digit.yaml"], ["config/digit.yaml", "no experiment file"]),
        (["gather", "nowhere.nc", "--experiment", "x", "--output", "x.nc"], ["nowhere.nc"]),
    ],
)
def test_what_a_user_gets_wrong_is_said_in_two_lines(
    arguments, words, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("wtkit: ")
    assert len(captured.err.splitlines()) <= 2
    for word in words:
        assert word in captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--learning-rate", "1"], ["--learning-rate"]),
        (["train", "--metod", "backprop"], ["--metod", "'--method'"]),
        (
            ["train", "--backprop=fc1", "--backprop=fc2"],
            ["--backprop: given twice", "leave one out"],
        ),
        *(
            ([*command, f"{option}=1", f"{option}=2"], [f"{option}: given twice"])
            for command, options in (
                (["train"], ["--output", "--device", "--lr"]),
                (["plan", "x.yaml"], ["--csv", "--device"]),
                (["gather", "x.nc"], ["--output", "--experiment"]),
                (["data", "digits"], ["--data-root"]),
                (["data", "pack", "a", "b"], ["--quality", "--workers"]),
            )
            for option in options
        ),
        (["train", "--backprop=fc1", "--keep-on-backprop=fc2"], ["given twice"]),
        (["train", "--output="], ["--output: expected a path, got an empty text"]),
        (["trian"], ["'trian'", "'train'", "runs, plan, methods, status, gather, data"]),
        (["data", "cifar"], ["'cifar'", "'cifar10'"]),
    ],
)
def test_a_word_that_is_unknown_or_there_twice_is_named(arguments, words, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    for word in words:
        assert word in error


def test_a_reader_that_goes_away_is_no_error():
    code = (
        "from wtkit.__main__ import main; import sys; sys.exit(main(['runs', "
        "'config/digits.yaml']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()  # before anything was written
    assert process.stderr.read() == ""
    assert process.wait() == 141
    process.stderr.close()


def test_runs_prints_commands_that_make_the_same_runs(tmp_path, capsys):
    path = tmp_path / "x.yaml"
    settings = "{lr_drops: [1, 2], lr: 1e-3, data_root: my data}"
    path.write_text(f"methods: [weight_mirror]\nnetworks: [resnet50]\nsettings: {settings}\n")
    assert main(["runs", str(path)]) == 0
    name, *arguments = shlex.split(capsys.readouterr().out)
    (run,) = expand(path)
    assert name == run.name
    assert arguments == run.arguments()


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_needs_no_torch(arguments):
    code = f"""
import sys, wtkit.__main__
try:
    wtkit.__main__.main({arguments})
except SystemExit:
    assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_help_says_what_each_setting_is(capsys):
    assert described(RunConfig).keys() == {field.name for field in dataclasses.fields(RunConfig)}
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--epochs VALUE passes through the training images; default: 10 " in text
    assert (
        "--keep-on-backprop VALUE modules that stay on backprop, by name; * matches any text, as "
        "in wtkit.convert; "
    ) in text
    assert (
        "--method VALUE one of the methods in wtkit.methods, for instance weight_mirror; required "
    ) in text
    assert "own; default: the data set's own --evaluate-on VALUE" in text  # of augment


@pytest.mark.parametrize("name", methods.names())
def test_the_listing_has_label_equation_and_every_option(name, capsys):
    assert main(["methods", name]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    cls = methods.method_class(name)
    assert first == f"{cls.label}  {name}"
    assert any(sign in lines[0] for sign in ("δ_l =", "ΔW", "ΔB", "y_{l+1} =", "r =")), lines[0]
    fields = dataclasses.fields(cls)
    assert [field.name for field in fields] == re.findall(r"^ {4}(\w+)=", "\n".join(lines), re.M)
    for field in fields:
        (line,) = [line for line in lines if line.startswith(f"    {field.name}=")]
        option, _, words = line.strip().partition("  ")
        assert option == f"{field.name}={field.default}" and len(words.strip()) > 5
    assert all(len(line) <= 100 for line in lines) and lines[-1].count("(") == lines[-1].count(")")


def test_all_methods_are_listed_and_a_wrong_name_is_named(capsys):
    assert main(["methods"]) == 0
    listed = re.findall(r"^\S+  (\w+)$", capsys.readouterr().out, re.M)
    assert listed == methods.names()
    assert main(["methods", "kolen_polack"]) == 1
    assert "did you mean 'kolen_pollack'" in capsys.readouterr().err


def test_help_says_what_a_setting_is_if_it_is_left_out(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "None for the data set's own; default: the data set's own" in text
    assert "default: all" in text and text.count("default: none") == 3
