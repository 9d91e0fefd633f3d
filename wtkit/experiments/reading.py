"""Reading an experiment file, or saying in a sentence why it cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..errors import WtkitError
from ..validation import nearest, nothing_in_here
from .yaml_loader import MOST_VALUES, TOO_MANY, PlainLoader, count_values


def is_ablation(path: str | Path) -> bool:
    """Whether the file is an ablation, which names its base. Raises WtkitError for a file that
    cannot be read."""
    return has_base(read_file(Path(path)))


def has_base(content: Any) -> bool:
    return isinstance(content, dict) and "base" in content


def read_file(path: Path) -> Any:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise OSError("it is a folder, a pipe or a device")
        content = yaml.load(path.read_text(encoding="utf-8-sig"), PlainLoader)
        if count_values(content) > MOST_VALUES:
            raise ValueError(TOO_MANY)
        return content
    except FileNotFoundError:
        folder = path.parent if any(path.parent.glob("[!.]*.yaml")) else Path("config")
        others = sorted(other.stem for other in folder.glob("[!.]*.yaml"))
        near = (
            (f" (did you mean {folder / path.stem}.yaml?)")
            if path.stem in others
            else nearest(path.stem, others)
        )
        raise WtkitError(
            f"no experiment file {path}{near}; in {folder}/: "
            f"{', '.join(others) or nothing_in_here()}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise WtkitError(f"{path}: not a file of text that can be read ({error})") from None
    except ValueError as error:
        raise WtkitError(f"{path}: {error}") from None
    except RecursionError:
        raise WtkitError(f"{path}: its values are nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        raise WtkitError(f"{path}: {_refusal(error)}") from None
    except yaml.YAMLError as error:
        raise WtkitError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def _refusal(error: yaml.MarkedYAMLError) -> str:
    """What is wrong, and where."""
    mark = error.problem_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    what = "" if isinstance(error, yaml.constructor.ConstructorError) else "not valid YAML: "
    return f"{where}{what}{error.problem}"
