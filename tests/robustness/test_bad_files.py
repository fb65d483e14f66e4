"""Any change to the file of a trace or of conversations: read, or refused with one message."""

import json
from contextlib import suppress
from typing import Any

import pytest
import torch
from bad_values import TEXTS, VALUES, mutated, numbers_of_cases
from console import llada
from hypothesis import given, settings
from hypothesis import strategies as st

from llada.data.bad_rows import BadRowError
from llada.data.chat import ChatRows
from llada.data.conversations import Conversation, scan_conversations
from llada.sampling.config import SamplerConfig
from llada.sampling.generate import canvas_of, generation_states
from llada.sampling.likeliest import Likeliest
from llada.sampling.trace import Recorder, Trace

SHAPES: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    {"prompt": [{"role": "user", "content": "a"}], "completion": "b"},
    {"instruction": "a", "input": "c", "output": "b"},
]
ROWS = st.one_of(st.sampled_from(SHAPES).flatmap(mutated), VALUES)


@pytest.fixture(scope="module")
def stored(model, tmp_path_factory) -> dict[str, Any]:
    """The file of a trace of two rows, with alternatives."""
    prompt, sampler, likeliest = (
        torch.tensor([[70, 71], [72, 73]]),
        SamplerConfig(gen_length=4, steps=2),
        Likeliest(2, 0),
    )
    recorder = Recorder(canvas_of(model, prompt, sampler), model.config.mask_token_id, likeliest)
    for _ in recorder.watch(generation_states(model, prompt, None, sampler, likeliest=likeliest)):
        pass
    file = tmp_path_factory.mktemp("trace") / "run.json"
    recorder.trace.save(file)
    return json.loads(file.read_text())


def written(value: Any) -> str:
    """JSON, with numbers of any length; "" where it cannot be written."""
    try:
        return json.dumps(value)
    except ValueError:
        return ""


@numbers_of_cases(100, 3000)
def test_traces_are_read_or_refused(cases, stored, tmp_path):
    file = tmp_path / "run.json"

    @settings(max_examples=cases)
    @given(mutated(stored).map(written))
    def check(content: str) -> None:
        file.write_text(content)
        try:
            trace = Trace.load(file)
        except ValueError as error:
            told = str(error)
        else:
            told = str(file)
            assert len(list(trace.replay())) == trace.steps
            assert trace.final.shape == trace.canvas.shape
        assert str(file) in told

    check()


@numbers_of_cases(15, 300)
@pytest.mark.parametrize("suffix", ["html", "png"])
def test_traces_are_rendered_or_refused(suffix, cases, stored, tokenizer, tmp_path, monkeypatch, capsys):
    file, output = tmp_path / "run.json", tmp_path / f"run.{suffix}"
    tokenizer.save_pretrained(tmp_path / "model")

    @settings(max_examples=cases)
    @given(mutated(stored).map(written), st.integers(0, 2))
    def check(content: str, row: int) -> None:
        file.write_text(content)
        output.unlink(missing_ok=True)
        try:
            llada(
                monkeypatch,
                "trace",
                "render",
                file,
                "--tokenizer",
                tmp_path / "model",
                "--output",
                output,
                "--row",
                row,
            )
            code = 0
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr().err
        assert (code, output.exists(), said.startswith("llada: ")) in [(0, True, False), (2, False, True)]

    check()


@numbers_of_cases(60, 1500)
def test_conversations_are_read_or_refused(cases, tokenizer, tmp_path):
    file = tmp_path / "rows.jsonl"

    @settings(max_examples=cases)
    @given(st.lists(st.one_of(ROWS.map(written), TEXTS.map(ascii)), max_size=4))
    def check(lines: list[str]) -> None:
        file.write_text("\n".join(lines))
        try:
            items = list(scan_conversations(file))
        except ValueError:
            assert not any(line.strip() for line in lines)
            return
        assert all(isinstance(item, Conversation | BadRowError) for item in items)
        with suppress(ValueError):  # where none is left
            rows = ChatRows(items, tokenizer, 60, too_long="skip", bad_rows="skip")
            assert all(len(rows[i]["x0"]) == len(rows[i]["maskable"]) <= 60 for i in range(len(rows)))

    check()
