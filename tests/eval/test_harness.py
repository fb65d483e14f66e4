"""LLaDA under lm-evaluation-harness: what it reports is what the library computes."""

import json
import math
from pathlib import Path

import pytest
import torch
from harness_tasks import KINDS, rows, write_task, write_tasks
from jinja2 import UndefinedError
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager
from processes import run

import llada
from llada.data.chat import encode_prompt
from llada.data.tokenizer import encode
from llada.eval.arguments import Settings
from llada.eval.harness import LLaDAHarness
from llada.eval.likelihood import rolling_log_likelihood
from llada.eval.responses import key_of
from llada.eval.texts import encode_context

pytestmark = pytest.mark.usefixtures("undescribed_machine")
SETTINGS = Settings(samples=6, seed=3, sampler=llada.SamplerConfig(steps=4))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder)
    return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture(scope="module")
def folder(asked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    asked.model.save_pretrained(folder)
    asked.tokenizer.save_pretrained(folder)
    return folder


def harness(asked, **changes):
    return LLaDAHarness(asked.model, asked.tokenizer, SETTINGS.replace(**changes))


def request(kind, *args, document=0, index=0, repeats=1):
    return Instance(kind, {}, args, index, ("task", document, repeats))


def scores(lm, pairs, document=None):
    given = [request("loglikelihood", *p, document=i if document is None else document) for i, p in enumerate(pairs)]
    return lm.loglikelihood(given)


def evaluated(lm, tasks, names=tuple(KINDS)):
    return simple_evaluate(lm, tasks=list(names), task_manager=tasks, bootstrap_iters=0)


def direct(asked, question, answer, **options):
    prompt, answer = encode(asked.tokenizer, question), encode(asked.tokenizer, answer)
    return llada.log_likelihood(asked.model, prompt, answer, 6, 3, **options).value


def test_reported_numbers_are_those_of_the_library(asked, tasks):
    found = evaluated(harness(asked), tasks)["results"]
    right = perplexity = greedy = same = words = size = bits = 0
    for row in rows():
        values = [direct(asked, row["question"], " " + choice) for choice in row["choices"]]
        right += values.index(max(values)) == row["label"]
        perplexity += direct(asked, row["question"], row["answer"])
        prompt = torch.tensor([encode(asked.tokenizer, row["question"])])
        answer = encode(asked.tokenizer, row["answer"])
        one = llada.generate(asked.model, prompt, sampler=llada.SamplerConfig(gen_length=len(answer)))
        greedy += one.sequences[0, prompt.shape[1] :].tolist() == answer
        out = llada.generate(asked.model, prompt, sampler=llada.SamplerConfig(gen_length=8, steps=4), seed=3)
        ids = out.sequences[0, prompt.shape[1] :].tolist()
        ids = ids[: ids.index(asked.tokenizer.eos_token_id)] if asked.tokenizer.eos_token_id in ids else ids
        text = asked.tokenizer.decode(ids, skip_special_tokens=True)
        same += text.partition("\n")[0] == row["answer"]
        ids = encode(asked.tokenizer, row["text"])
        window = 96 if len(ids) <= 96 else 48
        bits += rolling_log_likelihood(asked.model, ids, window, 96 - window, 6, 3).value
        words, size = words + len(row["text"].split(" ")), size + len(row["text"].encode())
    assert found["choice"]["acc,none"] == right / 6
    assert found["likelihood"]["perplexity,none"] == pytest.approx(math.exp(-perplexity / 6), rel=1e-9)
    assert found["likelihood"]["acc,none"] == greedy / 6
    assert found["writing"]["exact_match,none"] == same / 6
    assert found["rolling"]["bits_per_byte,none"] == pytest.approx(-bits / size / math.log(2), rel=1e-9)
    assert found["rolling"]["word_perplexity,none"] == pytest.approx(math.exp(-bits / words), rel=1e-9)
    assert any(len(encode(asked.tokenizer, row["text"])) > 96 for row in rows())  # one is cut into windows


def test_responses_do_not_depend_on_batches_or_on_the_order(asked, tasks):
    pairs = [(row["question"], choice) for row in rows() for choice in row["choices"]]
    one = scores(harness(asked, batch_size=1), pairs)
    other = scores(harness(asked, batch_size=7), pairs[::-1])[::-1]
    assert [value for value, _ in one] == pytest.approx([value for value, _ in other], abs=1e-9)
    assert [greedy for _, greedy in one] == [greedy for _, greedy in other]
    kwargs = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 8}
    asking = [request("generate_until", row["question"], kwargs, document=i) for i, row in enumerate(rows())]
    texts = harness(asked, batch_size=1).generate_until(asking)
    assert texts == harness(asked, batch_size=4).generate_until(asking[::-1])[::-1]
    assert texts != harness(asked, batch_size=4, seed=4).generate_until(asking)


