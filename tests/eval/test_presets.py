"""The settings of published evaluations."""

from pathlib import Path

import lm_eval.tasks
import pytest
from lm_eval.tasks import TaskManager

from llada.config import ConfigError, config_folder
from llada.eval.presets import Preset

FOLDERS = ["arc", "bbh", "benchmarks", "ceval", "cmmlu", "gpqa", "gsm8k", "hellaswag", "humaneval", "ifeval", "mbpp",
           "minerva_math", "mmlu", "mmlu_pro", "piqa", "truthfulqa", "winogrande"]  # fmt: skip
NAMES = [path.stem for path in sorted((config_folder() / "evaluate").glob("*.yaml"))]


@pytest.fixture(scope="module")
def known() -> set[str]:
    """The tasks of lm_eval in the folders that hold published ones; to index all takes 20 seconds."""
    folder = Path(lm_eval.tasks.__file__).parent
    return {*TaskManager(include_path=[str(folder / name) for name in FOLDERS], include_defaults=False).all_tasks}


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


BASE = ["bbh", "gsm8k", "minerva_math", "humaneval", "mbpp"]
PUBLISHED = {  # name → task → tokens of an answer, of a block, EOS forbidden, EOS last
    "llada_base": dict.fromkeys(BASE, (1024, 1024, False, False)),
    "llada_instruct": {
        "mmlu_pro": (256, 256, False, False),
        "arc_challenge_chat": (512, 512, False, False),
        "gsm8k": (512, 512, False, True),
        "minerva_math": (512, 512, False, True),
        "gpqa_main_generative_n_shot": (64, 64, False, True),
        "humaneval_instruct": (512, 512, True, False),
        "mbpp_instruct": (256, 256, False, True),
        "ifeval": (512, 512, False, True),
    },
    "llada_instruct_blocks": {"gsm8k": (256, 8, False, False), "minerva_math": (512, 64, False, False)},
    "llada_1_5": {
        "gsm8k": (256, 16, False, True),
        "minerva_math": (1024, 128, False, True),
        "gpqa_main_generative_n_shot": (256, 16, False, False),
        "humaneval_instruct": (512, 32, False, True),
        "mbpp_instruct": (512, 32, False, True),
        "ifeval": (256, 16, False, True),
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_generations_have_the_published_settings(name):
    """The table of the original's EVAL.md; greedy, low confidence, one token per step, without guidance."""
    found = {}
    for task, how in Preset.named(name).tasks.items():
        one = how.sampler
        if "gen_length" in one.model_fields_set:
            found[task] = (one.gen_length, one.block_length or one.gen_length, one.forbid_eos, one.eos_last)
            assert (one.steps, one.temperature, one.order, one.cfg_scale) == (one.gen_length, 0.0, "confidence", 0.0)
    assert found == PUBLISHED[name]


def test_likelihoods_have_the_published_settings():
    """Shots, samples and guidance of each task of the original's script."""
    base, guided = (Preset.named(name).tasks for name in ("llada_base", "llada_base_guided"))
    shots = {"arc_challenge": 0, "hellaswag": 0, "truthfulqa_mc2": 0, "winogrande": 5, "gpqa_main_n_shot": 5, "piqa": 0}
    scales = {"arc_challenge": 0.5, "hellaswag": 0.5, "truthfulqa_mc2": 2.0, "winogrande": 0.0,
              "gpqa_main_n_shot": 0.5, "piqa": 0.5}  # fmt: skip
    assert {name: guided[name].sampler.cfg_scale for name in guided} == scales
    for tasks, guidance in ((base, dict.fromkeys(shots, 0.0)), (guided, scales)):
        for name, number in shots.items():
            how = tasks[name]
            assert (how.shots, how.samples, how.sampler.cfg_scale) == (number, 128, guidance[name])
    for name in ("mmlu", "cmmlu", "ceval-valid"):
        assert (base[name].shots, base[name].samples) == (5, 1)


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
