"""Optional packages that are missing."""

import sys

import pytest
from console import refusal

from llada.cli.extras import needed


def test_missing_module_is_told_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    told = r"^matplotlib is needed for pictures: pip install 'llada-lm\[plot\]'$"
    with pytest.raises(ValueError, match=told), needed("plot", "pictures"):
        import matplotlib  # noqa: F401


def test_other_missing_modules_are_told_as_they_are():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), needed("plot", "pictures"):
        import no_such_module  # noqa: F401


@pytest.mark.parametrize("command", ["serve", "ui"])
def test_servers_name_what_they_lack_and_no_module_of_ours(command, monkeypatch, capsys):
    for module in ("llada.listening", "uvicorn"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "uvicorn", None)
        told = refusal(patched, capsys, command, "nowhere")
    assert told == f"llada: uvicorn is needed for llada {command}: pip install 'llada-lm[{command}]'\n"
    monkeypatch.setitem(sys.modules, "llada.listening", None)
    with pytest.raises(ModuleNotFoundError, match=r"llada\.listening"):
        refusal(monkeypatch, capsys, command, "nowhere")
