import os
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from llada.config import ConfigError, Schema, config_folder, load_config, read_yaml


class Inner(Schema):
    learning_rate: Annotated[float, Field(gt=0)]
    warmup: int = 0


class Outer(Schema):
    steps: Annotated[int, Field(ge=1)]
    name: str = "run"
    order: Literal["confidence", "random"] = "confidence"
    factor: float | None = None
    overwrite: bool = False
    optim: Inner = Inner(learning_rate=1.0)
    second: Inner | None = None

    @model_validator(mode="after")
    def _consistent(self):
        if self.steps == 13:
            raise ValueError("steps=13 brings bad luck; choose another")
        return self


@pytest.fixture
def write(tmp_path):
    def write(text, name="run.yaml"):
        file = tmp_path / name
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    return write


def refusal(file, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, file, overrides)
    return str(caught.value)


def test_values_and_defaults_come_out_typed(write):
    config = load_config(Outer, write("steps: 3\noptim:\n  learning_rate: 1.0e-3\n"))
    assert config == Outer(steps=3, optim=Inner(learning_rate=1e-3))
    assert (config.name, config.optim.warmup, config.second) == ("run", 0, None)


def test_overrides_change_values_at_any_depth_and_the_last_one_wins(write):
    file = write("steps: 3\noptim:\n  learning_rate: 0.1\n  warmup: 7\n")
    config = load_config(Outer, file, ["steps=4", "optim.learning_rate=0.5", "steps=5", "second.learning_rate=2.0"])
    assert config == Outer(steps=5, optim=Inner(learning_rate=0.5, warmup=7), second=Inner(learning_rate=2.0))


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("name=hello", "name", "hello"),
        ("name=", "name", ConfigError),  # nothing is null in YAML
        ("name=''", "name", ""),
        ("name=a=b", "name", "a=b"),
        ("name='5'", "name", "5"),
        ("name=5", "name", ConfigError),
        ("steps=5", "steps", 5),
        ("steps=5.0", "steps", ConfigError),
        ("steps='5'", "steps", ConfigError),
        ("steps=true", "steps", ConfigError),
        ("factor=null", "factor", None),
        ("factor=2", "factor", 2.0),
        ("factor=1.0e-3", "factor", 1e-3),
        ("overwrite=true", "overwrite", True),
        ("overwrite=1", "overwrite", ConfigError),
        ("order=random", "order", "random"),
        ("second={learning_rate: 0.5}", "second", Inner(learning_rate=0.5)),
    ],
)
def test_the_value_of_an_override_is_yaml_and_is_not_converted_silently(write, override, key, value):
    file = write("steps: 3")
    if value is ConfigError:
        assert f"{key}: " in refusal(file, override)
    else:
        read = getattr(load_config(Outer, file, [override]), key)
        assert read == value
        assert type(read) is type(value)


def test_an_unknown_key_suggests_the_near_one(write):
    assert "unknown key 'step'; did you mean 'steps'?" in refusal(write("step: 3"))
    assert "unknown key 'ordr'; did you mean 'order'?" in refusal(write("steps: 3"), "ordr=random")


def test_an_unknown_nested_key_suggests_a_key_of_its_group(write):
    message = refusal(write("steps: 3\noptim:\n  learning_rat: 0.1\n"))
    assert "unknown key 'optim.learning_rat'; did you mean 'learning_rate'?" in message
    assert "missing key 'optim.learning_rate'" in message
    optional = refusal(write("steps: 3"), "second.learning_rate=1.0", "second.warmpu=3")
    assert "unknown key 'second.warmpu'; did you mean 'warmup'?" in optional


def test_an_unknown_key_that_resembles_nothing_lists_the_known_ones(write):
    message = refusal(write("steps: 3\nzzz: 1"))
    assert "unknown key 'zzz'; known keys: factor, name, optim, order, overwrite, second, steps" in message
    assert "unknown key 'optim.zzz'; known keys: learning_rate, warmup" in refusal(write("steps: 3"), "optim.zzz=1")


def test_a_missing_key_is_named_with_the_file(write):
    file = write("name: x")
    assert refusal(file) == f"{file}: missing key 'steps'"


def test_an_empty_file_holds_no_keys(write):
    for text in ("", "# nothing\n"):
        assert "missing key 'steps'" in refusal(write(text))


def test_a_wrong_type_or_range_names_the_key_the_value_and_what_is_allowed(write):
    assert "steps: Input should be a valid integer (given 'many')" in refusal(write("steps: many"))
    assert "steps: Input should be greater than or equal to 1 (given 0)" in refusal(write("steps: 0"))
    assert "optim.learning_rate: Input should be greater than 0 (given -1)" in refusal(
        write("steps: 1"), "optim.learning_rate=-1"
    )
    assert "order: Input should be 'confidence' or 'random' (given 'best')" in refusal(write("steps: 1"), "order=best")


def test_a_rule_between_keys_is_told_in_its_own_words(write):
    file = write("steps: 13")
    assert refusal(file) == f"{file}: steps=13 brings bad luck; choose another"


def test_all_mistakes_are_told_at_once(write):
    message = refusal(write("steps: 0\nnam: x\norder: best"))
    assert len(message.splitlines()) == 3


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_is_no_file_is_not_suggested_in_its_own_place(tmp_path, kind):
    path = tmp_path / "run.yaml"
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "link": lambda: path.symlink_to("run.yaml")}[kind]()
    assert refusal(path) == f"{path} is a folder, a device, a pipe or a link to nothing; name a YAML file"


