"""Bundles to serve."""

import pytest


@pytest.fixture(scope="session")
def served(c_bundles):
    """Names and folders of two models in C."""
    return {name: c_bundles[name] for name in ("linear", "exact")}
