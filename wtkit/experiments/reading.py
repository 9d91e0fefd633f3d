"""Reading an experiment file: YAML, without doubled keys, or a sentence that says what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..errors import WtkitError
from ..validation import nearest


def is_ablation(path: str | Path) -> bool:
    """Whether the file is an ablation, which names its base. Raises WtkitError for a file that
    cannot be read."""
    return has_base(read_file(Path(path)))


def has_base(content: Any) -> bool:
    return isinstance(content, dict) and "base" in content


def read_file(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(), _Loader)
    except FileNotFoundError:
        folder = path.parent if any(path.parent.glob("[!.]*.yaml")) else Path("config")
        others = sorted(other.stem for other in folder.glob("[!.]*.yaml"))
        near = (
            (f" (did you mean {folder / path.stem}.yaml?)")
            if path.stem in others
            else nearest(path.stem, others)
        )
        raise WtkitError(
            f"no experiment file {path}{near}; in {folder}/: {', '.join(others) or 'none'}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise WtkitError(f"{path}: not a file of text that can be read ({error})") from None
    except yaml.YAMLError as error:
        raise WtkitError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which lets the last of two equal keys win; this one refuses them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key) for key in names]
        for key, name in zip(names, keys, strict=True):
            if keys.count(name) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"two keys are called {name!r}", key.start_mark
                )
        return super().construct_mapping(node, deep)


def expect_mapping(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WtkitError(f"{key!r}: expected a mapping, got {value!r}")
    return value


def expect_list(key: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise WtkitError(f"{key!r}: expected a list, got {value!r}")
    return value