def test_a_model_without_an_end_of_sequence_is_told_what_needs_it(asked, monkeypatch):
    monkeypatch.setattr(asked.model.config, "eos_token_id", None)
    with pytest.raises(ValueError, match=r"the end of an answer needs model.config.eos_token_id, which is not set"):
        harness(asked).generate_until([request("generate_until", "What is", {"max_gen_toks": 8})])


def test_likelihoods_are_not_guided_by_what_they_lack(asked):
    adaptive = llada.SamplerConfig(steps=4, cfg_scale=0.5, guidance="adaptive")
    with pytest.raises(ValueError, match="guidance: adaptive is not that of likelihoods"):
        scores(harness(asked, sampler=adaptive), [("What is", " 3")])
    assert harness(asked, sampler=adaptive).generate_until([request("generate_until", "What is", {"max_gen_toks": 8})])


def test_repeated_draws_differ_and_equal_documents_agree(asked):
    kwargs = {"do_sample": True, "max_gen_toks": 8}
    twice = [request("generate_until", "What is", kwargs, repeats=2)] * 2
    again = [request("generate_until", "What is", kwargs, document=1)]
    texts = harness(asked).generate_until(twice + again)
    assert texts[0] != texts[1]
    assert texts[0] == texts[2]


def test_every_setting_changes_what_is_answered(asked):
    pairs = [("What is 1 plus 1?", " The answer is a number")]
    base = scores(harness(asked), pairs)[0][0]
    length = len(encode(asked.tokenizer, "".join(pairs[0])))
    guided = {"sampler": SETTINGS.sampler.replace(cfg_scale=1.0)}
    for changes in ({"samples": 8}, {"seed": 4}, {"max_length": length - 1}, guided):
        assert scores(harness(asked, **changes), pairs)[0][0] != base
    assert scores(harness(asked, **guided), pairs)[0][0] == pytest.approx(direct(asked, *pairs[0], cfg_scale=1.0))
    asking = [request("generate_until", "What is", {"max_gen_toks": 16})]
    written = harness(asked).generate_until(asking)
    assert harness(asked, sampler=llada.SamplerConfig(order="random")).generate_until(asking) != written


def test_greedy_answers_are_recognised(asked):
    prompt = encode(asked.tokenizer, "What is 4 plus 3?")
    sampler = llada.SamplerConfig(gen_length=3, suppress_tokens=asked.base.suppress_tokens)
    bias = torch.zeros(len(asked.tokenizer), dtype=torch.float64)
    bias[sampler.suppress_tokens] = -torch.inf

    def readable(_module, _inputs, output):
        output.logits = output.logits + bias
        return output

    handle = asked.model.register_forward_hook(readable)
    try:
        ids = llada.generate(asked.model, torch.tensor([prompt]), sampler=llada.SamplerConfig(gen_length=3)).sequences
        text = asked.tokenizer.decode(ids[0, len(prompt) :])
        assert encode(asked.tokenizer, text) == ids[0, len(prompt) :].tolist()
        pairs = [("What is 4 plus 3?", text), ("What is 4 plus 3?", text + "!"), ("What is 4 plus 3?", "4")]
        assert [greedy for _, greedy in scores(harness(asked), pairs)] == [True, False, False]
        assert not scores(harness(asked, check_greedy=False), pairs)[0][1]
        assert not scores(harness(asked), pairs, document=0)[0][1]  # choices, whose accuracy is made of likelihoods
        assert scores(harness(asked, check_greedy=True), pairs, document=0)[0][1]
    finally:
        handle.remove()


