"""The documentation: pages made of the code's own data, commands that parse, and examples that run as they are written."""

import inspect
from importlib import import_module
from importlib.metadata import entry_points

import pytest

from ddbench.cli.listing import method_facts
from ddbench.method import GROUP, find_method

OURS = {point.name: point.module for point in entry_points(group=GROUP) if point.module.startswith("ddbench.")}


@pytest.mark.parametrize("name", OURS)
def test_a_method_is_described_by_its_own_page(name):
    """`cda` and `sre2l++` take their `distill` from `sre2l`, and have docstrings of their own."""
    page = inspect.cleandoc(import_module(OURS[name]).__doc__)
    assert method_facts(find_method(name))["description"] == page
