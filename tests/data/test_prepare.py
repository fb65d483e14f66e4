"""Preparing a corpus: the same bytes with any number of processes and after any kills; bad rows; bounded memory."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import processes
import pytest

from llada.data import encoding, shards
from llada.data.bad_rows import BadRows
from llada.data.corpus import SPLITS, text_corpus
from llada.data.encoding import Encoder, encode_chunks, tokenizer_state
from llada.data.prepare import Making, prepare_corpus
from llada.data.sources import Source
from llada.data.token_index import read_index
from llada.data.tokenizer import encode_batch, train_tokenizer
from llada.data.tokens import TokenRows, verify_shards

WORDS = ["the", "model", "reads", "a", "token", "and", "writes", "it", "back", "into", "every", "row", "of", "table"]


@pytest.fixture
def source(tmp_path) -> Path:
    """Two files of 200 rows together."""
    draw = random.Random(0)
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        rows = [{"text": " ".join(draw.choices(WORDS, k=30))} for _ in range(100)]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def making(tokenizer, tmp_path, monkeypatch) -> Making:
    monkeypatch.setattr(shards, "BATCH_CHARACTERS", 2000)  # some 15 rows
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return Making(tokenizer=tmp_path / "tokenizer", shard_tokens=2000)


def prepare(source: Path, output: Path, making: Making, *, workers=1, resume=False, max_bytes=None, **options) -> None:
    corpus = text_corpus(Source(str(source), **options), heldout=0.2, max_bytes=max_bytes)
    for _ in prepare_corpus(corpus, output, making, workers=workers, resume=resume):
        pass


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def expected(source, making, tmp_path) -> dict[str, bytes]:
    """What an uninterrupted call with one process writes."""
    prepare(source, tmp_path / "expected", making)
    found = contents(tmp_path / "expected")
    assert len(read_index(tmp_path / "expected" / "train").shards) > 3
    return found


def test_any_number_of_processes_writes_the_same_bytes(source, making, expected, tmp_path):
    for workers in (2, 3):
        prepare(source, tmp_path / f"out{workers}", making, workers=workers)
        assert contents(tmp_path / f"out{workers}") == expected


def test_every_row_is_in_one_split_in_the_order_of_the_source(source, tokenizer, expected, tmp_path):
    texts = [json.loads(line)["text"] for file in sorted(source.iterdir()) for line in file.read_text().splitlines()]
    found = []
    for split in SPLITS:
        verify_shards(tmp_path / "expected" / split)
        rows = TokenRows(tmp_path / "expected" / split, 1, tokenizer=tokenizer)
        ids = [int(row["x0"][0]) for row in rows]
        found.append(tokenizer.decode(ids).split("<|endoftext|>")[:-1])
    train, heldout = found
    assert sorted(train + heldout) == sorted(texts)
    assert [text for text in texts if text in set(train)] == train
    assert 20 < len(heldout) < 60


def killed_before_operation(count: int, action: Callable[[], None]) -> Callable[[], None]:
    """The action, in a process that kills itself before its so-manieth operation on files."""

    def run():
        done = 0

        def counting(operation):
            def wrapped(*arguments, **options):
                nonlocal done
                done += 1
                if done == count:
                    os.kill(os.getpid(), signal.SIGKILL)
                return operation(*arguments, **options)

            return wrapped

        for name in ("fsync", "mkdir", "rename", "replace", "truncate"):
            setattr(os, name, counting(getattr(os, name)))
        action()

    return run


def test_killed_before_any_operation_on_files_it_goes_on_to_the_same_bytes(source, making, expected, tmp_path):
    """Kill after kill in the same folder, each run one operation later than the one before, until one ends."""
    output, log = tmp_path / "out", tmp_path / "log"
    for count in range(1, 200):
        action = killed_before_operation(count, lambda: prepare(source, output, making, resume=True))
        code = processes.finish(processes.start(action, log))
        if code != -signal.SIGKILL:
            break
    assert code == 0, log.read_text()
    assert count > 15
    assert contents(output) == expected


def test_a_run_goes_on_from_its_last_full_shard(source, making, expected, tmp_path):
    output = tmp_path / "out"
    action = killed_before_operation(40, lambda: prepare(source, output, making))
    processes.finish(processes.start(action, tmp_path / "log"))
    progress = json.loads((tmp_path / "out.partial" / "prepare.json").read_bytes())["progress"]
    assert 0 < progress["rows"] < 200
    corpus = text_corpus(Source(str(source)), heldout=0.2)
    first = next(prepare_corpus(corpus, output, making))
    assert first.text_bytes == progress["text_bytes"] > 0


def children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_killed_with_several_processes_none_stays_and_it_goes_on(source, making, expected, tmp_path, monkeypatch):
    output = tmp_path / "out"
    state = tmp_path / "out.partial" / "prepare.json"

    def slow():
        write = shards.ShardWriter.write

        def waiting(self, *arguments):
            signal.sigtimedwait([], 0.02)
            return write(self, *arguments)

        shards.ShardWriter.write = waiting
        prepare(source, output, making, workers=2)

    def rows_done() -> int:
        return json.loads(state.read_bytes())["progress"]["rows"] if state.exists() else 0

    for rows in (1, 60):
        child = processes.start(slow, tmp_path / "log")
        processes.wait_until(lambda least=rows: rows_done() >= least)
        workers = children(child)
        assert len(workers) >= 2
        os.kill(child, signal.SIGKILL)
        assert processes.finish(child) == -signal.SIGKILL
        processes.wait_until(lambda left=workers: not any(Path(f"/proc/{worker}").exists() for worker in left))
    prepare(source, output, making, workers=2)
    assert contents(output) == expected


def stopped(source, output, making, **options) -> None:
    """Begin, and stop after the first full shard."""
    corpus = text_corpus(Source(str(source), **options), heldout=0.2)
    for _ in prepare_corpus(corpus, output, making):
        if json.loads((output.with_name("out.partial") / "prepare.json").read_bytes())["progress"]["rows"]:
            return


def test_other_arguments_than_those_it_was_begun_with_are_refused(source, making, tokenizer, corpus, tmp_path):
    output = tmp_path / "out"
    stopped(source, output, making)
    begun = contents(tmp_path / "out.partial")
    with pytest.raises(ValueError, match=r"was begun with something else: shard_tokens was 2000, is 3000. Put it back"):
        prepare(source, output, Making(making.tokenizer, shard_tokens=3000))
    with pytest.raises(ValueError, match="source: max_bytes was None, is 99"):
        prepare(source, output, making, max_bytes=99)
    train_tokenizer(corpus, 300).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="tokenizer: hash was"):
        prepare(source, output, Making(tmp_path / "other", shard_tokens=2000))
    with pytest.raises(ValueError, match=r"tokenizer: hash was .*; tokenizer: vocab_size was None, is 4096"):
        prepare(source, output, Making(shard_tokens=2000))
    assert contents(tmp_path / "out.partial") == begun
    with (source / "b.jsonl").open("r+b") as file:
        file.write(b'{"text":"')  # a file of the same size
    with pytest.raises(ValueError, match=r"source: files: b.jsonl: sha256 was '\w+', is '\w+'. Put it back"):
        prepare(source, output, making)
    (source / "b.jsonl").rename(source / "c.jsonl")
    with pytest.raises(ValueError, match=r"b.jsonl: bytes was \d+, is None.*c.jsonl: bytes was None"):
        prepare(source, output, making)


def test_parts_that_were_changed_are_refused(source, making, tmp_path):
    output, partial = tmp_path / "out", tmp_path / "out.partial"
    stopped(source, output, making)
    progress = json.loads((partial / "prepare.json").read_bytes())["progress"]
    begun = partial / "train" / progress["splits"]["train"]["begun"]["name"]
    whole = begun.read_bytes()
    begun.write_bytes(bytes(len(whole)))
    with pytest.raises(ValueError, match="does not hold what was written to it"):
        prepare(source, output, making)
    begun.write_bytes(whole[:4])
    with pytest.raises(ValueError, match=r"has not the .* bytes that were written to it"):
        prepare(source, output, making)
    (partial / "prepare.json").write_text("{}")
    with pytest.raises(ValueError, match=r"prepare.json is damaged: remove .*out.partial and begin again"):
        prepare(source, output, making)


def test_a_folder_of_somebody_else_is_left_alone(source, making, tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "precious").write_text("x")
    with pytest.raises(ValueError, match="is not empty and was not begun by this command"):
        prepare(source, tmp_path / "out", making)
    assert (tmp_path / "out.partial" / "precious").exists()


def test_two_processes_do_not_write_one_folder(source, making, tmp_path):
    corpus = text_corpus(Source(str(source)), heldout=0.2)
    first = prepare_corpus(corpus, tmp_path / "out", making)
    next(first)
    with pytest.raises(ValueError, match="another process is writing"):
        prepare(source, tmp_path / "out", making)
    first.close()
    prepare(source, tmp_path / "out", making)


def test_a_complete_output_is_kept(source, making, expected, tmp_path):
    output = tmp_path / "expected"
    with pytest.raises(FileExistsError, match="exists and is not empty"):
        prepare(source, output, making)
    prepare(source, output, making, resume=True)
    assert contents(output) == expected
    with pytest.raises(ValueError, match="shard_tokens was 2000, is 1"):
        prepare(source, output, Making(making.tokenizer, shard_tokens=1), resume=True)


def test_what_it_was_made_of_is_recorded(source, making, expected, tmp_path):
    import hashlib

    record = json.loads(expected["prepare.json"])
    content = (source / "a.jsonl").read_bytes()
    assert record["command"]["source"]["files"]["a.jsonl"] == {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert record["tokenizer_hash"] == json.loads(expected["train/index.json"])["tokenizer_hash"]
    assert record["command"]["tokenizer"] == {"hash": record["tokenizer_hash"]}
    assert {"python", "tokenizers", "transformers", "datasets"} <= record["command"]["versions"].keys()
    assert record["command"]["source"]["heldout"] == 0.2


def test_text_beyond_the_limit_is_left_out_also_after_a_kill(source, making, tmp_path):
    prepare(source, tmp_path / "expected", making, max_bytes=15_000)
    total = sum(read_index(tmp_path / "expected" / split).text_bytes for split in SPLITS)
    assert 14_500 < total <= 15_000
    output = tmp_path / "out"
    action = killed_before_operation(40, lambda: prepare(source, output, making, max_bytes=15_000))
    assert processes.finish(processes.start(action, tmp_path / "log")) == -signal.SIGKILL
    assert json.loads((tmp_path / "out.partial" / "prepare.json").read_bytes())["progress"]["rows"] > 0
    prepare(source, output, making, max_bytes=15_000)
    assert contents(output) == contents(tmp_path / "expected")


def test_a_tokenizer_learns_from_a_sample_that_does_not_depend_on_the_order(source, tmp_path):
    small = Making(vocab_size=280, sample_bytes=3000)
    prepare(source, tmp_path / "one", small)
    lines = "".join((source / name).read_text() for name in ("b.jsonl", "a.jsonl"))
    for name in ("a.jsonl", "b.jsonl"):
        (source / name).unlink()
    (source / "all.jsonl").write_text(lines)
    prepare(source, tmp_path / "two", small)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one["tokenizer/tokenizer.json"] == two["tokenizer/tokenizer.json"]
    prepare(source, tmp_path / "all", Making(vocab_size=280))
    assert contents(tmp_path / "all")["tokenizer/tokenizer.json"] != one["tokenizer/tokenizer.json"]
    with pytest.raises(ValueError, match="holds no documents of at most 10 bytes to learn from"):
        prepare(source, tmp_path / "none", Making(sample_bytes=10))
    assert not (tmp_path / "none.partial").exists()


# Bad rows


@pytest.mark.parametrize(
    ("bad", "kind", "reason"),
    [
        (b'{"text": ""}', "empty", "a.jsonl, line 3: the text is empty"),
        (b'{"body": "x"}', "without the column", "a.jsonl, line 3: there is no field 'text'; the fields are body"),
        (b'{"text": 3}', "of the wrong type", "a.jsonl, line 3: the field 'text' must be a string, not int"),
        (b'["text"]', "of the wrong type", "a.jsonl, line 3: an object with named fields is needed, not list"),
        (b'{"text": ', "not JSON", "a.jsonl, line 3: this is not JSON"),
        (b'{"text": "\xff"}', "not UTF-8", "a.jsonl is not UTF-8 text: byte"),
        (b'{"text": "\\ud800"}', "not Unicode", "a.jsonl, line 3: the text .* is half of a surrogate pair"),
        (b'{"text": "' + b"x" * 501 + b'"}', "too long", "a.jsonl, line 3 has more than 500 bytes of text"),
    ],
)
def test_bad_rows_are_refused_or_left_out_and_counted(bad, kind, reason, source, making, expected, tmp_path):
    lines = (source / "a.jsonl").read_bytes().splitlines()
    (source / "a.jsonl").write_bytes(b"\n".join([*lines[:2], bad, *lines[2:50], bad, *lines[50:]]) + b"\n")
    with pytest.raises(ValueError, match=f"2 rows cannot be used: 2 {kind} .first: .*{reason}") as error:
        prepare(source, tmp_path / "out", making, longest=500)
    assert "leave such rows out with --bad-rows skip" in str(error.value)
    assert not (tmp_path / "out.partial").exists()
    skipping = Making(making.tokenizer, shard_tokens=2000, skip_bad=True)
    for workers in (1, 2) if kind == "empty" else (1,):
        prepare(source, tmp_path / f"out{workers}", skipping, longest=500, workers=workers)
        found = contents(tmp_path / f"out{workers}")
        left_out = json.loads(found["prepare.json"])["left_out"]
        assert {name: each["count"] for name, each in left_out.items()} == {kind: 2}
        same = {name: content for name, content in found.items() if name != "prepare.json"}
        assert same == {name: content for name, content in expected.items() if name != "prepare.json"}


def test_a_tokenizer_that_gives_mask_tokens_is_noticed(source, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"[MASK]": 0, "[EOS]": 1, "[UNK]": 2, **{word: 3 + i for i, word in enumerate(dict.fromkeys(WORDS))}}
    whole = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    whole.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=whole, mask_token="[MASK]", eos_token="[EOS]", unk_token="[UNK]"
    )
    tokenizer.save_pretrained(tmp_path / "words")
    (source / "c.jsonl").write_text('{"text": "the [MASK] model"}\n')
    with pytest.raises(ValueError, match=r"c.jsonl, line 1: the tokenizer gives a mask token"):
        prepare(source, tmp_path / "out", Making(tmp_path / "words"))
    prepare(source, tmp_path / "out", Making(tmp_path / "words", skip_bad=True))
    left_out = BadRows(json.loads((tmp_path / "out" / "prepare.json").read_bytes())["left_out"])
    assert str(left_out).startswith("1 row cannot be used: 1 with the mask token (first: ")
    assert sum(read_index(tmp_path / "out" / split).documents for split in SPLITS) == 200


def test_what_was_left_out_before_a_kill_is_counted_once(source, making, tmp_path):
    (source / "a.jsonl").write_text('{"text": ""}\n' + (source / "a.jsonl").read_text() + '{"text": ""}\n')
    skipping = Making(making.tokenizer, shard_tokens=2000, skip_bad=True)
    stopped(source, tmp_path / "out", skipping)
    with pytest.raises(ValueError, match="was begun with --bad-rows skip, and 1 row cannot be used"):
        prepare(source, tmp_path / "out", making)
    prepare(source, tmp_path / "out", skipping)
    left_out = json.loads((tmp_path / "out" / "prepare.json").read_bytes())["left_out"]
    assert left_out["empty"]["count"] == 2


def test_a_refused_row_can_be_left_out_when_going_on(source, making, tmp_path):
    with (source / "b.jsonl").open("a") as file:
        file.write('{"text": ""}\n')
    with pytest.raises(ValueError, match="1 row cannot be used: 1 empty"):
        prepare(source, tmp_path / "out", making)
    assert json.loads((tmp_path / "out.partial" / "prepare.json").read_bytes())["progress"]["rows"] > 0
    skipping = Making(making.tokenizer, shard_tokens=2000, skip_bad=True)
    prepare(source, tmp_path / "out", skipping)
    prepare(source, tmp_path / "new", skipping)
    assert contents(tmp_path / "out") == contents(tmp_path / "new")


# Processes


def test_encoders_give_what_the_tokenizer_gives(tokenizer):
    texts = ["the quick <|mdm_mask|> brown", "漢字 \U0001f600", "\n\n x  y 12"]
    found = Encoder(tokenizer_state(tokenizer))(texts)
    assert [ids.tolist() for ids in found.split()] == encode_batch(tokenizer, texts)
    assert Encoder(tokenizer_state(tokenizer))([]).split() == []


def test_only_a_few_chunks_are_read_ahead(tokenizer):
    taken = 0

    def chunks():
        nonlocal taken
        for number in range(100):
            taken = number
            yield [f"row {number}"]

    for done, (chunk, _) in enumerate(encode_chunks(chunks(), list, tokenizer_state(tokenizer), 2)):
        assert chunk == [f"row {done}"]
        assert taken - done <= 2 * encoding.AHEAD


def test_a_killed_process_is_explained(tokenizer):
    def chunks():
        for _ in range(100):
            yield ["some text"]

    def kill(chunk):
        for child in children(os.getpid()):
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(child, signal.SIGKILL)
        return chunk

    with pytest.raises(OSError, match="one of the 2 processes that encode was killed, perhaps for want of memory"):
        list(encode_chunks(chunks(), kill, tokenizer_state(tokenizer), 2))


@pytest.mark.parametrize("error", [OSError("handle is closed"), ValueError("bad value(s) in fds_to_keep")])
def test_a_process_killed_while_another_starts_is_explained(tokenizer, monkeypatch, error):
    # the pool closes its pipes in a thread, and what starts a process then finds them closed or used anew
    monkeypatch.setattr(encoding.ProcessPoolExecutor, "submit", Mock(side_effect=error))
    with pytest.raises(OSError, match="one of the 2 processes that encode was killed"):
        list(encode_chunks([["some text"]], list, tokenizer_state(tokenizer), 2))


def test_what_texts_raise_is_not_taken_for_a_kill(tokenizer):
    texts = Mock(side_effect=ValueError("no such column"))
    with pytest.raises(ValueError, match=r"^no such column$"):
        list(encode_chunks([["some text"]], texts, tokenizer_state(tokenizer), 2))


def test_at_least_one_process_encodes(tokenizer):
    with pytest.raises(ValueError, match="workers=0: at least 1"):
        list(encode_chunks([], list, tokenizer_state(tokenizer), 0))


# Memory

PREPARE = """
from llada.data import shards
from llada.data.corpus import text_corpus
from llada.data.prepare import Making, prepare_corpus

