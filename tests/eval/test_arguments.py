"""Arguments of the original are taken under their names; what a task asks of a generation is honoured or refused."""

import pytest

from llada.eval.arguments import known_arguments, read_arguments, read_gen_kwargs
from llada.sampling.config import SamplerConfig

ORIGINAL = {
    "model_path": "folder", "mc_num": 64, "batch_size": "16", "cfg": 0.5, "steps": 32, "gen_length": 32,
    "block_length": 16, "remasking": "low_confidence", "temperature": 0.0, "is_check_greedy": False, "mask_id": 7,
    "max_length": 512, "logits_eos_inf": True, "confidence_eos_eot_inf": False, "device": "cpu", "max_batch_size": None,
}  # fmt: skip


def test_names_of_the_original_are_taken():
    source, settings = read_arguments(ORIGINAL)
    assert (source.pretrained, source.mask_token_id, source.device) == ("folder", 7, "cpu")
    assert (settings.samples, settings.batch_size, settings.check_greedy, settings.max_length) == (64, 16, False, 512)
    assert settings.sampler == SamplerConfig(
        steps=32, gen_length=32, block_length=16, order="confidence", temperature=0.0, cfg_scale=0.5, forbid_eos=True,
        eos_last=False,
    )  # fmt: skip


def test_a_published_sampler_is_taken_with_changes():
    _, settings = read_arguments({"pretrained": "x", "sampler": "threshold", "threshold": 0.8, "gen_length": 64})
    assert settings.sampler == SamplerConfig.named("threshold", threshold=0.8, gen_length=64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mc_nums": 4}, r"unknown argument 'mc_nums'; known: .*block_length.*mc_num.*pretrained"),
        ({"samples": 4}, "mc_num and samples are two names of one thing"),
        ({"remasking": "best"}, "remasking='best'; known: low_confidence, random"),
        ({"order": "margin"}, "remasking and order are two names of one thing"),
        ({"batch_size": "auto"}, "batch_size: give a number of rows"),
        ({"sampler": "nothing"}, "unknown sampler 'nothing'; known: "),
        ({"steps": 3}, "steps=3 cannot be shared equally"),
        ({"precision": 0}, "precision: Input should be greater than 0"),
        ({"mc_num": 0}, "samples: Input should be greater than or equal to 1"),
        ({"dtype": "int8"}, "dtype: Input should be 'auto'"),
        ({"model_path": None}, "missing key 'pretrained'"),
    ],
)
def test_wrong_arguments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        read_arguments(ORIGINAL | changes)


def test_every_known_argument_is_one():
    assert set(ORIGINAL) - {"max_batch_size"} <= set(known_arguments())
    for name in known_arguments():
        with pytest.raises(ValueError) as error:  # noqa: PT011 - some other thing is wrong, not the name
            read_arguments({name: object()})
        assert "unknown argument" not in str(error.value)


PLAIN = SamplerConfig()


@pytest.mark.parametrize(
    ("sampler", "kwargs", "wanted", "until", "most"),
    [
        (PLAIN, {}, PLAIN.replace(gen_length=256), [], None),
        (PLAIN, {"until": "a", "max_gen_toks": 8}, PLAIN.replace(gen_length=8), ["a"], 8),
        (PLAIN, {"until": ["a", ""], "max_new_tokens": 8}, PLAIN.replace(gen_length=8), ["a"], 8),
        (SamplerConfig(gen_length=64), {"max_gen_toks": 8}, SamplerConfig(gen_length=64), [], 8),
        (PLAIN, {"gen_length": 4, "max_gen_toks": 8}, PLAIN.replace(gen_length=4), [], 8),
        (PLAIN, {"do_sample": True}, SamplerConfig(gen_length=256, temperature=1.0), [], None),
        (
            PLAIN,
            {"temperature": 0.5, "top_p": 0.9},
            SamplerConfig(gen_length=256, temperature=0.5, top_p=0.9),
            [],
            None,
        ),
        (PLAIN, {"do_sample": False, "temperature": 0.0}, PLAIN.replace(gen_length=256), [], None),
        (SamplerConfig(temperature=0.5), {"max_gen_toks": 4}, SamplerConfig(temperature=0.5, gen_length=4), [], 4),
        (PLAIN, {"steps": 4, "gen_length": 8}, SamplerConfig(steps=4, gen_length=8), [], None),
    ],
)
def test_what_a_task_asks_is_honoured(sampler, kwargs, wanted, until, most):
    asked = read_gen_kwargs(sampler, kwargs)
    assert asked.sampler == wanted
    assert asked.until == until
    assert asked.most == most


def test_what_has_no_effect_without_drawing_is_said(caplog):
    asked = read_gen_kwargs(PLAIN, {"do_sample": False, "temperature": 1.0, "top_p": 0.9, "max_gen_toks": 4})
    assert asked.sampler == SamplerConfig(gen_length=4)
    assert "do_sample=False, under which its temperature has no effect" in caplog.text
    assert "do_sample=False, under which its top_p has no effect" in caplog.text


@pytest.mark.parametrize(
    ("sampler", "kwargs", "message"),
    [
        (
            PLAIN,
            {"num_beams": 4},
            r"the task asks for num_beams=4, which has no meaning here; known: alpha_on.*until",
        ),
        (PLAIN, {"until": 3}, "until=3 must be a text or a list of texts"),
        (PLAIN, {"max_gen_toks": 0}, "max_gen_toks=0 must be a number of tokens"),
        (PLAIN, {"max_gen_toks": 4, "max_tokens": 8}, "contradict each other"),
        (PLAIN, {"do_sample": True, "temperature": 0.0}, "do_sample=True at temperature=0.0; set one above 0"),
        (SamplerConfig(temperature=0.5), {"do_sample": False}, "but the sampler has temperature=0.5"),
        (SamplerConfig(temperature=0.5), {"temperature": 0.7}, "temperature=0.7, the sampler for 0.5; leave one out"),
        (SamplerConfig(steps=16), {"max_gen_toks": 8}, "steps=16 exceeds gen_length=8"),
        (PLAIN, {"max_gen_toks": True}, "max_gen_toks=True must be a number of tokens"),
        (PLAIN, {"temperature": "0.0"}, "temperature='0.0'; give a number"),
        (PLAIN, {"temperature": True}, "temperature=True; give a number"),
        (PLAIN, {"do_sample": "false"}, "do_sample='false'; give true or false"),
        (PLAIN, {"do_sample": 0}, "do_sample=0; give true or false"),
    ],
)
def test_what_a_task_asks_and_the_sampler_cannot_do_is_refused(sampler, kwargs, message):
    with pytest.raises(ValueError, match=message):
        read_gen_kwargs(sampler, kwargs)
