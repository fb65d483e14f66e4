"""Answers in batches are those that each request would have got alone."""

import threading
import time
from collections.abc import Sequence

import pytest
import torch

from llada.config import read_yaml
from llada.data.tokenizer import encode
from llada.sampling.config import SamplerConfig
from llada.sampling.generate import generate, infill
from llada.sampling.passes import most_passes
from llada.serve.protocol import Asked
from llada.serve.scheduler import FullError, Job, Progress, Scheduler

PUBLISHED = ["low_confidence", "random", "semi_autoregressive", "margin", "threshold", "remdm_conf", "free_dave",
             "speculative", "dual_cache", "daedal", "guided", "token_editing", "p2"]  # fmt: skip


class Told:
    """What the scheduler says of one answer, each time with the tokens that it told before."""

    def __init__(self):
        self.all: list[Progress] = []
        self.done = threading.Event()

    def __call__(self, progress: Progress) -> None:
        before = self.all[-1].ids if self.all else []
        self.all.append(progress._replace(ids=before + progress.ids))
        if progress.finish or progress.error:
            self.done.set()

    @property
    def last(self) -> Progress:
        assert self.done.wait(60)
        return self.all[-1]


@pytest.fixture
def scheduler(model, tokenizer):
    made = Scheduler(model, tokenizer.pad_token_id, batch=4, waiting=8)
    yield made
    made.close()


def job(asked: Asked, told: Told, *, follow: bool = False) -> Job:
    return Job(asked, told, follow)


def asked(tokenizer, text: str, sampler: SamplerConfig, seed: int = 0, **more) -> Asked:
    most = sampler.most_tokens
    given = {"prompt": encode(tokenizer, text), "suffix": None, "most": most, "row": 0} | more
    return Asked(sampler=sampler, seed=seed, **given)


def until_end(model, ids: Sequence[int]) -> list[int]:
    ends = (model.config.eos_token_id, model.config.eot_token_id)
    place = next((i for i, token in enumerate(ids) if token in ends), len(ids) - 1)
    return list(ids[: place + 1])


def named(name: str) -> SamplerConfig:
    lengths = {"gen_length": 8, "longest": 24} if name == "daedal" else {"gen_length": 16}
    blocks = {"block_length": 4} if "block_length" in read_yaml(SamplerConfig.file_of(name)) else {}
    steps = {"steps": 16} if name == "remdm_conf" else {}
    return SamplerConfig.named(name, **lengths, **blocks, **steps)


@pytest.mark.parametrize("name", PUBLISHED)
def test_neighbours_change_nothing_and_what_was_told_stays(model, tokenizer, scheduler, name, caplog):
    sampler = named(name)
    texts = ["a", "the model reads", "it", "one row", "of tokens", "more"]  # without any, all masks are alike
    told = [Told() for _ in texts]
    scheduler.submit(
        [job(asked(tokenizer, t, sampler, seed=i), told[i], follow=i % 2 == 0) for i, t in enumerate(texts)]
    )
    for seed, (text, heard) in enumerate(zip(texts, told, strict=True)):
        prompt = torch.tensor([encode(tokenizer, text)], dtype=torch.long)
        alone = generate(model, prompt, None, sampler, seed)
        assert heard.last.ids == until_end(model, alone.sequences[0, prompt.shape[1] :].tolist())
        assert heard.last.forward_passes <= min(int(alone.forward_passes), most_passes(sampler, range(16)))
        for progress in heard.all:
            assert heard.last.ids[: len(progress.ids)] == progress.ids
        assert len(heard.all) == 1 or seed % 2 == 0  # only who asked for it is told before the end
    assert not caplog.records  # they were generated together


def test_what_is_settled_is_told_while_the_rest_is_written(tokenizer, scheduler):
    told = Told()
    scheduler.submit(
        [job(asked(tokenizer, "a", SamplerConfig(gen_length=8, order="left_to_right")), told, follow=True)]
    )
    assert told.last.finish in ("stop", "length")
    assert [len(progress.ids) for progress in told.all] == list(range(1, len(told.last.ids) + 1))


