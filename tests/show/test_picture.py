"""Pictures of a trace: boxes in the colours of their steps, and an animation."""

from base64 import b64encode

import pytest
from browser import evaluated, needs_browser
from canvases import TOKENIZER, looks, trace
from matplotlib import colormaps
from matplotlib.animation import PillowWriter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from llada.show.frames import Frame, recorded
from llada.show.picture import ACROSS, animate, boxes, fonts, order_figure, undrawn, written

FRAMES = list(recorded(trace("two")))


def test_every_token_is_a_box_in_the_colour_of_its_step():
    axis = order_figure(TOKENIZER, FRAMES[-1], "a title").axes[0]
    boxes = [patch for patch in axis.patches if isinstance(patch, Rectangle)]
    assert [text.get_text() for text in axis.texts] == ["a", "b", "t", "w", "o"]
    norm = Normalize(1, 5)
    expected = [to_rgba("#e8e8e8")] * 2 + [colormaps["viridis"](norm(step)) for step in (3, 2, 5)]
    assert [box.get_facecolor() for box in boxes] == [pytest.approx(colour) for colour in expected]


def test_masks_are_dark_and_without_text():
    axis = order_figure(TOKENIZER, FRAMES[0]).axes[0]
    assert [text.get_text() for text in axis.texts] == ["a", "b", "", "", ""]
    assert axis.patches[2].get_facecolor() == to_rgba("#444444")


def test_what_is_hidden_is_asked_once_for_the_texts_and_once_for_the_colours(monkeypatch):
    asked = looks(monkeypatch)
    order_figure(TOKENIZER, FRAMES[1])
    assert asked == FRAMES[1:2] * 2


def test_breaks_and_ends_are_shown_as_signs():
    frame = list(recorded(trace("\n\t$")))[-1]
    ids = [*frame.ids[:-1], TOKENIZER.eos_token_id]
    assert written(TOKENIZER, type(frame)(1, ids, frame.marks, frame.probability, frame.revealed_at)) == [
        "a", "b", "↵", "⇥", "·"
    ]  # fmt: skip


def test_long_texts_are_broken_into_lines():
    frame = list(recorded(trace("$_{not mathematics}$ " * 12)))[-1]
    axis = order_figure(TOKENIZER, frame).axes[0]
    assert all(box.get_x() + box.get_width() <= ACROSS for box in axis.patches)
    assert len({box.get_y() for box in axis.patches}) > 3


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_animation_ends_with_the_last_canvas(suffix, tmp_path):
    passed = list(animate(TOKENIZER, FRAMES, tmp_path / f"run.{suffix}", frames_per_second=4))
    assert passed == FRAMES
    with Image.open(tmp_path / f"run.{suffix}") as picture:
        assert picture.n_frames >= len(FRAMES)
        picture.seek(0)
        first = picture.convert("RGB").tobytes()
        picture.seek(picture.n_frames - 1)
        assert picture.convert("RGB").tobytes() != first


@needs_browser
@pytest.mark.parametrize("kind", ["png", "gif", "webp"])
def test_browser_draws_every_frame(kind, tmp_path):
    path = tmp_path / f"run.{kind}"
    if kind == "png":
        order_figure(TOKENIZER, FRAMES[-1]).savefig(path)
    else:
        list(animate(TOKENIZER, FRAMES, path, frames_per_second=4))
    with Image.open(path) as picture:
        size, frames = picture.size, getattr(picture, "n_frames", 1)  # which Pillow gives only to animations
    found = evaluated(path, _DECODED, [b64encode(path.read_bytes()).decode(), f"image/{kind}"])
    assert found == [*size, frames, *size]


_DECODED = """async ([bytes, type]) => {
    const data = Uint8Array.from(atob(bytes), sign => sign.charCodeAt(0));
    const decoder = new ImageDecoder({data, type});
    await decoder.tracks.ready;
    const frames = decoder.tracks.selectedTrack.frameCount;
    const {image} = await decoder.decode({frameIndex: frames - 1});
    const shown = document.images[0];
    return [shown.naturalWidth, shown.naturalHeight, frames, image.displayWidth, image.displayHeight];
}"""


def test_canvas_without_tokens_is_a_picture_without_boxes(tmp_path):
    nothing = Frame(0, [], [], [], [])
    assert list(order_figure(TOKENIZER, nothing).axes[0].texts) == []
    list(animate(TOKENIZER, [nothing], tmp_path / "nothing.gif", frames_per_second=1))
    assert (tmp_path / "nothing.gif").read_bytes().startswith(b"GIF89a")


@pytest.mark.parametrize("answer", ["two", "one two three " * 12])
def test_titles_lie_inside_and_boxes_have_one_height(answer, tmp_path, monkeypatch):
    """Of a picture and of an animation, whether there is a line or there are many."""
    drawn = []
    monkeypatch.setattr(PillowWriter, "grab_frame", lambda writer, **options: drawn.append(writer.fig))
    frames = list(recorded(trace(answer)))[-1:]
    with pytest.raises(IndexError):  # nothing was grabbed
        list(animate(TOKENIZER, frames, tmp_path / "run.gif"))
    for figure in (drawn[0], order_figure(TOKENIZER, frames[-1], "a title")):
        FigureCanvasAgg(figure).draw()
        axis, *others = figure.axes
        for shown in (axis.title, axis._left_title, *(one.yaxis.label for one in others)):
            box = shown.get_window_extent()
            assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1
        assert axis.patches[0].get_window_extent().height == pytest.approx(0.26 * 0.86 * figure.dpi)


def test_blanks_are_shown_as_signs():
    assert written(TOKENIZER, list(recorded(trace("a b")))[-1])[2:] == ["a", "␣", "b"]


def test_wide_characters_take_the_room_of_two():
    axis = Figure().add_subplot()
    boxes(axis, ["漢字", "abcd", "ab"], ["white"] * 3)
    wide, same, narrow = (patch.get_width() for patch in axis.patches)
    assert wide == same > narrow


def test_fonts_are_those_that_are_installed_and_tell_what_they_lack():
    assert fonts()[0] == "DejaVu Sans Mono"
    assert undrawn(["ab␣↵⇥·", "é"]) == ""
    assert undrawn(["a\U0010fffd", "\U0010fffd"]) == "\U0010fffd"