def test_blanks_at_the_end_of_a_context_are_scored_with_the_continuation(asked):
    given = scores(harness(asked), [("What is 1?  ", "two"), ("What is 1?", "  two"), ("", "two")])
    assert given[0] == given[1]
    assert given[2][0] == pytest.approx(
        llada.log_likelihood(asked.model, [], encode(asked.tokenizer, "two"), 6, 3).value
    )


def test_long_contexts_lose_their_beginning_and_are_counted(asked, caplog):
    lm, text = harness(asked), "What is it? " * 40
    ids = encode(asked.tokenizer, text.rstrip())
    answer = encode(asked.tokenizer, " two")
    value = scores(lm, [(text.rstrip(), " two"), ("What", " two")])[0][0]
    kept = ids[len(ids) - (96 - len(answer)) :]
    assert value == pytest.approx(llada.log_likelihood(asked.model, kept, answer, 6, 3).value)
    dropped = len(ids) + len(answer) - 96
    assert (
        f"1 of 2 contexts were longer than the model holds; of the longest one the first {dropped} tok" in caplog.text
    )
    assert lm.responses.find(key_of("loglikelihood", (text.rstrip(), " two")))["dropped"] == dropped


def test_text_ends_at_the_first_stop_string_and_at_most_tokens(asked):
    lm = harness(asked)
    whole = lm.generate_until([request("generate_until", "What is", {"max_gen_toks": 12})])[0]
    stop = whole[len(whole) // 2]
    asking = request("generate_until", "What is", {"max_gen_toks": 12, "until": ["never", stop]})
    assert lm.generate_until([asking]) == [whole.partition(stop)[0]]
    longer = harness(asked, sampler=llada.SamplerConfig(gen_length=12, steps=4))
    short = longer.generate_until([request("generate_until", "What is", {"max_gen_toks": 3})])[0]
    assert short
    assert whole.startswith(short)
    assert longer.responses.find(key_of("generate_until", ("What is", {"max_gen_toks": 3})))["cut"]


def test_conversations_are_encoded_as_for_training(asked, tasks):
    lm = harness(asked)
    samples = simple_evaluate(lm, tasks=["writing", "choice"], task_manager=tasks, apply_chat_template=True,
                              system_instruction="Be <|eot_id|> brief.", bootstrap_iters=0)["samples"]  # fmt: skip
    text = samples["writing"][0]["arguments"][0][0]
    messages = [
        {"role": "system", "content": "Be <|eot_id|> brief."},
        {"role": "user", "content": rows()[0]["question"]},
    ]
    assert encode_context(asked.tokenizer, text) == encode_prompt(asked.tokenizer, messages)
    value = samples["choice"][0]["resps"][0][0][0]
    answer = encode(asked.tokenizer, rows()[0]["choices"][0])
    ids = encode_prompt(asked.tokenizer, messages)
    assert value == pytest.approx(llada.log_likelihood(asked.model, ids, answer, 6, 3).value)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("What is", ""), "task task, document 0: the answer is empty"),
        (("What is", "two " * 200), "exceed the model's 96"),
    ],
)
def test_continuations_that_cannot_be_scored_are_refused(asked, args, message):
    with pytest.raises(ValueError, match=message):
        scores(harness(asked), [args])


def test_prompts_without_room_for_an_answer_are_refused(asked):
    with pytest.raises(ValueError, match=r"document 0: an answer of 96 tokens leaves no room for a prompt in max_len"):
        harness(asked).generate_until([request("generate_until", "What is", {"max_gen_toks": 96})])
    with pytest.raises(ValueError, match=r"max_length=97 exceeds the model's 96 tokens"):
        harness(asked, max_length=97)


