"""Arguments of public functions: one of a wrong type is a sentence, before anything is done.

Imports no torch.
"""

from __future__ import annotations

import builtins
import collections.abc
import functools
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from .errors import WtkitError
from .validation import shown

P = ParamSpec("P")
T = TypeVar("T")
Explain = Callable[[Exception, str, dict[str, Any]], WtkitError | None]

_LISTS = (collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection, list)
_ORDERED = (collections.abc.Sequence, list)
_WORDS: dict[Any, str] = {
    None: "None",
    types.NoneType: "None",
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    collections.abc.Callable: "a function",
    collections.abc.Mapping: "a mapping",
    dict: "a dict",
    tuple: "a tuple",
    **dict.fromkeys(_LISTS, "a list"),
}
_LIBRARIES_WORDS = {  # by the name of the class, since importing it may take seconds
    "Path": "a path",
    "PurePath": "a path",
    "Module": "a model (torch.nn.Module)",
    "Method": "a Method",
    "ndarray": "a NumPy array",
    "Dataset": "results of one network, such as wtkit.open_results()['resnet18-width=16'],",
    "DataTree": "results, such as wtkit.open_results(),",
    "DataFrame": "a pandas DataFrame",
    "device": "a torch.device",
    "RunConfig": "a RunConfig, such as wtkit.experiments.run_config({'method': …})",
    "Axes": "Axes of matplotlib",
    "Figure": "a Figure of matplotlib",
}


def check_arguments(room: MutableMapping[str, Any], explain: Explain | None = None) -> None:
    """Let every public function of a package check its arguments, as :func:`checked` does.

    Inside the package the functions stay as they are: an inner loop pays nothing.

    Args:
        room: the package's ``globals()``, with ``__all__``.
        explain: see :func:`checked`.
    """
    for name in room["__all__"]:
        function = room.get(name)
        if inspect.isfunction(function) and inspect.signature(function).parameters:
            room[name] = checked(room[name], explain)


def checked(function: Callable[P, T], explain: Explain | None = None) -> Callable[P, T]:
    """``function``, which refuses arguments that do not fit its annotations.

    Only types are compared, and loosely: NumPy's numbers are numbers, its arrays are lists, and a
    network's node of a tree is a data set: the function gets its data set. What a value means is
    for the function to check.

    Args:
        explain: given an error that the function raised, the function's name and its arguments by
            name; returns the error to raise in its place, or None.

    Raises:
        WtkitError: names the function, the argument, what was expected and what was given.

    Example:
        >>> @checked
        ... def double(number: int) -> int:
        ...     return 2 * number
        >>> double("2")
        Traceback (most recent call last):
        wtkit.errors.WtkitError: double: number: expected a whole number, got '2'
    """
    if hasattr(function, "checks_arguments"):
        return function
    signature, hints = inspect.signature(function), functools.cache(_hints)

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python says it best
        _check(function.__name__, bound, hints(function))
        try:
            return function(*bound.args, **bound.kwargs)
        except WtkitError:
            raise
        except Exception as error:
            explained = explain and explain(error, function.__name__, bound.arguments)
            if explained:
                raise explained from error
            raise

    guarded.checks_arguments = True  # type: ignore[attr-defined]
    return guarded


def _check(function: str, bound: inspect.BoundArguments, hints: dict[str, Any]) -> None:
    """Refuse arguments that do not fit, and put data sets in the place of nodes."""
    for name, kind, value in _pairs(bound.arguments, bound.signature, hints):
        if not fits(value, kind):
            expected = _words(kind).removesuffix(",")
            raise WtkitError(f"{function}: {name}: expected {expected}, got {_given(value)}")
    for name, kind in hints.items():
        if name in bound.arguments:
            bound.arguments[name] = _as_data_set(bound.arguments[name], kind)


