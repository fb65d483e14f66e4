"""`llada trace render`: a page, a picture and an animation of a trace, and what is refused."""

import json

import pytest
from console import llada, refusal


@pytest.fixture(scope="module")
def traces(tuned, tmp_path_factory):
    folder = tmp_path_factory.mktemp("traces")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, steps in (("one", 4), ("two", 8)):
            llada(monkeypatch, "generate", tuned / "model", "Add 3 and 4.", "--set", "gen_length=8", "--set",
                  f"steps={steps}", "--trace", folder / f"{name}.json", "--alternatives", 2)  # fmt: skip
    return [folder / "one.json", folder / "two.json"]


def data_of(page: str) -> list[dict]:
    return json.loads(page.split('type="application/json">')[1].split("</script>")[0])


def test_page_holds_both_traces(traces, tuned, tmp_path, monkeypatch):
    llada(monkeypatch, "trace", "render", *traces, "--tokenizer", tuned / "model", "--output", tmp_path / "t.html")
    one, two = data_of((tmp_path / "t.html").read_text())
    assert (one["title"], one["steps"], two["title"], two["steps"]) == ("one", 4, "two", 8)
    assert len(one["tokens"]) == len(two["tokens"])


@pytest.mark.parametrize(("suffix", "begins"), [("png", b"\x89PNG"), ("gif", b"GIF89a"), ("webp", b"RIFF")])
def test_pictures_are_what_their_names_say(suffix, begins, traces, tuned, tmp_path, monkeypatch):
    output = tmp_path / f"t.{suffix}"
    llada(monkeypatch, "trace", "render", traces[0], "--tokenizer", tuned / "model", "--output", output)
    assert output.read_bytes().startswith(begins)


def test_animation_has_a_frame_for_each_step(traces, tuned, tmp_path, monkeypatch):
    from PIL import Image

    output = tmp_path / "t.gif"
    llada(monkeypatch, "trace", "render", traces[0], "--tokenizer", tuned / "model", "--output", output,
          "--frames-per-second", 2)  # fmt: skip
    with Image.open(output) as picture:
        durations = []
        for number in range(picture.n_frames):
            picture.seek(number)
            durations.append(picture.info["duration"])
    assert len(durations) >= 5  # equal frames at the end may be one
    assert sum(durations) == 500 * (5 + 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "t.pdf"], "must end with one of .html, .png, .gif, .webp"),
        (["--output", "nowhere/t.html"], "there is no folder"),
        (["--output", "t.png", "--frames-per-second", 2], "--frames-per-second has no effect on t.png"),
        (["--output", "t.html", "--row", 1], "row=1 is none of the trace's 1 rows"),
    ],
)
def test_wrong_options_are_refused(arguments, message, traces, tuned, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told = refusal(monkeypatch, capsys, "trace", "render", traces[0], "--tokenizer", tuned / "model", *arguments)
    assert message in told
    assert not list(tmp_path.iterdir())


def test_json_tells_what_was_made(traces, tuned, tmp_path, monkeypatch, capsys):
    output = tmp_path / "t.html"
    capsys.readouterr()
    llada(monkeypatch, "trace", "render", *traces, "--tokenizer", tuned / "model", "--output", output, "--json")
    assert json.loads(capsys.readouterr().out) == {"output": str(output), "row": 0, "steps": [4, 8]}


def test_characters_without_a_font_are_said_once(traces, tuned, tmp_path, monkeypatch, capsys, recwarn):
    monkeypatch.setattr("llada.show.picture.written", lambda tokenizer, frame: ["\U0010fffd"] * len(frame.ids))
    arguments = [traces[0], "--tokenizer", tuned / "model", "--output", tmp_path / "t.png"]
    llada(monkeypatch, "trace", "render", *arguments)
    assert capsys.readouterr().err.startswith("no font here has \U0010fffd, shown as empty boxes; install one")
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_two_traces_need_a_page(traces, tuned, tmp_path, monkeypatch, capsys):
    arguments = [*traces, "--tokenizer", tuned / "model", "--output", tmp_path / "t.png"]
    assert "2 side by side need a page" in refusal(monkeypatch, capsys, "trace", "render", *arguments)


def test_tokenizer_of_another_model_is_refused(traces, tmp_path, monkeypatch, capsys):
    arguments = [traces[0], "--tokenizer", tmp_path, "--output", tmp_path / "t.png"]
    assert "has no tokenizer; name the folder" in refusal(monkeypatch, capsys, "trace", "render", *arguments)


def test_trace_with_a_token_of_another_model_is_refused(traces, tuned, tmp_path, monkeypatch, capsys):
    stored = json.loads(traces[0].read_text())
    stored["alternatives"][0][0] = 2**40
    (tmp_path / "other.json").write_text(json.dumps(stored))
    said = refusal(monkeypatch, capsys, "trace", "render", tmp_path / "other.json", "--tokenizer", tuned / "model",
                   "--output", tmp_path / "t.html")  # fmt: skip
    assert "other.json has the token 1099511627776, which is none of the 300 of" in said
