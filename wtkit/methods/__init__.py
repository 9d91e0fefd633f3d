"""The methods, one file each; a file's name is its method's name.

.. list-table:: The family
   :header-rows: 1

   * - Method
     - What δ passes through
     - How B learns
   * - :mod:`~wtkit.methods.backprop` (BP)
     - W
     - does not: B is W * - :mod:`~wtkit.methods.feedback_alignment` (FA)
     - fixed random weights
     - does not
   * - :mod:`~wtkit.methods.direct_feedback_alignment` (DFA)
     - fixed random weights, from the output layer
     - does not
   * - :mod:`~wtkit.methods.direct_kolen_pollack` (DKP)
     - learned weights, from the output layer
     - engaged mode: from the output layer's δ and the layer's activation * -
   :mod:`~wtkit.methods.sparse_feedback` (sDFA)
     - fixed random weights, from the output layer, most of them 0
     - does not
   * - :mod:`~wtkit.methods.low_rank_feedback` (LRF)
     - fixed random weights of low rank
     - does not
   * - :mod:`~wtkit.methods.signed_initialisation` (SI)
     - fixed random magnitudes with the signs of the initial W
     - does not
   * - :mod:`~wtkit.methods.sign_symmetry` (SS)
     - the signs of W, times one scale per layer
     - does not: B is a function of W
   * - :mod:`~wtkit.methods.sign_symmetry_fixed` (frSF)
     - the signs of W, times fixed random magnitudes
     - does not: B is a function of W
   * - :mod:`~wtkit.methods.sign_symmetry_batchwise` (brSF)
     - the signs of W, times random magnitudes
     - new magnitudes after each update of W
   * - :mod:`~wtkit.methods.product_feedback_alignment` (PFA)
     - a product of learned and fixed random weights
     - engaged mode: from the product that W learns by, passed through the fixed ones * -
   :mod:`~wtkit.methods.kolen_pollack` (KP)
     - learned weights
     - engaged mode: by W's own gradient and decay
   * - :mod:`~wtkit.methods.symmetric_alignment` (SA)
     - learned weights
     - engaged mode: a step towards W after each update of W
   * - :mod:`~wtkit.methods.weight_mirror` (WM)
     - learned weights
     - mirror mode: Hebbian, from noise and response
   * - :mod:`~wtkit.methods.weight_mirror_delta_rule` (DRM)
     - learned weights
     - mirror mode: delta rule, from the error in predicting the response
   * - :mod:`~wtkit.methods.information_alignment` (IA)
     - learned weights
     - mirror mode: Hebbian, with a cost for strong feedback * - :mod:`~wtkit.methods.frozen` (FZ)
     - nothing
     - there is no B

:func:`names` lists them, :func:`load` makes one with its hyper-parameters, and
:class:`~wtkit.methods.base.Method` is the interface for your own.

>>> from wtkit import methods
>>> methods.load("weight_mirror", mirror_lr=0.05).decay
0.05
"""

import dataclasses
import importlib
import inspect
import pkgutil
from typing import Any

from ..arguments import check_arguments
from ..errors import WtkitError
from ..methods.base import Method, MirrorSchedule
from ..validation import known

__all__ = ["Method", "MirrorSchedule", "load", "method_class", "names"]


def names() -> list[str]:
    """The names of all methods: the modules of this package.

    >>> "kolen_pollack" in names()
    True
    """
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def method_class(name: str) -> type[Method]:
    """The :class:`Method` that the file ``name`` defines.

    Raises:
        WtkitError: if there is no such method, or its file does not define exactly one complete
            method.
    """
    if name not in (found := names()):
        _refuse_label(name)
    where = f"methods/{known(name, found, 'method')}.py"
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except (ImportError, SyntaxError, NameError) as error:
        raise WtkitError(f"{where}: {type(error).__name__}: {error}") from None
    classes = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Method)
        and value.__module__ == module.__name__
    ]
    if len(classes) != 1:
        raise WtkitError(f"{where}: expected one class that is a Method, found {len(classes)}")
    cls = classes[0]
    if not dataclasses.is_dataclass(cls):
        raise WtkitError(f"{where}: {cls.__name__} has no decorator; write @frozen above it")
    missing = _missing(cls)
    if missing:
        raise WtkitError(f"{where}: {cls.__name__} lacks {', '.join(missing)}")
    return cls


def names_by_label() -> dict[str, str]:
    """The name of each method by its label in figures.

    >>> names_by_label()["KP"]
    'kolen_pollack'
    """
    return {method_class(name).label: name for name in names()}


def _refuse_label(text: str) -> None:
    """Say whose label was given in place of a name."""
    if name := names_by_label().get(text):
        raise WtkitError(f"unknown method {text!r} (did you mean {name!r}, whose label it is?)")


def _missing(cls: type[Method]) -> list[str]:
    """What ``cls`` has to define and does not: abstract members, its label, and what its flags
    ask for."""
    wanted = [] if hasattr(cls, "label") else ["label"]
    if cls.follows:
        wanted += _inherited(cls, "follow")
    if cls.learns_mirror:
        wanted += _inherited(cls, "mirror_schedule", "mirror_samples", "mirror_update")
    return sorted(cls.__abstractmethods__) + wanted


def _inherited(cls: type[Method], *members: str) -> list[str]:
    return [name for name in members if getattr(cls, name) is getattr(Method, name)]


def load(name: str, **options: Any) -> Method:
    """The method ``name`` with these hyper-parameters.

    Raises:
        WtkitError: for an unknown method, an unknown option, or a value that the option refuses.
    """
    return method_class(name)(**options)


check_arguments(globals())
