"""`llada prepare`: what it writes, that it goes on, and what it says to sources that it cannot use."""

import json
from importlib import import_module

import pytest
from console import llada, refusal


def test_prepare_writes_what_it_says(prepared, capsys):
    assert (prepared / "tokenizer" / "tokenizer.json").is_file()
    for split in ("train", "heldout"):
        index = json.loads((prepared / split / "index.json").read_text())
        assert index["documents"] > 0


def test_prepare_can_use_an_existing_tokenizer(prepared, corpus, tmp_path, monkeypatch):
    llada(monkeypatch, "prepare", corpus, tmp_path / "d", "--tokenizer", prepared / "tokenizer", "--heldout", 0.1)
    hashes = {
        json.loads((d / "train" / "index.json").read_text())["tokenizer_hash"] for d in (prepared, tmp_path / "d")
    }
    assert len(hashes) == 1


def test_prepare_goes_on_leaves_bad_rows_out_and_uses_processes(corpus, prepared, tmp_path, monkeypatch, capsys):
    rows = "".join(json.dumps({"body": file.read_text()}) + "\n" for file in sorted(corpus.iterdir()))
    (tmp_path / "rows.jsonl").write_text('{"body": ""}\n' + rows)
    command = ["prepare", tmp_path / "rows.jsonl", tmp_path / "d", "--tokenizer", prepared / "tokenizer",
               "--text-field", "body", "--heldout", 0.1, "--shard-tokens", 1000]  # fmt: skip
    message = refusal(monkeypatch, capsys, *command)
    assert "1 row cannot be used: 1 empty (first: " in message
    assert "--bad-rows skip" in message
    skipping = [*command, "--bad-rows", "skip", "--workers", 2]
    llada(monkeypatch, *skipping)
    assert "left out: 1 row cannot be used: 1 empty (first: " in capsys.readouterr().out
    assert len(json.loads((tmp_path / "d" / "train" / "index.json").read_text())["shards"]) > 2
    assert "exists and is not empty" in refusal(monkeypatch, capsys, *skipping)
    llada(monkeypatch, *skipping, "--resume")


def test_prepare_cuts_text_files_and_limits_them(corpus, prepared, tmp_path, monkeypatch, capsys):
    (tmp_path / "all.txt").write_text("#".join(file.read_text() for file in sorted(corpus.iterdir())))
    command = ["prepare", tmp_path / "all.txt", tmp_path / "d", "--tokenizer", prepared / "tokenizer"]
    assert "no document is left for" in refusal(monkeypatch, capsys, *command)
    assert "more than 9 bytes" in refusal(monkeypatch, capsys, *command, "--longest-document", 9)
    llada(monkeypatch, *command, "--separator", "#", "--heldout", 0.2, "--max-bytes", 10_000)
    sizes = [json.loads((tmp_path / "d" / s / "index.json").read_text()) for s in ("train", "heldout")]
    assert 5 < sum(size["documents"] for size in sizes) < 60
    assert 9_000 < sum(size["text_bytes"] for size in sizes) <= 10_000


def test_instructions_can_be_limited_to_some_families(tmp_path, monkeypatch, capsys):
    llada(monkeypatch, "prepare", "instructions", tmp_path / "d", "--families", "parity,compare", "--count", 3)
    rows = [json.loads(line) for line in (tmp_path / "d" / "train.jsonl").read_text().splitlines()]
    assert sorted(row["family"] for row in rows) == ["compare"] * 3 + ["parity"] * 3
    message = refusal(monkeypatch, capsys, "prepare", "instructions", tmp_path / "e", "--families", "parity,algebra")
    assert "there is no family 'algebra'; the families are" in message
    assert not (tmp_path / "e").exists()


def test_instructions_that_were_killed_are_made_again(tmp_path, monkeypatch):
    """Killed between its files, which then are no output: the same command makes all of them, the same."""
    module = import_module("llada.cli.prepare")  # the package has the command under this name
    command = ["prepare", "instructions", tmp_path / "d", "--families", "parity", "--count", 3]
    write, names = module.write_durably, []

    def killed(path, content):
        names.append(path.name)
        if len(names) == 2:
            raise SystemExit(137)
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_durably", killed)
        with pytest.raises(SystemExit):
            llada(patched, *command)
    assert not (tmp_path / "d").exists()
    llada(monkeypatch, *command)
    llada(monkeypatch, *command[:2], tmp_path / "e", *command[3:])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "e"]
    for name in names:
        assert (tmp_path / "d" / name).read_bytes() == (tmp_path / "e" / name).read_bytes()