def test_answer_that_finds_its_length_is_told_of_from_its_first_call_on(tokenizer, scheduler):
    """What is settled of it is known in the end alone."""
    told = Told()
    scheduler.submit([job(asked(tokenizer, "a", named("daedal")), told, follow=True)])
    assert told.last.finish in ("stop", "length")
    first, last = told.all
    assert (first.ids, first.finish, first.forward_passes) == ([], None, 1)
    assert last.forward_passes > 1


def test_answer_is_cut_where_the_request_ends(tokenizer, scheduler):
    whole, cut = Told(), Told()
    sampler = SamplerConfig(gen_length=8, block_length=4, forbid_eos=True)
    scheduler.submit([job(asked(tokenizer, "b", sampler), whole), job(asked(tokenizer, "b", sampler, most=5), cut)])
    assert cut.last.ids == whole.last.ids[:5]
    assert cut.last.forward_passes <= whole.last.forward_passes


def test_gaps_are_filled_between_what_is_given(model, tokenizer, scheduler):
    sampler, told = SamplerConfig(temperature=1.0), [Told(), Told(), Told()]
    fillings = [
        asked(tokenizer, text, sampler, seed=seed, most=most, suffix=encode(tokenizer, "end"))
        for seed, (text, most) in enumerate([("ab", 5), ("cd", 5), ("e", 3)])
    ]
    scheduler.submit([job(one, heard) for one, heard in zip(fillings, told, strict=True)])
    for one, heard in zip(fillings, told, strict=True):
        canvas = torch.tensor([[*one.prompt, *[model.config.mask_token_id] * one.most, *one.suffix]])
        alone = infill(model, canvas, None, sampler, one.seed).sequences[0].tolist()
        assert heard.last.ids == until_end(model, alone[len(one.prompt) : len(one.prompt) + one.most])


def test_one_that_fails_fails_alone(model, tokenizer, scheduler):
    """Both in one batch: a token that the model does not have, beside a text."""
    good, bad = Told(), Told()
    sampler = SamplerConfig(gen_length=4)
    scheduler.submit(
        [job(asked(tokenizer, "", sampler, prompt=[9999]), bad), job(asked(tokenizer, "fine", sampler), good)]
    )
    assert "9999" in str(bad.last.error)
    assert good.last.error is None
    assert good.last.ids


def test_requests_of_different_samplers_are_both_answered(tokenizer, scheduler):
    told = [Told() for _ in range(6)]
    lengths = [4, 8, 4, 8, 4, 8]
    scheduler.submit(
        [
            job(asked(tokenizer, "x", SamplerConfig(gen_length=n, forbid_eos=True)), heard)
            for n, heard in zip(lengths, told, strict=True)
        ]
    )
    assert all(len(heard.last.ids) <= n for n, heard in zip(lengths, told, strict=True))
    assert scheduler.batches <= 4  # of equal samplers, in the order of arrival


def test_a_batch_waits_for_others_and_begins_once_it_is_full(model, tokenizer):
    scheduler = Scheduler(model, tokenizer.pad_token_id, batch=3, waiting=8, gather=600)
    told = [Told() for _ in range(3)]
    for heard in told:
        scheduler.submit([job(asked(tokenizer, "x", SamplerConfig(gen_length=4)), heard)])
    assert all(heard.last.finish for heard in told)
    assert scheduler.batches == 1
    scheduler.submit([job(asked(tokenizer, "x", SamplerConfig(gen_length=4)), alone := Told())])
    scheduler.close()  # does not wait for others
    assert isinstance(alone.last.error, InterruptedError)


def test_room_is_limited_and_a_request_is_taken_whole_or_not_at_all(tokenizer, scheduler):
    slow = SamplerConfig(gen_length=128, forbid_eos=True)
    first = [job(asked(tokenizer, "x", slow), Told()) for _ in range(4)]
    scheduler.submit(first)
    while scheduler.waiting:
        time.sleep(0.001)
    scheduler.submit([job(asked(tokenizer, "x", slow), Told()) for _ in range(7)])
    told = Told()
    with pytest.raises(FullError, match="7 answers are waited for already, of 8 at most; ask again later"):
        scheduler.submit([job(asked(tokenizer, "x", slow), told) for _ in range(2)])
    assert scheduler.waiting == 7
    for each in [*first, *scheduler._queue]:
        each.cancelled = True


