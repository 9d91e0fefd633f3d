"""CONTRIBUTING.md is short, and what it names exists. The examples are in docs/howto/:
test_howto.py."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def test_it_is_short():
    assert len(TEXT.split()) < 700


def test_make_targets_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    (commands,) = re.findall(r"```sh\n(.*?)```", TEXT, re.S)
    named = " ".join(re.findall(r"^make ([a-z -]+?)  ", commands, re.M)).split()
    assert "test-fast" in named
    assert set(named) <= set(targets)
    assert set(re.findall(r"`make ([a-z-]+)`", TEXT)) <= set(targets)


def test_files_that_it_links_to_exist():
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_chain_of_imports_is_the_contract():
    """Of import-linter, in pyproject.toml, which `make lint` holds the code to."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    contracts = settings["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    (chain,) = re.findall(r"^- Imports point one way: (.*?)\.\s", TEXT, re.MULTILINE | re.DOTALL)
    said = [set(re.findall(r"`(.*?)`", link)) for link in chain.split("←")]
    assert said == [set(layer.split(" | ")) for layer in reversed(layers)]
