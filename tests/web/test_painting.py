"""The HTML of a canvas and of a conversation."""

from html.parser import HTMLParser

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llada.data.tokenizer import SMALLEST_VOCABULARY, encode, train_tokenizer
from llada.show.frames import Frames
from llada.show.levels import LEVELS
from llada.web.painting import STYLE, legend, painted, turns

BYTES = train_tokenizer(["the model reads"], SMALLEST_VOCABULARY)  # a token for each byte
MASK, EOS = BYTES.mask_token_id, BYTES.eos_token_id


class Reader(HTMLParser):
    """The elements of a page with their text; fails where one is not closed as it should be."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[int] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs), []))
        self._open.append(len(self.found) - 1)

    def handle_endtag(self, tag):
        assert self.found[self._open.pop()][0] == tag

    def handle_data(self, data):
        self.found[self._open[-1]][2].append(data)

    def texts(self, tag: str) -> list[str]:
        return ["".join(text) for name, _, text in self.found if name == tag]

    def attributes(self, tag: str, name: str) -> list[str]:
        return [str(attributes[name]) for found, attributes, _ in self.found if found == tag]


def canvas(*tokens: int) -> torch.Tensor:
    return torch.tensor(tokens)


@settings(max_examples=100)
@given(st.text())
def test_any_text_stays_text(text):
    frame = Frames(canvas(*encode(BYTES, text)), MASK).first
    read = Reader(painted(BYTES, frame))
    assert {tag for tag, *_ in read.found} <= {"div", "span"}
    assert "".join(read.texts("span")) == text.replace("\n", "↵\n")
    said = Reader(turns([{"role": text, "content": text}]))
    assert said.texts("p") == [text]
    assert {tag for tag, *_ in said.found} == {"div", "p", "b"}


def test_masks_levels_and_news_are_marked():
    a, b, c = encode(BYTES, "abc")
    frames = Frames(canvas(a, MASK, MASK, MASK, MASK), MASK)
    frames.after(canvas(a, b, MASK, c, MASK), torch.tensor([1.0, 0.9, 1.0, 0.1, 1.0], dtype=torch.float64))
    frame = frames.after(canvas(a, b, EOS, MASK, MASK), torch.tensor([1.0, 1.0, 0.5, 1.0, 1.0], dtype=torch.float64))
    read = Reader(painted(BYTES, frame, counted_from=1))
    assert read.attributes("span", "class") == ["", "level0", "special level1 fresh", "masked again", "masked"]
    assert read.texts("span") == ["a", "b", "·", "░", "░"]
    assert read.attributes("span", "title") == [
        "prompt",
        "position 0, step 1, probability 0.900",
        "position 1: <|endoftext|>, step 2, probability 0.500",
        "position 2",
        "position 3",
    ]
    assert read.attributes("div", "data-step") == ["2"]
    assert len(Reader(painted(BYTES, frame, 3)).texts("span")) == 2


def test_every_class_has_a_style_and_a_place_in_the_legend():
    shown = Reader(legend()).attributes("span", "class")
    assert shown == ["level0", "level1", "level2", "masked", "again", "fresh"]
    assert all(f".{name}" in STYLE for name in (*shown, "special"))
    assert all(level.colour in STYLE for level in LEVELS)
