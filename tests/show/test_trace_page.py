"""The page of a trace: its data, and what a browser makes of it."""

import html
import json
import re

from browser import document, needs_browser, screenshot
from canvases import TOKENIZER, ids, looks, trace

from llada.show.frames import recorded
from llada.show.page import Told, alternatives_of, page

ANSWER = '</script><b>&amp; "漢"'


def made(*answers: str) -> str:
    traces = [trace(answer) for answer in answers]
    return page(
        TOKENIZER, [Told(f"<{i}>", list(recorded(one)), alternatives_of(one, 0)) for i, one in enumerate(traces)]
    )


def data(text: str) -> list[dict]:
    return json.loads(text.split('type="application/json">')[1].split("</script>")[0])


def text_at(events: list[list[list]], step: int) -> str:
    """The text after a step, with a # for each mask."""
    last = [[event for event in token if event[0] <= step][-1] for token in events]
    return "".join("#" if event[1] is None else event[1] for event in last)


def test_data_gives_every_step_of_every_trace_again():
    for answer, told in zip((ANSWER, "two"), data(made(ANSWER, "two")), strict=True):
        frames = list(recorded(trace(answer)))
        assert told["steps"] == len(frames) - 1
        assert text_at(told["tokens"], 0) == "ab" + "#" * len(ids(answer))
        assert text_at(told["tokens"], told["steps"]) == "ab" + answer
        for frame in frames:
            assert text_at(told["tokens"], frame.step).count("#") == frame.masks


def test_every_token_has_its_step_probability_and_alternatives():
    (told,) = data(made("two"))
    *_, last = told["tokens"]
    first_reveal, masked, again = last[1:]
    assert first_reveal[1:4] == ["o", 0.5, 1]
    assert first_reveal[5] == [["o", 0.5], [TOKENIZER.decode([7]), 0.25]]
    assert masked[:2] == [4, None]
    assert again[:4] == [5, "o", 0.2, 5]


def test_what_is_hidden_is_asked_once_for_each_frame(monkeypatch):
    """It is a list as long as the canvas, so that asking for each token would take the square of that."""
    frames, asked = list(recorded(trace(ANSWER))), looks(monkeypatch)
    page(TOKENIZER, [Told("", frames, {})])
    assert asked == frames


def test_text_of_the_model_is_never_markup():
    text = made(ANSWER)
    assert text.count("</script>") == 2
    assert "<b>" not in text.split("<main")[1]


def test_nothing_is_fetched():
    assert not re.search(r"(src|href)=|https?:|url\(|@import|fetch\(|XMLHttp", made("two"))


@needs_browser
def test_browser_shows_the_last_step_with_text_escaped(tmp_path):
    found = document(made(ANSWER), tmp_path)
    legend, shown = found.split("<main")
    assert 'probability 0</b> <i id="scale" class="bar" style="background: linear-gradient' in legend
    spans = re.findall(r"<span[^>]*>(.*?)</span>", shown, re.DOTALL)
    assert html.unescape("".join(spans)) == "ab" + ANSWER
    assert "<h2>&lt;0&gt;</h2>" in found


@needs_browser
def test_browser_moves_both_traces_with_the_slider(tmp_path):
    script = "slider.value = 1; slider.dispatchEvent(new Event('input'));"
    found = document(made("one", "two"), tmp_path, script)
    shown = re.findall(r'<div class="canvas">(.*?)</div>', found, re.DOTALL)
    texts = ["".join(re.findall(r"<span[^>]*>(.*?)</span>", each)) for each in shown]
    assert texts == ["ab░░e", "ab░░o"]
    assert "step 1 of 5" in found
    assert "1 of 5 steps, 2 masks left" in found


@needs_browser
def test_browser_tells_of_a_token_under_the_pointer(tmp_path):
    script = "shown[0].spans[4].dispatchEvent(new Event('pointerenter'));"
    found = html.unescape(document(made("two"), tmp_path, script))
    assert 'position 4: "o"\nrevealed in step 5, probability 20.0 %\nalternatives then:\n  "o" 20.0 %' in found
    script = "slider.value = 4; draw(); shown[0].spans[4].dispatchEvent(new Event('focus'));"
    assert "position 4: [MASK]" in document(made("two"), tmp_path, script)


@needs_browser
def test_browser_changes_colours_and_theme_and_plays(tmp_path):
    script = (
        "byId('colour').value = 'step'; draw(); byId('theme').click(); byId('theme').click(); byId('play').click();"
    )
    found = document(made("two"), tmp_path, script)
    assert 'data-theme="' in found
    assert "last step</b>" in found
    assert "step 5 of 5" in found  # it has played to the end in virtual time
    plain, by_step = (
        re.findall(r"background: (rgb\([^)]*\))", text.split("<main")[1])
        for text in (document(made("two"), tmp_path), found)
    )
    assert len(plain) == len(by_step) == 3
    assert plain != by_step


@needs_browser
def test_dark_and_light_differ(tmp_path):
    for dark in (False, True):
        screenshot(made(ANSWER, "two"), tmp_path, tmp_path / f"{dark}.png", dark=dark)
    assert (tmp_path / "True.png").read_bytes() != (tmp_path / "False.png").read_bytes()