def test_answers_that_are_given_up_take_no_room(tokenizer, scheduler):
    slow = SamplerConfig(gen_length=128, forbid_eos=True)
    first = job(asked(tokenizer, "x", slow), Told())
    scheduler.submit([first])
    while not scheduler.running:
        time.sleep(0.001)
    for _ in range(20):
        given_up = [job(asked(tokenizer, "x", slow), Told()) for _ in range(8)]
        scheduler.submit(given_up)
        for each in given_up:
            each.cancelled = True
        assert len(scheduler._queue) <= 8
    first.cancelled = True


@pytest.mark.parametrize("seed", range(4))
def test_who_follows_an_answer_is_told_after_its_first_call(tokenizer, scheduler, seed):
    """Whether or not the token that was revealed in it is the first one."""
    told, sampler = Told(), SamplerConfig(gen_length=4, order="random", forbid_eos=True)
    scheduler.submit([job(asked(tokenizer, "x", sampler, seed=seed), told, follow=True)])
    assert told.last.finish
    assert told.all[0].forward_passes == 1


def test_what_nobody_waits_for_is_not_done(tokenizer, scheduler):
    slow = SamplerConfig(gen_length=128, forbid_eos=True)
    told = [Told(), Told()]
    jobs = [job(asked(tokenizer, "x", slow), each, follow=True) for each in told]
    scheduler.submit(jobs[:1])
    while not scheduler.running:
        time.sleep(0.001)
    scheduler.submit([*jobs[1:], job(asked(tokenizer, "y", SamplerConfig(gen_length=4)), after := Told())])
    jobs[0].cancelled = jobs[1].cancelled = True
    assert after.last.ids
    assert not any(each.done.is_set() for each in told)


GROWING = SamplerConfig.named("daedal", gen_length=8, longest=24, threshold=1.0)  # in as many calls as it may take


@pytest.mark.parametrize("ending", ["cancelled", "closed"])
def test_answers_that_find_their_length_are_given_up_within_a_call(model, tokenizer, scheduler, ending):
    """All but the second of three are given up during a call of the first one."""
    told = [Told() for _ in range(3)]
    jobs = [job(asked(tokenizer, "x", GROWING), each) for each in told]
    calls = []

    def called(*_):
        calls.append(scheduler.running)
        if len(calls) == 2:
            scheduler._closed = ending == "closed"
            jobs[0].cancelled = jobs[2].cancelled = ending == "cancelled"

    with model.register_forward_hook(called):
        scheduler.submit(jobs)
        assert (told[1].last.error is None) == (ending == "cancelled")
        scheduler.close()
    assert len(calls) == 2 + told[1].last.forward_passes == scheduler.forward_passes
    assert [len(each.all) for each in told] == ([0, 1, 0] if ending == "cancelled" else [1, 1, 1])


def test_an_answer_is_not_written_again_where_another_one_fails(model, tokenizer, scheduler, caplog):
    """Answers that find their length are written one after another, and then the second one fails."""
    good, bad = Told(), Told()
    jobs = [job(asked(tokenizer, "x", GROWING), good)]
    jobs.append(job(asked(tokenizer, "", GROWING, prompt=[9999]), bad))
    calls = []
    with model.register_forward_pre_hook(lambda *_: calls.append(1)):
        scheduler.submit(jobs)
        assert "9999" in str(bad.last.error)
    assert len(calls) == good.last.forward_passes


def test_closing_tells_everybody_who_waits(model, tokenizer, caplog):
    scheduler = Scheduler(model, tokenizer.pad_token_id, batch=2, waiting=8)
    told = [Told() for _ in range(5)]
    slow = SamplerConfig(gen_length=128, forbid_eos=True)
    scheduler.submit([job(asked(tokenizer, "x", slow), each) for each in told])
    while not scheduler.running:
        time.sleep(0.001)
    scheduler.close()
    assert all(isinstance(each.last.error, InterruptedError) for each in told)
    assert not scheduler.alive
    assert not caplog.records
    with pytest.raises(InterruptedError, match="the server is stopping"):
        scheduler.submit([job(asked(tokenizer, "x", slow), Told())])
