"""Performing an experiment: its folder, its record, and the command."""

import json

import pytest
from typer.testing import CliRunner

from llada.cli import app
from llada.config import ConfigError, load_config
from llada.experiments.experiment import named, names, perform

SMALL = ["vocabulary=50", "draws=100", "canvas_draws=2000", "steps=[1, 10]", "bits=[4, 24]"]


def settings(*overrides):
    return load_config(named("precision").settings, "configs/experiment/precision.yaml", [*SMALL, *overrides])


@pytest.mark.parametrize("name", names())
def test_settings_that_come_with_the_library_are_valid(name):
    experiment = named(name)
    assert experiment.question.endswith("?")
    load_config(experiment.settings, f"configs/experiment/{name}.yaml")


def test_result_and_figures_are_left_in_the_folder(tmp_path):
    record = perform("precision", settings(), tmp_path / "new")
    assert json.loads((tmp_path / "new" / "result.json").read_text()) == record
    assert record["settings"]["vocabulary"] == 50
    assert (tmp_path / "new" / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "Gumbel-max draws" in (tmp_path / "new" / "figure.svg").read_text()


def test_same_settings_are_drawn_again_and_not_measured(tmp_path, monkeypatch):
    record = perform("precision", settings(), tmp_path)
    figure = (tmp_path / "figure.svg").read_bytes()
    (tmp_path / "figure.svg").unlink()
    monkeypatch.setattr("llada.experiments.precision.gumbel_draws", None)
    assert perform("precision", settings(), tmp_path) == record
    assert (tmp_path / "figure.svg").read_bytes() == figure


def test_result_of_other_settings_is_kept(tmp_path):
    perform("precision", settings(), tmp_path)
    before = (tmp_path / "result.json").read_bytes()
    with pytest.raises(ValueError, match=r"result of precision with seed=0, not 1; name another folder, or remove"):
        perform("precision", settings("seed=1"), tmp_path)
    assert (tmp_path / "result.json").read_bytes() == before


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"experiment": "precision", "settings": {}}'])
def test_file_that_is_no_result_is_refused(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(ValueError, match="is no result of an experiment"):
        perform("precision", settings(), tmp_path)


def test_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"no experiment 'precisoin'; there are .*precision"):
        named("precisoin")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("bits=[25]", "less than or equal to 24"),
        ("steps=[]", "at least 1"),
        ("bit=[4]", "bits"),
        ("steps=[10, 101]", "canvas_draws=2000 reveals about 20 tokens in 101 steps; give 20 times the steps at least"),
    ],
)
def test_wrong_settings_are_refused(override, told):
    with pytest.raises(ConfigError, match=told):
        settings(override)


def test_command_prints_the_table_or_json(tmp_path):
    line = ["experiment", "precision", *SMALL, "--output", str(tmp_path)]
    shown = CliRunner().invoke(app, line)
    assert shown.exit_code == 0, shown.output
    assert "Gumbel-max, 4 bits" in shown.output
    assert "figure.svg" in shown.output
    again = CliRunner().invoke(app, [*line, "--json"])
    assert json.loads(again.output)["experiment"] == "precision"
