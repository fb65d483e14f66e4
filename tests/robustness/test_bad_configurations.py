"""Any YAML, any override and any values: configurations are built or refused with ConfigError or ValueError."""

import math
from contextlib import suppress
from importlib import import_module
from typing import Any

import pytest
import yaml
from bad_values import TEXTS, VALUES, mutated, numbers_of_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from llada.config import ConfigError, Schema, apply_overrides, config_folder, load_config, read_yaml
from llada.model.configuration import LLaDAConfig
from llada.sampling.config import SamplerConfig
from llada.train.build import model_config
from llada.train.config import PretrainConfig, SFTConfig

EXPERIMENTS = sorted(path.stem for path in (config_folder() / "experiment").glob("*.yaml"))
SCALARS = st.one_of(
    TEXTS,
    st.text("[]{}&*!|>%@:-,#?'\"0123456789.eE_xob \n\tnul~<=", max_size=30),
    st.sampled_from(
        ["!!bool x", "!!int ''", "!!float ''", "!!timestamp 3", "!!binary é", "&a [*a]", "<<: 3", "2001-13-99"]
    ),
)


def settings_of(name: str) -> type[Schema]:
    return import_module(f"llada.experiments.{name}").EXPERIMENT.settings


def published() -> list[tuple[type[Schema], dict[str, Any]]]:
    """Every schema with the values of a file that comes with the library."""
    files = [(PretrainConfig, path) for path in sorted((config_folder() / "pretrain").glob("*.yaml"))]
    files += [(SFTConfig, path) for path in sorted((config_folder() / "sft").glob("*.yaml"))]
    files += [(settings_of(name), config_folder() / "experiment" / f"{name}.yaml") for name in EXPERIMENTS]
    return [(schema, read_yaml(path)) for schema, path in files]


def refused_or_built(schema: type[Schema], values: dict[str, Any]) -> None:
    try:
        assert isinstance(schema(**values), schema)
    except ConfigError as error:
        str(error).encode(errors="backslashreplace")


@numbers_of_cases(60, 1500)
def test_values_are_taken_or_refused_with_one_message(cases):
    known = published()

    @settings(max_examples=cases)
    @given(st.sampled_from(known).flatmap(lambda pair: st.tuples(st.just(pair[0]), mutated(pair[1]))))
    def check(pair: tuple[type[Schema], Any]) -> None:
        schema, values = pair
        if isinstance(values, dict):
            refused_or_built(schema, values)

    check()


@pytest.mark.parametrize(
    ("field", "value", "most"),
    [("seed", 2**63, "less than 9223372036854775808"), ("steps", 2**31, "less than 2147483648"),
     ("batch_size", 10**30, "less than 2147483648"), ("workers", 10**30, "less than 2147483648")],
)  # fmt: skip
def test_numbers_of_a_training_run_that_no_tensor_holds_are_refused(field, value, most):
    values = read_yaml(config_folder() / "pretrain" / "quickstart.yaml") | {field: value}
    with pytest.raises(ConfigError, match=f"{field}: Input should be {most}"):
        PretrainConfig(**values)


@pytest.mark.parametrize("field", ["learning_rate", "final", "weight_decay"])
def test_rates_that_no_update_can_be_made_with_are_refused(field):
    values = read_yaml(config_folder() / "pretrain" / "quickstart.yaml")
    with pytest.raises(ConfigError, match=f"optim.{field}: Input should be less than or equal to 1000000"):
        PretrainConfig(**values | {"optim": values["optim"] | {field: 1e300}})


@numbers_of_cases(60, 1500)
def test_files_and_overrides_are_read_or_refused_with_one_message(cases, tmp_path):
    dotted = st.lists(
        st.one_of(st.sampled_from(["steps", "counts", "order", "self", "temperature"]), TEXTS), max_size=3
    )
    override = st.builds(lambda keys, value: ".".join(keys) + "=" + value, dotted, SCALARS)

    @settings(max_examples=cases)
    @given(st.one_of(st.binary(max_size=40), SCALARS.map(lambda text: text.encode(errors="surrogatepass"))),
           st.lists(override, max_size=2), st.booleans())  # fmt: skip
    def check(content: bytes, overrides: list[str], keyed: bool) -> None:
        (tmp_path / "any.yaml").write_bytes(b"steps: " + content if keyed else content)
        with suppress(ConfigError):
            load_config(SamplerConfig, tmp_path / "any.yaml", overrides)
        with suppress(ConfigError):
            apply_overrides({"steps": 3}, overrides)

    check()


@pytest.mark.parametrize("name", ["", ".", "a\0b", "x" * 5000, "\ud800", "/"])
def test_name_of_no_file_is_refused(name):
    for read in (
        lambda: read_yaml(name),
        lambda: SamplerConfig.named(name + ".yaml"),
        lambda: SamplerConfig.named(name),
    ):
        with pytest.raises((ValueError, OSError)):
            read()


@numbers_of_cases(40, 1000)
def test_model_configurations_are_taken_or_refused_with_one_message(cases, tokenizer, tmp_path):
    sizes = {"d_model": 16, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "mlp_hidden_size": 32, "block_length": 4}
    named = dict.fromkeys(["rope_theta", "rms_norm_eps", "init_std", "weight_tying", "dtype", "id2label"], None)
    keys = st.sampled_from([*LLaDAConfig(**sizes).to_dict(), *LLaDAConfig.attribute_map, "self"])
    changes = st.dictionaries(keys, VALUES, max_size=2)

    @settings(max_examples=cases)
    @given(mutated(sizes | named), changes)
    def check(values: Any, more: dict[str, Any]) -> None:
        if not isinstance(values, dict):
            return
        given_values = {key: value for key, value in (values | more).items() if value is not None}
        try:
            made = model_config(given_values, 32, tokenizer)
        except ValueError:
            return
        assert made.d_model == made.head_dim * made.n_heads
        assert 0 < made.rope_theta < math.inf

    check()


def test_dumped_values_are_read_again(tmp_path):
    """So that the files of the tests above hold what they were meant to."""
    (tmp_path / "any.yaml").write_text(yaml.safe_dump({"steps": 4, "temperature": 0.5}))
    assert load_config(SamplerConfig, tmp_path / "any.yaml") == SamplerConfig(steps=4, temperature=0.5)
