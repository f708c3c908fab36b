from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

MUTANTS = Path(__file__).parents[1] / "mutants"


@pytest.fixture(scope="session")
def mutation_audit() -> Iterator[ModuleType]:
    """The program of `make mutants`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(MUTANTS))
        yield importlib.import_module("run")


@pytest.fixture(scope="session")
def patches(mutation_audit: ModuleType) -> ModuleType:
    """Its part that reads and applies patches."""
    return importlib.import_module("patches")
