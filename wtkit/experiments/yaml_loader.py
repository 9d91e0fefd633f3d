"""YAML with nothing in it that is easily read as something else."""

import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError

_TAG = "tag:yaml.org,2002:"
_PLAIN = {
    f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge")
}
# 010 is 8 in YAML 1.1 and 10 in YAML 1.2; 1:30, 1_000 and 0b11 are numbers in YAML 1.1 alone
_AMBIGUOUS = re.compile(r"[-+]?0[0-9_]+|.*[:_].*|[-+]?0b.*")


class PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader, for values that JSON has too.

    It refuses two keys of one name, of which the last would win; numbers that the two versions of
    YAML read differently; and values that JSON does not have. A date is text.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [
            "<<" if key.tag == f"{_TAG}merge" else self.construct_object(key)
            for key, _ in node.value
        ]
        for (key, _), name in zip(node.value, names, strict=True):
            if names.count(name) > 1:
                raise ConstructorError(
                    None, None, f"two keys are called {name!r}; leave one out", key.start_mark
                )
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag not in _PLAIN:
            raise ConstructorError(
                None, None, f"{node.tag.replace(_TAG, '!!')} is not accepted", node.start_mark
            )
        is_number = node.tag in (f"{_TAG}int", f"{_TAG}float")
        if is_number and _AMBIGUOUS.fullmatch(node.value):
            raise ConstructorError(
                None,
                None,
                f"{node.value} is not the same number in all versions of YAML; write it in plain "
                "digits without leading zeros, or in quotes if it is text",
                node.start_mark,
            )
        return super().construct_object(node, deep)


PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