def _pairs(
    given: dict[str, Any], signature: inspect.Signature, hints: dict[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Name, annotation and value of each argument that has an annotation."""
    for name, value in given.items():
        kind = signature.parameters[name].kind
        if name not in hints or kind is inspect.Parameter.VAR_KEYWORD:
            continue
        values = value if kind is inspect.Parameter.VAR_POSITIONAL else [value]
        for one in values:
            yield name, hints[name], one


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of the parameters."""
    defined = inspect.unwrap(function)  # a context manager's annotations are those of its generator
    names = getattr(defined, "__globals__", {})
    hints = {
        name: _evaluated(hint, names) if isinstance(hint, str) else hint
        for name, hint in inspect.get_annotations(defined).items()
    }
    hints.pop("return", None)
    return hints


def _evaluated(hint: str, names: dict[str, Any]) -> Any:
    """An annotation. Anything fits what its module imports for type checkers only."""
    code = compile(hint, "annotation", "eval")
    found = {name: names.get(name, getattr(builtins, name, Any)) for name in code.co_names}
    try:
        return eval(code, {}, found)
    except AttributeError:  # of a module that is imported so
        return Any


def fits(value: Any, kind: Any) -> bool:
    """Whether ``value`` is of an annotation's type."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    kind = origin or kind
    if kind in (typing.Union, types.UnionType):
        # whoever takes a path as a text takes any object that stands for one
        takes_paths = {str, Path} <= set(parts) and isinstance(value, os.PathLike)
        return takes_paths or any(fits(value, part) for part in parts)
    if kind is typing.Annotated:
        return fits(value, parts[0])
    if kind is tuple and parts:
        return isinstance(value, tuple) and _fit_each(value, parts)
    if kind in _LISTS:
        return _is_list(value, kind, parts[0] if parts else Any)
    return _is_one(value, kind, parts)


def _is_one(value: Any, kind: Any, parts: tuple[Any, ...]) -> bool:
    """Whether ``value`` is of a type that has no parts, or of one whose parts are not looked at."""
    if kind is typing.Literal:
        return isinstance(value, str | int | None) and value in parts
    if kind in _TESTS:
        return _TESTS[kind](value)
    return not isinstance(kind, type) or _is_instance(value, kind)


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")  # NumPy's has both


def _is_number(value: Any, method: str) -> bool:
    """Whether Python's int or float take it: also NumPy's numbers."""
    return hasattr(type(value), method) and not _is_truth(value) and not getattr(value, "ndim", 0)


_TESTS: dict[Any, Callable[[Any], bool]] = {
    None: lambda value: value is None,
    int: lambda value: _is_number(value, "__index__"),
    float: lambda value: _is_number(value, "__float__"),
    bool: _is_truth,
    collections.abc.Callable: callable,
}


def _fit_each(values: tuple[Any, ...], kinds: tuple[Any, ...]) -> bool:
    """Whether each of a tuple's values is of its type; ``(int, ...)`` is any number of them."""
    if kinds[-1] is ...:
        kinds = kinds[:1] * len(values)
    return len(values) == len(kinds) and all(map(fits, values, kinds))


def _is_list(value: Any, kind: Any, part: Any) -> bool:
    """A text is no list, though Python can go through its letters. Arrays are lists."""
    if isinstance(value, str | bytes) or not hasattr(type(value), "__iter__"):
        return False
    if kind in _ORDERED and (isinstance(value, Mapping) or not hasattr(type(value), "__len__")):
        return False
    # by going through it; and an array of several dimensions has rows
    is_left_alone = isinstance(value, Iterator) or getattr(value, "ndim", 1) != 1
    return is_left_alone or part is Any or all(fits(one, part) for one in value)


def _is_instance(value: Any, kind: type) -> bool:
    try:
        return isinstance(value, kind) or (kind.__name__ == "Dataset" and _is_node(value))
    except TypeError:  # a protocol that cannot be asked
        return True


def _is_node(value: Any) -> bool:
    """Whether it is a node with data of an xarray tree. xarray is not imported to ask."""
    return type(value).__name__ == "DataTree" and value.has_data


def _as_data_set(value: Any, kind: Any) -> Any:
    """The data set of a node, for a function that takes no trees."""
    if "DataTree" in str(kind):
        return value
    if isinstance(value, list | tuple) and any(map(_is_node, value)):
        return type(value)(_as_data_set(one, kind) for one in value)
    return value.to_dataset() if _is_node(value) else value


def _words(kind: Any) -> str:
    """An annotation in words."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_words, parts)))
    if origin is typing.Literal:
        return " or ".join(map(repr, parts))
    if origin in _LISTS and parts and isinstance(parts[0], type):
        one = _words(parts[0])
        return f"a list of {one[2:]}s" if parts[0] in _WORDS else f"a list, each of it {one}"
    kind = origin or kind
    name = getattr(kind, "__name__", str(kind))
    return _WORDS.get(kind) or _LIBRARIES_WORDS.get(name) or _a(name)


def _given(value: Any) -> str:
    """What was given: the value where it says more than its type."""
    says_more = isinstance(value, str | int | float | list | tuple | dict | types.NoneType)
    return shown(value) if says_more else _a(type(value).__name__)


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