@pytest.mark.parametrize(
    "text", ["steps: 2\nname: x\nsteps: 3", "{steps: 2, 'steps': 3}", "optim: {warmup: 1, warmup: 1}"]
)
def test_a_key_that_comes_twice_is_refused_with_its_line(write, text):
    key = "warmup" if "warmup" in text else "steps"
    message = refusal(write(text))
    assert f"run.yaml is not valid YAML: {key!r} is given twice; leave one out" in message
    assert f"line {text.count(chr(10)) + 1}" in message
    assert "'a' is given twice" in refusal(write("steps: 2"), "second={a: 1, a: 2}")


def test_a_key_may_be_said_anew_where_another_mapping_is_merged_in(write):
    text = "second: &a {learning_rate: 1.0}\n<<: {steps: 2, optim: &b {<<: *a, learning_rate: 2.0}}\nsteps: 3\n"
    config = load_config(Outer, write(text))
    assert (config.steps, config.optim.learning_rate) == (3, 2.0)


@pytest.mark.parametrize("override", ["steps", "=5", "", "steps 5"])
def test_an_override_without_key_and_value_raises(write, override):
    assert f"override {override!r} has no `key=value` form; write for example" in refusal(write("steps: 3"), override)


def test_an_override_through_a_value_raises(write):
    message = refusal(write("steps: 3"), "steps.more=1")
    assert message == "override 'steps.more=1': steps is a value, not a group of keys"


def test_an_override_that_is_not_yaml_raises(write):
    assert "override 'name=[1': '[1' is not a YAML value" in refusal(write("steps: 3"), "name=[1")


def test_a_file_that_does_not_exist_suggests_the_near_one(write):
    near = write("steps: 3", "quickstart.yaml")
    message = refusal(near.with_name("quikstart.yaml"))
    assert message == f"{near.with_name('quikstart.yaml')}: no such file; did you mean {near}?"
    assert refusal(near.with_name("zzz.yaml")).endswith("zzz.yaml: no such file")
    assert refusal(near.parent / "nowhere" / "quickstart.yaml").endswith("no such file")
    assert refusal(near.with_name("\ud800.yaml")).endswith("\\ud800.yaml: no such file")
    assert refusal(near.parent / ("x" * 300)).endswith("x: no such file")
    assert refusal(near.parent / ("x" * 300) / "y.yaml").endswith("y.yaml: no such file")


@pytest.mark.parametrize(
    "text", ["steps: [1", "steps: 1\n\tname: x", b"\xff\xfe\x00", "steps: !!python/object:os.system 1"]
)
def test_a_file_that_is_not_plain_yaml_raises(write, text):
    assert "run.yaml is not valid YAML" in refusal(write(text))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("[" * 5000, id="deep"),
        pytest.param("1" * 5000, id="large"),
        "!!bool 3",
        "!!int ''",
        "!!timestamp x",
        "2001-99-99",
        "0b_",
    ],
)
def test_a_value_that_yaml_cannot_build_raises(write, value):
    assert "run.yaml is not valid YAML" in refusal(write(f"steps: {value}"))
    assert "is not a YAML value" in refusal(write("steps: 3"), f"steps={value}")


def test_an_override_of_too_many_keys_raises(write):
    message = refusal(write("steps: 3"), "a." * 5000 + "b=1")
    assert message.endswith("5001 keys in one another; no setting lies so deep")
    assert len(message) < 200


def test_no_name_of_a_key_is_special(write):
    for key in ("self", "cls", "values", "__init__", "model_config"):
        assert f"unknown key '{key}'" in refusal(write(f"steps: 3\n{key}: 1"))
        with pytest.raises(ConfigError, match=f"unknown key '{key}'"):
            Outer(steps=3).replace(**{key: 1})


@pytest.mark.parametrize(("text", "kind"), [("- 1\n- 2", "list"), ("words", "str"), ("5", "int"), ("1: x", "dict")])
def test_a_file_without_keys_raises(write, text, kind):
    assert f"must hold `key: value` lines, but holds a {kind}" in refusal(write(text))


def test_a_configuration_cannot_be_changed_but_replaced():
    config = Outer(steps=3, name="first")
    with pytest.raises(ValueError, match="frozen"):
        config.steps = 4
    changed = config.replace(steps=4)
    assert (changed.steps, changed.name, config.steps) == (4, "first", 3)
    assert changed.model_fields_set == {"steps", "name"}


def test_a_replacement_is_validated_like_a_new_one():
    config = Outer(steps=3, optim=Inner(learning_rate=0.5))
    assert config.replace().optim == Inner(learning_rate=0.5)
    with pytest.raises(ConfigError, match="unknown key 'step'; did you mean 'steps'"):
        config.replace(step=4)
    with pytest.raises(ConfigError, match="steps: Input should be greater than or equal to 1"):
        config.replace(steps=0)
    with pytest.raises(ConfigError, match="bad luck"):
        config.replace(steps=13)


def test_direct_construction_raises_the_same_error():
    with pytest.raises(ConfigError, match="unknown key 'step'; did you mean 'steps'"):
        Outer(steps=3, step=4)
    assert issubclass(ConfigError, ValueError)


def test_every_file_that_comes_with_the_library_is_a_mapping_and_says_what_it_is():
    files = sorted(config_folder().rglob("*.yaml"))
    assert files
    for file in files:
        assert file.read_text(encoding="utf-8").startswith("# "), file
        assert read_yaml(file), file


def test_what_was_given_is_told_in_short_where_a_few_lines_mean_billions_of_values(write):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    file = write("\n".join([*lines, "steps: *a11"]))
    with pytest.raises(ConfigError) as refused:
        load_config(Outer, file)
    assert "steps: " in str(refused.value)
    assert len(str(refused.value)) < 20000
