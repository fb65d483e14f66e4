"""`llada doctor`: finds nothing wrong here, and says what to do where something is."""

import json
from importlib.metadata import PackageNotFoundError

import pytest
from console import llada

from llada import __version__, checkup
from llada.checkup import Finding, Health


def findings(monkeypatch, capsys) -> dict[str, dict]:
    llada(monkeypatch, "doctor", "--json")
    return {one["what"]: one for one in json.loads(capsys.readouterr().out)}


def test_everything_works_here(monkeypatch, capsys):
    found = findings(monkeypatch, capsys)
    assert found["llada"]["found"].startswith(f"{__version__} in ")
    assert {"torch", "transformers", "training", "saving", "sampling", "likelihood", "configs"} <= found.keys()
    assert all(one["health"] != "fails" for one in found.values())
    assert all(one["advice"] for one in found.values() if one["health"] == "note")


def test_rows_are_printed_as_they_come(monkeypatch, capsys):
    def one_after_another():
        yield Finding(Health.GOOD, "first", "[bold] is found")
        assert "[bold] is found" in capsys.readouterr().out
        yield Finding(Health.POOR, "second", "is not found", "look for it")

    monkeypatch.setattr("llada.checkup.checkup", one_after_another)
    llada(monkeypatch, "doctor")
    assert capsys.readouterr().out.split() == ["note", "second", "is", "not", "found", "look", "for", "it"]


def test_package_that_is_missing_or_old_is_named_with_what_to_do(monkeypatch, capsys):
    real = checkup.version

    def version(name: str) -> str:
        if name == "torch":
            return "2.0.1"
        if name == "einops":
            raise PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(checkup, "version", version)
    with pytest.raises(SystemExit) as stop:
        llada(monkeypatch, "doctor", "--json")
    assert stop.value.code == 1
    found = {one["what"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["torch"]["found"] == "2.0.1, older than 2.10"
    assert found["einops"]["found"] == "missing"
    assert found["einops"]["advice"].startswith("pip install 'einops")


def test_what_breaks_is_a_finding(monkeypatch):
    def broken() -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(checkup, "_dtypes", broken)
    broken.__name__ = "_dtypes"
    (found,) = [one for one in checkup.checkup() if one.what == "dtypes"]
    assert found.health is Health.BAD
    assert found.found == "RuntimeError: no such luck"


def test_module_without_a_package_is_a_finding(monkeypatch):
    """As one that lies in the working folder."""
    real = checkup.version

    def version(name: str) -> str:
        if name == "matplotlib":
            raise PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(checkup, "version", version)
    (found,) = [one for one in checkup.checkup() if one.health is Health.BAD]
    assert found.what == "extras"
    assert found.found == "PackageNotFoundError: No package metadata was found for matplotlib"


@pytest.mark.parametrize(("missing", "lacking"), [("uvicorn", {"serve", "ui"}), ("prometheus_client", {"serve"})])
def test_extra_is_there_when_all_of_it_is(missing, lacking, monkeypatch):
    """The extra ui alone brings most of serve along."""
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None if module == missing else module)
    poor = [one for one in checkup._extras() if one.health is Health.POOR]
    assert {one.what for one in poor} == {f"extra {extra}" for extra in lacking}
    assert {one.found for one in poor} == {f"{missing} is not installed"}


def test_system_that_does_not_tell_its_cores_is_no_fault(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    (found,) = checkup._threads()
    assert found.health is Health.GOOD
    assert found.found.endswith(" for unknown cores")


@pytest.mark.parametrize(("text", "numbers"), [("2.13.0+cpu", (2, 13, 0)), ("5.23", (5, 23)), ("3rc1", (3,))])
def test_versions_are_compared_by_their_numbers(text, numbers):
    assert checkup._numbers(text) == numbers
