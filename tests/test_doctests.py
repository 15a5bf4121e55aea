"""Every public docstring has an example, and every example runs, with warnings as errors."""

from __future__ import annotations

import doctest
import importlib
import inspect
import io
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

WITHOUT_EXAMPLE = frozenset[str]()
"""Public names that are excused, each with its reason beside it."""


def module_names() -> list[str]:
    names = []
    for folder in ("ctsgfn", "kernels", "targets"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts if parts[0] == "ctsgfn" else ("ctsgfn", *parts)
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


MODULES = module_names()


@pytest.fixture(autouse=True)
def _every_warning() -> Iterator[None]:
    """Torch says many warnings once per process: say them always, so that order does not matter."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    report = io.StringIO()
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        torch.manual_seed(0)  # an example does not depend on the ones before it
        runner.run(example, out=report.write)
    assert runner.failures == 0, report.getvalue()


def exported(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Classes and functions that a module offers by ``__all__`` or, without one, by name."""
    for name in getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")]):
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isroutine(value) or type(value).__name__ == "Objective":
            yield name, value


def public() -> dict[str, Any]:
    """What the front doors (the ``__init__`` files) offer, and what any module lists in ``__all__``."""
    found = {}
    for name in MODULES:
        module = importlib.import_module(name)
        if hasattr(module, "__path__") or hasattr(module, "__all__"):
            for inner, value in exported(module):
                home = getattr(value, "__module__", "")
                if home.startswith("ctsgfn"):
                    found[f"{home}.{inner}"] = value
    return found


def test_every_public_name_has_an_example() -> None:
    names = public()
    assert names.keys() >= WITHOUT_EXAMPLE, "an exemption names nothing public"
    bare = [
        name
        for name, value in names.items()
        if ">>>" not in (inspect.getdoc(value) or "")
        and not (inspect.isclass(value) and issubclass(value, Exception))  # told apart by their message
        and name not in WITHOUT_EXAMPLE
    ]
    assert not bare, f"{len(bare)} of {len(names)} public names have no example: {sorted(bare)}"


def test_a_wrong_example_fails(tmp_path: Path) -> None:
    """The runner above can fail, and a warning in an example is an error."""
    parser = doctest.DocTestParser()
    source = ">>> import warnings\n>>> 1 + 1\n3\n>>> warnings.warn('x')\n"
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    runner.run(parser.get_doctest(source, {}, "wrong", None, 0), out=io.StringIO().write)
    assert runner.failures == 2
