"""The command line: ``wtkit`` or ``python -m wtkit``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import __version__, data_sets
from .errors import Stopped, WtkitError
from .experiments import (
    OLD_SETTINGS,
    RunConfig,
    as_argument,
    check_sense,
    expand,
    from_argument,
    json_schema,
    list_methods,
    run_config,
)
from .files import refuse_overwriting
from .processes import is_first, said_once
from .validation import described, known, nearest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0: success. 1: an error that the user can fix. 75 (try again): a run was stopped by a signal and
    can be resumed. 130: interrupted. 141: the reader of the output has closed it.
    """
    _write_any_text()
    parsed = make_parser().parse_args(arguments)
    try:
        parsed.run(parsed)
        sys.stdout.flush()  # here, where a failure is handled
    except WtkitError as error:
        if not error.said_elsewhere:
            print(f"wtkit: {error}", file=sys.stderr)
        return os.EX_TEMPFAIL if isinstance(error, Stopped) else 1
    except BrokenPipeError:  # the reader has closed the output: `wtkit runs … | head`
        # otherwise Python's own last flush fails as well
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        if is_first():
            print(
                "wtkit: interrupted; the same command resumes after the last finished epoch or "
                "shard",
                file=sys.stderr,
            )
        return 130
    return 0


def _write_any_text() -> None:
    """Print °, λ and names of files in UTF-8, whatever the locale: in that of a bare container
    Python has ASCII only."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook and a test have others
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


class _Once(argparse.Action):
    """Store a value; refuse a second one, which would silently replace the first."""

    def __call__(self, parser, namespace, values, option_string=None):
        given = parser.__dict__.setdefault("given", set())
        if self.dest in given:
            parser.error(
                f"{option_string}: given twice; leave one out (separate the values of a list by "
                "commas)"
            )
        given.add(self.dest)
        setattr(namespace, self.dest, values)


class _Parser(argparse.ArgumentParser):
    """argparse's parser with errors of one line, which suggest the nearest command or option. An
    option may be given once."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register("action", None, _Once)  # what an option does by default

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n" if is_first() else None)

    def _check_value(self, action, value):  # type: ignore[no-untyped-def]
        if action.choices is not None:
            try:
                known(value, action.choices, action.metavar or action.dest)
            except WtkitError as error:
                raise argparse.ArgumentError(None, str(error)) from None

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        parsed, unknown = super().parse_known_args(args, namespace)
        for argument in unknown:  # here, where the options of this command are known
            option = argument.partition("=")[0]
            self.error(
                f"unrecognized argument {argument}{nearest(option, self._option_string_actions)}"
            )
        return parsed, unknown


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(
        "wtkit", description="Deep learning without weight transport.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"wtkit {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    _add_train(commands)
    _add_transport(commands)
    _add_experiment_commands(commands)
    _add_data(commands)
    schema = commands.add_parser(
        "schema", help="print the JSON schema by which editors complete and check experiment files"
    )
    schema.set_defaults(run=_schema)
    return parser


def _add_train(commands: Any) -> None:
    command = commands.add_parser(
        "train",
        help="train one run",
        description="Train one run and save its trajectory.",
        allow_abbrev=False,
    )
    command.set_defaults(run=_train)
    command.add_argument(
        "--output", type=_path, help="the run's folder; default: runs/<name of the run>"
    )
    command.add_argument(
        "--device", help="cpu, cuda, …; default: a free GPU if there is any, waited for"
    )
    command.add_argument(
        "--set-aside",
        action="store_true",
        help="rename a checkpoint that cannot be used, and start from the beginning",
    )
    _add_settings(command)


def _add_transport(commands: Any) -> None:
    command = commands.add_parser(
        "transport",
        help="list which weights the feedback path of a run's network uses",
        description="Measure on random images which weights δ passes. Takes the settings of train, "
        "and reads no data.",
        allow_abbrev=False,
    )
    command.set_defaults(run=_transport)
    _add_settings(command)


def _add_settings(command: argparse.ArgumentParser) -> None:
    """The settings of a run as options."""
    for option, whose in (("--option", "method"), ("--network-option", "network")):
        command.add_argument(
            option,
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help=f"one of the {whose}'s own options; repeatable",
        )
    what = described(RunConfig)
    for field in dataclasses.fields(RunConfig):
        if field.name not in ("options", "network_options"):
            # not `required=True`: report misspelt options before missing ones
            required = field.default is dataclasses.MISSING
            how = "required" if required else f"default: {_default(field, what[field.name])}"
            text = f"{what[field.name]}; {how}".replace("%", "%%")
            command.add_argument(f"--{field.name.replace('_', '-')}", metavar="VALUE", help=text)
    for old, name in OLD_SETTINGS.items():
        command.add_argument(f"--{old}", dest=name, help=argparse.SUPPRESS)


def _default(field: dataclasses.Field, what: str) -> str:
    """A setting's default in words: of None, what the setting's description calls it."""
    if field.default is None and (meaning := re.search(r"None for ([^;,]+)", what)):
        return meaning[1]
    return "none" if field.default in (None, "", ()) else as_argument(field.default)


def _add_experiment_commands(commands: Any) -> None:
    command = commands.add_parser("runs", help="list the runs of an experiment file")
    command.set_defaults(run=_runs)
    command.add_argument("experiment", type=_path, help="e.g. config/digits.yaml")

    command = commands.add_parser(
        "plan",
        help="predict an experiment's time, memory and alignment before it runs",
        description="Predict time and memory from a few steps, and the matrix angles, with "
        "warnings.",
    )
    command.set_defaults(run=_plan)
    command.add_argument(
        "experiment", type=_path, help="e.g. config/digits.yaml, or an ablation's file"
    )
    command.add_argument(
        "--no-measure",
        action="store_true",
        help="take no steps and read no data; predicts no time and memory",
    )
    command.add_argument("--device", help="the device to measure on; as for train")
    command.add_argument("--csv", type=_path, metavar="FILE", help="also write all numbers to FILE")

    command = commands.add_parser(
        "methods", help="list the methods with their labels, equations and options"
    )
    command.set_defaults(run=_methods)
    command.add_argument("methods", nargs="*", help="names of methods; default: all")

    command = commands.add_parser(
        "status",
        help="list what the runs of an experiment are at",
        description="List the runs that are done, running, waiting, stopped and failed, and the "
        "time left. Reads only, and never disturbs a run.",
    )
    command.set_defaults(run=_status)
    command.add_argument(
        "experiment",
        nargs="?",
        default="digits",
        help="its name, folder or file, or one run's folder; default: digits",
    )

    command = commands.add_parser("gather", help="collect an experiment's runs in one file")
    command.set_defaults(run=_gather)
    command.add_argument("trajectories", nargs="+", type=_path, help="trajectory.nc files")
    command.add_argument("--experiment", required=True, help="its name")
    command.add_argument(
        "--output",
        required=True,
        type=_path,
        help="the file to write, e.g. results/mine/results.nc",
    )


def _add_data(commands: Any) -> None:
    command = commands.add_parser(
        "data", help="fetch a data set, say how to, or pack a folder of images"
    )
    kinds = command.add_subparsers(
        required=True, metavar="DATA_SET", help=f"{', '.join(data_sets.names())}, or pack"
    )
    for name in data_sets.names():
        kind = kinds.add_parser(name, description="Fetch the data set, or say how to.")
        kind.set_defaults(run=_data, name=name)
        kind.add_argument("--data-root", default="data", help="folder of data sets; default: data")
    kind = kinds.add_parser(
        "pack",
        description="Store a folder of images once, smaller, in a few large files, from which "
        "training reads instead. The same command resumes an interrupted pack and repairs a "
        "damaged one.",
    )
    kind.set_defaults(run=_pack)
    kind.add_argument(
        "source", type=_path, help="the folder that holds train/<class>/ and val/<class>/"
    )
    kind.add_argument("target", type=_path, help="a new folder, e.g. data/imagenet")
    for option, default, range_, text in (
        ("--short-side", 256, (1, 65535), "pixels; larger images are shrunk to it"),
        ("--quality", 90, (1, 95), "JPEG quality of shrunk images"),
        ("--shard-images", 8192, (1, 10**9), "images per shard"),
        ("--workers", 4, (0, 1024), "processes that decode and encode"),
    ):
        kind.add_argument(
            option,
            type=_between(*range_),
            default=default,
            metavar="NUMBER",
            help=f"{text}; default: {default}",
        )


def _path(text: str) -> Path:
    """An argparse type: a path. An empty one, of an unset variable, would be the working folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a path, got an empty text")
    return Path(text)


def _between(least: int, most: int) -> Callable[[str], int]:
    """An argparse type: a whole number from ``least`` to ``most``."""

    def number(text: str) -> int:
        if text.isdecimal() and least <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(
            f"{text!r}, expected a whole number from {least} to {most}"
        )

    return number


def _train(parsed: argparse.Namespace) -> None:
    run = _settings(parsed)

    from .processes import gpus

    with contextlib.nullcontext() if parsed.device else gpus.claimed():
        from .training import train  # after the settings are checked: torch takes seconds to load

        folder = parsed.output or Path("runs", run.name)
        train(run, folder, device=parsed.device, set_aside=parsed.set_aside)


def _transport(parsed: argparse.Namespace) -> None:
    run = _settings(parsed)

    from .training import transport_of

    print(transport_of(run))


def _settings(parsed: argparse.Namespace) -> RunConfig:
    """The run that the options describe."""
    given: dict[str, Any] = {
        field.name: getattr(parsed, field.name, None) for field in dataclasses.fields(RunConfig)
    }
    settings: dict[str, Any] = {
        name: from_argument(name, value) for name, value in given.items() if value is not None
    }
    with said_once():
        settings["options"] = _options("--option", parsed.option)
        settings["network_options"] = _options("--network-option", parsed.network_option)
        run = run_config(settings)
        check_sense(run)
    return run


def _options(flag: str, texts: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` arguments as a dictionary; values are JSON if they parse as JSON."""
    options: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise WtkitError(f"{flag} {text!r}: expected NAME=VALUE")
        if name in options:
            raise WtkitError(f"{flag} {name}: given twice; leave one out")
        try:
            options[name] = json.loads(value, object_pairs_hook=_distinct)
        except json.JSONDecodeError:
            options[name] = value
        except RecursionError:
            raise WtkitError(f"{flag} {name}: its value is nested too deeply") from None
    return options


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; refuse a key that is there twice, of which the last would win."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise WtkitError(f"two keys are called {name!r}; leave one out")
    return dict(pairs)


def _runs(parsed: argparse.Namespace) -> None:
    for run in expand(parsed.experiment):
        print(run.name, shlex.join(run.arguments()))


def _methods(parsed: argparse.Namespace) -> None:
    print(list_methods(parsed.methods))


def _status(parsed: argparse.Namespace) -> None:
    from .watching import status  # here, so that other commands do not wait for xarray

    print(status(parsed.experiment))


def _schema(parsed: argparse.Namespace) -> None:
    print(json.dumps(json_schema(), indent=1, ensure_ascii=False))


def _plan(parsed: argparse.Namespace) -> None:
    runs = expand(parsed.experiment)

    from .processes import gpus

    if parsed.csv:  # before the measurement, which takes minutes
        from .plan import is_saved

        refuse_overwriting(parsed.csv, is_saved, "an earlier plan")
    with contextlib.nullcontext() if parsed.device or parsed.no_measure else gpus.claimed():
        from . import plan
        from .plan import name_of  # torch takes seconds to load

        surveyed = list(plan.survey(runs, measured=not parsed.no_measure, device=parsed.device))
    rows = [plan.row(group, inspection) for group, inspection in surveyed]
    named_warnings = [
        (name_of(row), sentence)
        for row, (group, inspection) in zip(rows, surveyed, strict=True)
        for sentence in plan.warnings(group[0], inspection)
    ]
    print(plan.text(str(parsed.experiment), rows, named_warnings), flush=True)
    if parsed.csv:
        plan.save(rows, parsed.csv)


def _gather(parsed: argparse.Namespace) -> None:
    from . import results  # here, so that other commands do not wait for xarray

    refuse_overwriting(parsed.output, results.is_gathered, "gathered results")
    results.save(results.gather(parsed.trajectories, parsed.experiment), parsed.output)


def _data(parsed: argparse.Namespace) -> None:
    from . import data

    print(data.fetch(parsed.name, parsed.data_root))


def _pack(parsed: argparse.Namespace) -> None:
    from .images import pack

    options = {
        name: getattr(parsed, name) for name in ("short_side", "quality", "shard_images", "workers")
    }
    print(pack(parsed.source, parsed.target, **options))


if __name__ == "__main__":
    sys.exit(main())
