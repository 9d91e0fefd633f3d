"""The data sets, one file each; the file's name is the data set's name. Imports no torch."""

import importlib
import pkgutil

from ..arguments import check_arguments
from ..errors import WtkitError
from ..validation import known
from .base import DataSet, Reading, Wanted

__all__ = ["DataSet", "Reading", "Wanted", "classes", "data_set", "names"]


def names() -> list[str]:
    """Names of all data sets: the modules of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def data_set(name: str) -> DataSet:
    """The record that the file ``name`` defines.

    Raises:
        WtkitError: if there is no such data set, or its file defines no record.
    """
    where = f"data_sets/{known(name, names(), 'data set')}.py"
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except (ImportError, SyntaxError, NameError, TypeError) as error:
        raise WtkitError(f"{where}: {type(error).__name__}: {error}") from None
    found = getattr(module, "DATA_SET", None)
    if not isinstance(found, DataSet):
        raise WtkitError(f"{where}: expected a record in it: DATA_SET = DataSet(label=…, read=…)")
    return found


def classes(name: str) -> int | None:
    """How many classes a data set has; None for a name that is none of ours, and where it differs
    from place to place."""
    return data_set(name).classes if name in names() else None


check_arguments(globals())
