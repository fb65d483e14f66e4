"""The form of a sampler, both ways."""

import pytest

from llada.config import ConfigError, read_yaml
from llada.sampling.config import SamplerConfig
from llada.web.form import FIELDS, Form, check_given, form_of, preset, published, values_of, whole_number

EMPTY = Form(("",) * len(FIELDS), "")


def form(others: str = "", **fields: str) -> Form:
    return Form(tuple(fields.get(name, "") for name in FIELDS), others)


@pytest.mark.parametrize("name", published())
def test_the_form_of_a_published_sampler_is_read_as_the_same_sampler(name):
    values = read_yaml(SamplerConfig.file_of(name))
    made = preset(name, EMPTY)
    assert made == form_of(values)
    assert values_of(made) == values
    needed = {"background": "counts.json"} if name == "position_calibrated" else {}
    assert SamplerConfig(**values_of(made), **needed) == SamplerConfig.named(name, **needed)


@pytest.mark.parametrize(
    "values",
    [
        {"counts": [1, 0, 2]},
        {"eta": 1e-7, "reveal": "p2"},
        {"stop_at_eos": True},
        {"order": "12"},
        {"cache": "a: b"},
        {"cache": "@x.json"},  # no YAML as it stands, nor are the next ones
        {"cache": "%x.json"},
        {"cache": "a: b: c"},
    ],
)
def test_any_value_is_read_again(values):
    assert values_of(form_of(values)) == values


def test_the_length_stays_unless_the_sampler_has_one():
    before = form(gen_length="16", steps="3")
    assert values_of(preset("margin", before)) == {"order": "margin", "reveal": "top_k", "gen_length": 16}
    assert values_of(preset("daedal", before))["gen_length"] == 64


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (form(steps="many"), "steps: Input should be a valid integer"),
        (form("stepz=3"), "unknown key 'stepz'; did you mean 'steps'"),
        (form("steps=3", steps="3"), "steps is given twice; leave one of them out"),
        (form("cache=dual\ncache=none"), "cache is given twice"),
        (form("cache dual"), "override 'cache dual' has no `key=value` form"),
        (form("background=/etc/passwd"), "background names a file of this machine, which only the command line can"),
        (form(gen_length="16", block_length="5"), "gen_length=16 cannot be cut into blocks of block_length=5 tokens"),
    ],
)
def test_wrong_fields_are_explained(given, message):
    with pytest.raises(ConfigError) as error:
        SamplerConfig(**values_of(given))
    assert message in str(error.value)


def test_a_field_that_is_null_is_told():
    with pytest.raises(ValueError, match="steps is null; send a text, an empty one for a field that is not set"):
        check_given({"gen_length": "8", "steps": None})
    check_given({"gen_length": "8", "steps": ""})


@pytest.mark.parametrize("name", ["guidance", "background"])
def test_no_key_within_another_has_a_file_of_this_machine_read(name, tmp_path):
    """A key of a group opens the YAML file that the group names, and a refusal may tell what is in it or beside it."""
    (tmp_path / "x.yaml").write_text("secret: 1")
    for file in ("x.yaml", "y.yaml"):
        with pytest.raises(ConfigError) as error:
            SamplerConfig(**values_of(form(f"{name}={tmp_path / file}\n{name}.x=1")))
        assert str(error.value) == f"{name}.x: no field of a sampler has others in it; leave out what follows {name}"
    with pytest.raises(ConfigError, match="has no `key=value` form"):
        values_of(form("1.5"))


def test_the_background_of_the_command_line_is_taken():
    assert values_of(form("background=counts.json"), "counts.json") == {"background": "counts.json"}


@pytest.mark.parametrize(
    ("text", "message"),
    [("x", "seed: 'x' is no whole number"), ("1.5", "seed: '1.5' is no"), ("9", "seed=9 is not between 0 and 8")],
)
def test_numbers_out_of_range_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        whole_number("seed", text, 0, 8)
    assert whole_number("seed", " 8 ", 0, 8) == 8