shards.BATCH_CHARACTERS = 2**16
corpus = text_corpus(Source(source, separator=separator or None, longest=2**20))
for _ in prepare_corpus(corpus, Path(output), Making(Path(tokenizer), shard_tokens=2**18)):
    pass
"""

READ = """
from llada.data.documents import scan_documents

assert sum(len(document.text) for document in scan_documents(Source(f"hf:{source}", streaming=True))) > 2**20
"""


def peak_bytes(action: str, *arguments: object) -> int:
    """The most memory that a process of its own takes for the action."""
    start = "import resource, sys\nfrom pathlib import Path\nfrom llada.data.sources import Source\n"
    start += "source, output, tokenizer, separator = sys.argv[1:]\n"
    end = "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"  # KiB
    command = [sys.executable, "-c", start + action + end, *map(str, arguments)]
    environment = os.environ | {"HF_DATASETS_CACHE": f"{arguments[1]}-cache", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return 1024 * int(done.stdout)


def write_text(file: Path, megabytes: int, separator: str) -> None:
    line = " ".join(WORDS * 16)  # some 1100 bytes
    with file.open("w") as opened:
        for number in range(megabytes * 2**20 // len(line)):
            text = f"{number} {line}"
            opened.write(text + separator if separator else json.dumps({"text": text}) + "\n")


@pytest.mark.slow
@pytest.mark.parametrize("separator", ["", "<|end|>"], ids=["lines", "one text"])
def test_memory_does_not_grow_with_the_source(separator, making, tmp_path):
    """Eight more megabytes of text take less than 4 MB more."""
    peaks = []
    for size in (1, 9):
        file, output = tmp_path / f"big{size}.{'txt' if separator else 'jsonl'}", tmp_path / f"out{size}"
        write_text(file, size, separator)
        peaks.append(peak_bytes(PREPARE, file, output, making.tokenizer, separator))
        assert sum(read_index(output / split).tokens for split in SPLITS) > size * 2**20 / 8
    assert peaks[1] - peaks[0] < 4e6, peaks


@pytest.mark.slow
def test_a_streamed_data_set_is_read_in_bounded_memory_without_a_copy(tmp_path):
    """Beyond some 60 MB, the buffers of datasets, twice as much text takes less than 20 MB more."""
    peaks = []
    for size in (64, 128):
        (tmp_path / str(size)).mkdir()
        write_text(tmp_path / str(size) / "big.jsonl", size, "")
        peaks.append(peak_bytes(READ, tmp_path / str(size), tmp_path / "out", "", ""))
    assert not list((tmp_path / "out-cache").rglob("*.arrow"))
    assert peaks[1] - peaks[0] < 20e6, peaks
