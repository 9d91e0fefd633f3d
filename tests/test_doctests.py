"""The examples in docstrings run, and every method has one."""

import doctest
import importlib
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
    failed, _ = doctest.testmod(importlib.import_module(name), verbose=False)
    assert failed == 0


@pytest.mark.parametrize("name", methods.names())
def test_every_method_has_an_example_that_converts_with_it(name):
    documentation = methods.method_class(name).__doc__
    assert ">>> " in documentation and f'"{name}"' in documentation