def test_texts_that_cannot_be_scored_are_refused(asked):
    with pytest.raises(ValueError, match=r"document 0: the text is empty, so it has no perplexity"):
        harness(asked).loglikelihood_rolling([request("loglikelihood_rolling", "")])
    with pytest.raises(ValueError, match=r"cfg_scale has no meaning for a whole text"):
        harness(asked, sampler=llada.SamplerConfig(cfg_scale=1.0)).loglikelihood_rolling([])


def test_logits_that_are_no_numbers_stop_every_kind(asked):
    def poison(_module, _inputs, output):
        output.logits = output.logits * torch.nan
        return output

    handle = asked.model.register_forward_hook(poison)
    try:
        lm = harness(asked)
        for method, args in (("loglikelihood", ("a", "b")), ("loglikelihood_rolling", ("a b",)),
                             ("generate_until", ("a", {"max_gen_toks": 4}))):  # fmt: skip
            with pytest.raises(FloatingPointError, match="the model's logits are not numbers"):
                getattr(lm, method)([request(method, *args)])
            assert not lm.responses.known()
    finally:
        handle.remove()
    assert scores(harness(asked), [("a", "b")])[0][0] < 0  # nothing is left behind


def test_it_is_built_from_lm_evals_arguments(asked, folder):
    made = get_model("llada").create_from_arg_string(
        f"pretrained={folder},mc_num=6,seed=3,steps=4,remasking=random,cfg=0.5,dtype=float64",
        {"batch_size": "5", "device": "cuda:0", "max_batch_size": None},
    )
    assert made.settings == SETTINGS.replace(
        batch_size=5, sampler=llada.SamplerConfig(steps=4, order="random", cfg_scale=0.5)
    )
    assert made.model.dtype == torch.float64
    assert made.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    ((value, greedy),) = scores(made, [("a", "b")])
    ((expected, same),) = scores(LLaDAHarness(asked.model, asked.tokenizer, made.settings), [("a", "b")])
    assert (value, greedy) == (pytest.approx(expected, abs=1e-12), same)  # where tensors lie in memory decides rounding


def test_it_has_the_name_of_the_original_too():
    assert get_model("llada_dist") is get_model("llada") is LLaDAHarness


def test_a_model_without_a_tokenizer_is_refused(golden):
    with pytest.raises(ValueError, match=r"tiny-mha has no tokenizer, so it cannot be asked in text"):
        get_model("llada").create_from_arg_obj({"pretrained": str(golden.folder)})


def test_two_processes_report_what_one_does(asked, folder, tmp_path):
    write_tasks(tmp_path, 7)  # an odd number, so that the shares differ
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)

    def evaluate(file: Path) -> None:
        found = simple_evaluate("llada", f"pretrained={folder},mc_num=6,seed=3,order=random", bootstrap_iters=0,
                                tasks=[*KINDS], task_manager=manager, gen_kwargs="do_sample=True")  # fmt: skip
        if found is not None:
            samples = sorted(found["samples"]["writing"], key=lambda sample: sample["doc_id"])
            file.write_text(json.dumps([found["results"], [one["resps"][0][0] for one in samples]], default=float))

    evaluate(tmp_path / "1.json")
    run(lambda: evaluate(tmp_path / "2.json"), tmp_path / "output", processes=2)
    (one, texts), (two, texts_of_two) = (json.loads((tmp_path / f"{count}.json").read_text()) for count in (1, 2))
    assert texts == texts_of_two
    assert len(set(texts)) > 1
    for name, results in one.items():
        for metric, value in results.items():
            assert two[name][metric] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)


def test_missing_columns_are_named(asked, tmp_path):
    write_task(tmp_path, "broken", "writing", [{"answer": "1"}])
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    with pytest.raises(UndefinedError, match="'question' is undefined"):
        evaluated(harness(asked), manager, ["broken"])
