"""The examples in docstrings run, and every method has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest
import torch

import wtkit
from wtkit import methods

MODULES = sorted(
    {"wtkit"}
    | {
        module.name
        for module in pkgutil.walk_packages(wtkit.__path__, "wtkit.")
        if not module.name.endswith("__main__")
    }
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    torch.manual_seed(0)
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, verbose=False)
    runner = doctest.DocTestRunner(verbose=False)
    for found in vars(module).values():  # those that doctest takes for another module's
        if hasattr(found, "checks_arguments") and found.__module__ == name:
            for example in doctest.DocTestFinder().find(inspect.unwrap(found), globs=vars(module)):
                failed += runner.run(example).failed
    assert failed == 0


@pytest.mark.parametrize("name", methods.names())
def test_every_method_has_an_example_that_converts_with_it(name):
    documentation = methods.method_class(name).__doc__
    assert ">>> " in documentation and f'"{name}"' in documentation
