"""Tasks: what is asked, what is expected, and what cannot be scored."""

import json

import pytest

from llada.eval.task import check_prompts, read_task


def write(path, *conversations):
    rows = [[{"role": role, "content": content} for role, content in turns] for turns in conversations]
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in rows))
    return path


GOOD = (("user", "What is 3 plus 4?"), ("assistant", "7"))


def test_task_asks_everything_but_the_last_answer(tmp_path):
    longer = (*GOOD, ("user", "And plus 1?"), ("assistant", "8"))
    task = read_task(write(tmp_path / "t.jsonl", GOOD, longer), "number")
    assert task.expected == ["7", "8"]
    assert [len(messages) for messages in task.conversations] == [1, 3]
    assert task.conversations[1][-1] == {"role": "user", "content": "And plus 1?"}
    assert read_task(tmp_path / "t.jsonl", rows=1).expected == ["7"]


@pytest.mark.parametrize(
    ("conversations", "options", "message"),
    [
        ([], {}, "holds no conversations"),
        ([GOOD, (("user", "And?"),)], {}, "conversation 2: it does not end with the assistant's answer"),
        ([(("user", "And?"), ("assistant", " "))], {}, "conversation 1: it does not end with the assistant's answer"),
        ([GOOD], {"check": "nearly"}, "unknown check 'nearly'; known: exact, number, "),
        ([(("user", "And?"), ("assistant", "no"))], {"check": "number"}, "'no' is itself not right by the check"),
        ([GOOD], {"rows": 2}, "holds 1 conversations, fewer than rows=2"),
        ([GOOD], {"rows": 0}, "rows=0: give 1 or more"),
    ],
)
def test_tasks_that_cannot_be_scored_are_refused(conversations, options, message, tmp_path):
    file = write(tmp_path / "t.jsonl", *conversations)
    with pytest.raises(ValueError, match=message):
        read_task(file, **options)


def test_prompts_that_are_too_long_or_none_are_named(asked, tmp_path):
    long = (("user", "5 " * 60), ("assistant", "7"))
    task = read_task(write(tmp_path / "t.jsonl", GOOD, long))
    with pytest.raises(ValueError, match=r"conversation 2: \d+ tokens of prompt and 8 of answer exceed the model's 96"):
        check_prompts(task, asked.tokenizer, 8, 96)
    check_prompts(task, asked.tokenizer, 8, 900)
    task = read_task(write(tmp_path / "t.jsonl", (("assistant", "7"),)))
    with pytest.raises(ValueError, match="conversation 1: the conversation has no messages"):
        check_prompts(task, asked.tokenizer, 8, 96)
