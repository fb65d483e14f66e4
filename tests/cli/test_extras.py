"""Optional packages that are missing."""

import sys

import pytest

from llada.cli.extras import needs_matplotlib


def test_missing_matplotlib_is_told_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    told = r"^pictures need matplotlib: pip install 'llada-lm\[plot\]'$"
    with pytest.raises(ValueError, match=told), needs_matplotlib("pictures"):
        import matplotlib  # noqa: F401


def test_other_missing_modules_are_told_as_they_are():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), needs_matplotlib("pictures"):
        import no_such_module  # noqa: F401
