"""The settings of published evaluations."""

import pytest
from lm_eval.tasks import TaskManager

from llada.config import ConfigError, config_folder
from llada.eval.presets import Preset

NAMES = [path.stem for path in sorted((config_folder() / "evaluate").glob("*.yaml"))]


@pytest.fixture(scope="module")
def known() -> set[str]:
    return {*TaskManager().all_tasks}


@pytest.mark.parametrize("name", NAMES)
def test_tasks_exist_and_samplers_fit_their_lengths(name, known):
    preset = Preset.named(name)
    assert {*preset.tasks} <= known
    for how in preset.tasks.values():
        how.sampler.check_lengths()
        if "gen_length" in how.sampler.model_fields_set:  # one token per step, as in the paper
            assert how.sampler.steps == how.sampler.gen_length
    assert (config_folder() / "evaluate" / f"{name}.yaml").read_text().startswith("# LLaDA")


def test_presets_are_those_of_the_paper():
    base, instruct = Preset.named("llada_base"), Preset.named("llada_instruct")
    assert (base.tasks["mmlu"].shots, base.tasks["mmlu"].samples, base.tasks["piqa"].samples) == (5, 1, 128)
    assert base.tasks["gsm8k"].sampler.gen_length == 1024
    assert not base.chat
    assert instruct.chat
    assert instruct.tasks["gsm8k"].sampler.eos_last
    assert instruct.tasks["humaneval_instruct"].sampler.forbid_eos
    assert Preset.named("llada_base_guided").tasks["truthfulqa_mc2"].sampler.cfg_scale == 2.0
    assert Preset.named("llada_instruct_blocks").tasks["gsm8k"].sampler.block_length == 8


def test_wrong_presets_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown preset 'llada'; known: .*llada_base.*; or name a \.yaml file"):
        Preset.named("llada")
    file = tmp_path / "own.yaml"
    file.write_text("tasks: {gsm8k: {shot: 4}}")
    with pytest.raises(ConfigError, match="did you mean 'shots'"):
        Preset.named(str(file))
    file.write_text("tasks: {gsm8k: {sampler: {steps: 3, gen_length: 8, block_length: 4}}}")
    with pytest.raises(ConfigError, match="steps=3 cannot be shared equally"):
        Preset.named(str(file))
    with pytest.raises(ConfigError, match="the preset has no task 'mmlu'; it has gsm8k, minerva_math"):
        Preset.named("llada_instruct_blocks").only(["mmlu"])
    assert [*Preset.named("llada_instruct_blocks").only(["gsm8k"]).tasks] == ["gsm8k"]
