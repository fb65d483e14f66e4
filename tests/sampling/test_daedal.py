"""DAEDAL: the answer grows to where its end is believed, and makes room where the model is at a loss."""

import pytest
import torch
from torch import Tensor

from llada.sampling.daedal import daedal, end_confidence
from llada.sampling.denoise import denoise
from llada.sampling.drafts import categorical
from llada.sampling.orders import max_probability
from llada.sampling.uniforms import RowUniforms, Stream

MASK, EOS, V = 9, 8, 9


class Story:
    """A predictor that knows the answer (prompt, then `length` tokens, then EOS) and how sure it is of it.

    From `hidden` masks on at most, the position `doubtful` (counted in the answer) is near uniform while masked
    neighbours surround it.
    """

    def __init__(self, prompt: int, length: int, doubtful: int | None = None):
        self.prompt, self.length, self.doubtful, self.lengths = prompt, length, doubtful, []

    def __call__(self, canvas: Tensor, window: slice) -> Tensor:
        L = canvas.shape[1]
        self.lengths.append(L - self.prompt)
        position = torch.arange(L) - self.prompt
        token = torch.where(position < self.length, position % 7, EOS)
        logits = 8.0 * torch.nn.functional.one_hot(token, V + 1).double()
        if self.doubtful is not None and L - self.prompt < self.doubtful + 40:
            logits[self.prompt + self.doubtful] = 0.0
        return logits[None, window]


def test_answer_grows_until_its_end_is_inside():
    story = Story(prompt=3, length=100)
    *_, grown = daedal(story, torch.tensor([1, 2, 3]), MASK, EOS)
    answer = grown.sequence[3:]
    assert answer[:100].tolist() == [i % 7 for i in range(100)]
    assert (answer[100:] == EOS).all()
    first = story.lengths[: story.lengths.index(max(story.lengths))]
    assert first[:4] == [64, 72, 80, 88]
    assert first[-1] - 100 >= 16  # half of the last 32 positions are the end
    assert len(answer) == first[-1] + 16
    assert grown.forward_passes == len(story.lengths)


def test_there_is_an_answer_after_each_call_and_it_only_grows():
    story = Story(prompt=2, length=64, doubtful=5)
    states = list(daedal(story, torch.tensor([1, 2]), MASK, EOS, initial=24, insert_until=2.0, insert_below=0.2))
    assert [state.forward_passes for state in states] == list(range(1, len(story.lengths) + 1))
    lengths = [len(state.sequence) for state in states]
    assert lengths == sorted(lengths)
    assert [(state.sequence == MASK).any().item() for state in states] == [True] * (len(states) - 1) + [False]


def test_answer_is_never_longer_than_allowed():
    for longest in (64, 70, 90):
        *_, grown = daedal(Story(3, 1000, doubtful=20), torch.tensor([1, 2, 3]), MASK, EOS, longest=longest)
        assert len(grown.sequence) == 3 + longest
        assert not (grown.sequence == MASK).any()


def test_without_insertion_and_threshold_it_is_one_token_a_step_by_maximum_probability():
    table = torch.randn(V + 1, V + 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def predict(canvas: Tensor, window: slice) -> Tensor:
        mean = table[canvas].cumsum(dim=1) / torch.arange(1, canvas.shape[1] + 1)[None, :, None]
        return (mean + table[canvas].flip(1))[:, window]

    prompt = torch.tensor([1, 2, 3])
    *_, grown = daedal(
        predict, prompt, MASK, EOS, initial=24, longest=24, block_length=8, reveal_from=2.0, insert_below=0
    )
    canvas = torch.cat((prompt, torch.full((24,), MASK)))[None]
    blocks = [slice(3 + i, 11 + i) for i in (0, 8, 16)]
    states = list(denoise(predict, canvas, MASK, blocks=blocks, order=max_probability))
    assert torch.equal(grown.sequence, states[-1].canvas[0])
    assert grown.inserted == 0
    assert grown.forward_passes == 24  # the first stage has nothing to decide


def test_doubt_makes_room_and_keeps_what_was_revealed_in_order():
    """Sure of everything but the sixth token, as long as the answer is shorter than 45."""
    story = Story(prompt=2, length=64, doubtful=5)
    *_, grown = daedal(
        story, torch.tensor([1, 2]), MASK, EOS, initial=24, grow_until=0.0, insert_until=2.0, insert_below=0.2
    )
    assert grown.inserted == 7
    assert grown.sequence.tolist() == [1, 2, *(i % 7 for i in range(47))]
    assert story.lengths[:2] == [24, 40]
    assert set(story.lengths[2:]) == {47}


def test_every_step_draws_with_numbers_of_its_own():
    asked: list[tuple[int, int]] = []

    class Watched(RowUniforms):
        def __call__(self, columns: slice, step: int, stream: int) -> Tensor:
            asked.append((step, stream))
            return super().__call__(columns, step, stream)

    uniforms = Watched(torch.tensor([0]), torch.zeros(1, dtype=torch.long), torch.arange(61)[None])
    options = {"initial": 32, "longest": 60, "block_length": 8, "draft": categorical(1.0), "uniforms": uniforms}
    list(daedal(Story(prompt=1, length=20, doubtful=5), torch.tensor([1]), MASK, EOS, **options))
    assert len([stream for _, stream in asked if stream == Stream.DRAFT]) > 2
    assert len(set(asked)) == len(asked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial": 10, "longest": 9}, "initial=10 must lie between 1 and longest=9"),
        ({"initial": 0}, "initial=0"),
        ({"block_length": 0}, "block_length=0 must be at least 1"),
        ({"prompt": torch.tensor([1, MASK])}, "without"),
        ({"prompt": torch.tensor([[1]])}, "single prompt"),
    ],
)
def test_impossible_request_is_explained(options, message):
    prompt = options.pop("prompt", torch.tensor([1]))
    with pytest.raises(ValueError, match=message):
        next(daedal(Story(1, 5), prompt, MASK, EOS, **options))


def test_end_confidence_counts_the_last_positions_that_predict_the_end():
    logits = torch.zeros(64, V, dtype=torch.float64)
    logits[48:, EOS] = 100.0
    assert end_confidence(logits, EOS) == pytest.approx(0.5)
    logits[-1, EOS] = 0.0  # uniform: the first token wins, and its share of the end does not count
    assert end_confidence(logits, EOS) == pytest.approx(15 / 32)
    assert end_confidence(logits[:0], EOS) == 0.0
