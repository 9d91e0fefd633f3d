"""YAML with nothing in it that is easily read as something else."""

import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError

_TAG = "tag:yaml.org,2002:"
_PLAIN = {
    f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge")
}
# 010 is 8 in YAML 1.1 and 10 in YAML 1.2; 1:30, 1_000 and 0b11 are numbers in YAML 1.1 alone, and
# 0o17 in YAML 1.2 alone
_OLD_NUMBER = re.compile(r"[-+]?0[0-9_]+|.*[:_].*|[-+]?0b.*")
_NEW_NUMBER = re.compile(r"[-+]?0o[0-7]+")


MOST_VALUES = 100_000
TOO_MANY = f"aliases make it more than {MOST_VALUES:,} values; write fewer"


class PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader, for values that JSON has too.

    It refuses two keys of one name, of which the last would win; numbers that the two versions of
    YAML read differently; and values that JSON does not have. A date is text.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Here, before merge keys are resolved: those put keys beside others of the same name."""
        node = super().compose_mapping_node(anchor)
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        names = ["<<" if key.tag == f"{_TAG}merge" else self.construct_object(key) for key in keys]
        for key, name in zip(keys, names, strict=True):
            if names.count(name) > 1:
                raise ConstructorError(
                    None, None, f"two keys are called {name!r}; leave one out", key.start_mark
                )
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag not in _PLAIN:
            raise ConstructorError(
                None, None, f"{node.tag.replace(_TAG, '!!')} is not accepted", node.start_mark
            )
        is_number = node.tag in (f"{_TAG}int", f"{_TAG}float")
        is_plain_text = node.tag == f"{_TAG}str" and not getattr(node, "style", None)
        if (is_number and _OLD_NUMBER.fullmatch(node.value)) or (
            is_plain_text and _NEW_NUMBER.fullmatch(node.value)
        ):
            raise ConstructorError(
                None,
                None,
                f"{node.value} is not the same number in all versions of YAML; write it in plain "
                "digits without leading zeros, or in quotes if it is text",
                node.start_mark,
            )
        return super().construct_object(node, deep)


def count_values(content: Any, known: dict[int, int] | None = None) -> int:
    """The number of values in ``content``, each alias counted with all that it stands for. A few
    lines of aliases of aliases can be more than fits in memory once they are written out.

    Raises:
        ValueError: if a value contains itself.
    """
    known = {} if known is None else known
    if not isinstance(content, dict | list):
        return 1
    if id(content) not in known:
        known[id(content)] = 0  # not known yet
        parts = content.values() if isinstance(content, dict) else content
        known[id(content)] = 1 + sum(count_values(part, known) for part in parts)
    if not known[id(content)]:
        raise ValueError("a value contains itself; write it out")
    return known[id(content)]


PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