def test_instructions_replace_nothing(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("data")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("data")
    (tmp_path / "nothing").symlink_to(tmp_path / "nowhere")
    for name in ("file", "full", "nothing"):
        said = refusal(monkeypatch, capsys, "prepare", "instructions", tmp_path / name, "--count", 3)
        assert f"{tmp_path / name} exists and is not empty; choose another folder or remove it" in said
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    llada(monkeypatch, "prepare", "instructions", tmp_path / "link", "--families", "parity", "--count", 3)
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["test.jsonl", "train.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["instructions", "--vocab-size", 300], "--vocab-size has no effect on the source instructions"),
        (["python-documentation", "--heldout", 0.1], "--heldout has no effect on the source python-documentation"),
        (["python-documentation", "--split", "x"], "--split has no effect on the source python-documentation"),
        (["instructions", "--workers", 2], "--workers has no effect on the source instructions"),
        (["instructions", "--bad-rows", "skip"], "--bad-rows has no effect on the source instructions"),
        (["instructions", "--count", 10**10], "1000000"),
        (["nowhere", "--streaming"], "--streaming has no effect on nowhere"),
        (["nowhere", "--sample-bytes", 9, "--tokenizer", "t"], "--sample-bytes has no effect with --tokenizer"),
        (["nowhere", "--count", 3], "--count has no effect on the source nowhere"),
        (["nowhere", "--vocab-size", 300, "--tokenizer", "t"], "--vocab-size has no effect with --tokenizer"),
    ],
)
def test_options_that_cannot_act_on_a_source_are_refused(arguments, message, tmp_path, monkeypatch, capsys):
    assert message in refusal(monkeypatch, capsys, "prepare", arguments[0], tmp_path / "out", *arguments[1:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "empty"),
        (lambda folder: (folder / "a.txt").write_bytes(b"\xff\xfe\x00\x01binary"), "UTF-8"),
        (lambda folder: (folder / "a.txt").write_text("only one document"), "no document is left"),
        (lambda folder: (folder / "a.jsonl").write_text('{"body": "x"}\n'), "body"),
    ],
    ids=["nothing", "binary", "too little", "other field"],
)
def test_unusable_corpus_is_explained(make, message, tmp_path, monkeypatch, capsys):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    make(corpus)
    said = refusal(monkeypatch, capsys, "prepare", corpus, tmp_path / "out", "--vocab-size", 262)
    assert message in said or "holds no" in said
    assert not (tmp_path / "out").exists()


def test_prepare_keeps_an_existing_folder(corpus, tmp_path, monkeypatch, capsys):
    (tmp_path / "precious").write_text("data")
    assert "exists and is not empty" in refusal(monkeypatch, capsys, "prepare", corpus, tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    assert "loop exists and is not empty" in refusal(monkeypatch, capsys, "prepare", corpus, tmp_path / "loop")


def test_missing_source_is_named(tmp_path, monkeypatch, capsys):
    assert "nowhere" in refusal(monkeypatch, capsys, "prepare", tmp_path / "nowhere", tmp_path / "out")


def test_source_that_is_empty_or_holds_the_output_is_refused(corpus, tmp_path, monkeypatch, capsys):
    said = refusal(monkeypatch, capsys, "prepare", "", tmp_path / "out")
    assert "the source is empty: name a file or folder, or hf:NAME; . is the current folder" in said
    said = refusal(monkeypatch, capsys, "prepare", corpus, corpus / "in")
    assert f"{corpus / 'in'} lies in the source {corpus}, which would be read with it; name another" in said
    assert not list(corpus.glob("in*"))


def test_documents_that_are_all_held_out_are_not_called_too_long(tmp_path, monkeypatch, capsys):
    (tmp_path / "corpus").mkdir()
    for name in "abcd":  # a text of which the hash holds it out
        (tmp_path / "corpus" / f"{name}.txt").write_text("text 3")
    said = refusal(monkeypatch, capsys, "prepare", tmp_path / "corpus", tmp_path / "out", "--heldout", 0.5)
    assert "corpus holds no documents, or all of them are held out; give more documents" in said


def test_missing_tokenizer_is_named(corpus, tmp_path, monkeypatch, capsys):
    said = refusal(monkeypatch, capsys, "prepare", corpus, tmp_path / "out", "--tokenizer", tmp_path / "nope")
    assert f"{tmp_path / 'nope'} has no tokenizer; name a folder that holds tokenizer_config.json" in said
    assert not (tmp_path / "out").exists()
