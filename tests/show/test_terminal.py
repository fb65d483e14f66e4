"""The canvas in a terminal: what is painted, and what is left on the screen."""

import io
import re
from types import SimpleNamespace

import pytest
import torch
from canvases import MASK, TOKENIZER, ids, trace
from rich.console import Console
from rich.text import Text

from llada.data.tokenizer import encode
from llada.sampling.config import SamplerConfig
from llada.sampling.generate import generation_states
from llada.show.frames import recorded
from llada.show.terminal import LEVELS, legend, painted, watch

FRAMES = list(recorded(trace("漢 one")))


# and what else has no width of its own
ENDS_OF_LINES = [token for token in range(len(TOKENIZER)) if not str(TOKENIZER.decode([token])).isprintable()]


def terminal(width: int = 60, height: int = 20, **options) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, **options)


def plain(frame, start: int = 0) -> str:
    return painted(frame, TOKENIZER, start).plain


def test_masks_and_text_are_painted():
    assert plain(FRAMES[0]) == "ab" + "░" * 7
    assert plain(FRAMES[1]) == "ab" + "░" * 6 + "e"
    assert plain(FRAMES[8]) == "ab漢 on▒"
    assert plain(FRAMES[-1]) == "ab漢 one"
    assert plain(FRAMES[-1], start=2) == "漢 one"


def test_colour_is_the_probability_and_new_tokens_are_marked():
    text = painted(FRAMES[1], TOKENIZER)
    (span,) = [span for span in text.spans if text.plain[span.start : span.end] == "e"]
    assert span.style.color.name == LEVELS[1][1]  # 0.5
    assert span.style.bold and span.style.underline  # noqa: PT018
    kept = painted(FRAMES[2], TOKENIZER)
    (span,) = [span for span in kept.spans if kept.plain[span.start : span.end] == "e"]
    assert not span.style.bold


def test_legend_tells_how_far_it_is():
    assert legend(FRAMES[1]).plain.startswith("step 1, 6 masks left")


def test_control_tokens_are_dots():
    frame = FRAMES[-1]
    ended = [*frame.ids[:-1], TOKENIZER.eos_token_id]
    assert plain(type(frame)(frame.step, ended, frame.marks, frame.probability, frame.revealed_at)) == "ab漢 on·"


class Uniform:
    """Every token is as likely as every other."""

    config = SimpleNamespace(mask_token_id=MASK, eos_token_id=TOKENIZER.eos_token_id, max_position_embeddings=None)

    def __call__(self, canvas, attention_mask=None):
        return SimpleNamespace(logits=torch.zeros(*canvas.shape, len(TOKENIZER), dtype=torch.float64))


def states(prompt, **fields):
    return generation_states(Uniform(), prompt, None, SamplerConfig(gen_length=6, **fields), seed=1)


def test_watching_passes_every_state_on_and_leaves_nothing():
    prompt = torch.tensor([ids("ab")])
    canvas = torch.nn.functional.pad(prompt, (0, 6), value=MASK)
    console = terminal()
    seen = list(watch(states(prompt, temperature=1.0), canvas, MASK, TOKENIZER, console))
    expected = list(states(prompt, temperature=1.0))
    assert [state.canvas.tolist() for state in seen] == [state.canvas.tolist() for state in expected]
    written = console.file.getvalue()
    assert all(f"step {number}, {6 - number} masks left" in written for number in range(7))
    assert written.endswith(("\x1b[2K", "\x1b[?25h"))  # the last line is erased, and the cursor is back


def test_without_colours_masks_and_new_tokens_are_still_told_apart():
    console = terminal(no_color=True)
    console.print(painted(FRAMES[1], TOKENIZER, colours=False))
    written = console.file.getvalue()
    assert "38;2;" not in written
    assert "\x1b[1;3;4me" in written  # italic: probability 0.5
    console.print(legend(FRAMES[1], colours=False))
    assert "\x1b[3mp ≥ 0.3" in console.file.getvalue()


@pytest.mark.parametrize("order", ["left_to_right", "random"])
def test_canvas_taller_than_the_terminal_is_redrawn_in_place_and_shows_what_is_new(order):
    """Between two frames the cursor goes up to where the first began, so that none stays in the scrollback."""
    prompt = torch.tensor([ids("ab")])
    sampler = SamplerConfig(gen_length=240, steps=12, order=order, temperature=1.0, suppress_tokens=ENDS_OF_LINES)
    canvas = torch.nn.functional.pad(prompt, (0, 240), value=MASK)
    console = terminal(30, 8)
    for _ in watch(generation_states(Uniform(), prompt, None, sampler), canvas, MASK, TOKENIZER, console):
        pass
    frames = re.split(r"\r(?:\x1b\[2K|\x1b\[1A)+", console.file.getvalue())
    shown = [Text.from_ansi(frame).plain.splitlines() for frame in frames if "masks left" in frame]
    assert len(shown) == 14  # the first, one for each step, and the last once more
    assert all(len(lines) == 8 and "new" in lines[-1] for lines in shown)
    assert all("\x1b[1;4;" in frame or "\x1b[1;4m" in frame for frame in frames[2:] if "masks left" in frame)


def test_wide_characters_and_long_texts_fit_into_any_width():
    text = "漢字かな交じり文 " * 8
    frame = FRAMES[-1]
    tokens = encode(TOKENIZER, text)
    many = type(frame)(1, tokens, [frame.marks[-1]] * len(tokens), [1.0] * len(tokens), [1] * len(tokens))
    for width in (1, 2, 7, 40, 200):
        console = terminal(width)
        console.print(painted(many, TOKENIZER))
        from rich.cells import cell_len

        lines = Text.from_ansi(console.file.getvalue()).plain.splitlines()
        assert all(cell_len(line) <= max(width, 2) for line in lines)
        if width > 1:
            assert "".join(lines).replace(" ", "") == text.replace(" ", "")
