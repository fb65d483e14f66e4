import json
import pickle

import numpy as np
import pytest

from llada.data import shards
from llada.data.documents import Document, read_documents
from llada.data.shards import write_shards
from llada.data.token_index import read_index
from llada.data.tokenizer import encode, tokenizer_hash, train_tokenizer
from llada.data.tokens import TokenRows, verify_shards

TEXTS = ["the quick brown fox", "漢字 <|mdm_mask|> <|endoftext|>", "x\n\ny 12"]
DOCUMENTS = [Document(str(number), text) for number, text in enumerate(TEXTS)]


@pytest.fixture
def stream(tokenizer):
    return [token for text in TEXTS for token in [*encode(tokenizer, text), tokenizer.eos_token_id]]


@pytest.fixture
def folder(tokenizer, tmp_path):
    write_shards(DOCUMENTS, tokenizer, tmp_path / "data", shard_tokens=7)
    return tmp_path / "data"


def change_index(folder, **changes):
    path = folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_documents_are_files_or_rows(tmp_path):
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "b.jsonl").write_text('{"text": "second"}\n{"text": "third"}\n')
    found = list(read_documents(tmp_path))
    assert [document.text for document in found] == ["first", "second", "third"]
    assert found[2].name.endswith("b.jsonl, line 2")


def test_the_column_of_the_text_can_be_named(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"body": "second"}\n')
    assert [document.text for document in read_documents(tmp_path, text_field="body")] == ["second"]
    with pytest.raises(ValueError, match=r"b.jsonl, line 1: there is no field 'text'; the fields are body"):
        list(read_documents(tmp_path))


def test_a_source_without_documents_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no documents"):
        list(read_documents(tmp_path))


def test_rows_are_the_stream_cut_in_pieces(folder, tokenizer, stream):
    for length in (1, 3, 7, 10, len(stream)):
        rows = TokenRows(folder, length, tokenizer=tokenizer)
        assert len(rows) == len(stream) // length
        flat = np.concatenate([rows[i]["x0"] for i in range(len(rows))])
        assert flat.tolist() == stream[: len(rows) * length]
        assert flat.dtype == np.int64
        assert all(rows[i]["x0"].shape == (length,) for i in range(len(rows)))


def test_rows_can_be_iterated_and_end(folder, stream):
    assert len(list(TokenRows(folder, 5))) == len(stream) // 5


def test_rows_do_not_depend_on_the_size_of_shards(folder, tokenizer, tmp_path):
    write_shards(DOCUMENTS, tokenizer, tmp_path / "other")
    rows, others = TokenRows(folder, 6), TokenRows(tmp_path / "other", 6)
    assert len(others.index.shards) == 1
    assert all((rows[i]["x0"] == others[i]["x0"]).all() for i in range(len(rows)))


def test_shards_do_not_depend_on_how_documents_are_batched(folder, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "BATCH_CHARACTERS", 1)
    index = write_shards(DOCUMENTS, tokenizer, tmp_path / "other", shard_tokens=7)
    assert index == read_index(folder)


def test_index_describes_the_shards(folder, tokenizer, stream):
    index = TokenRows(folder, 2).index
    assert index.tokens == len(stream) == sum(shard.tokens for shard in index.shards)
    assert [shard.tokens for shard in index.shards[:-1]] == [7] * (len(stream) // 7)
    assert index.documents == 3
    assert index.text_bytes == sum(len(text.encode()) for text in TEXTS)
    assert (index.dtype, index.vocab_size, index.eos_token_id) == ("uint16", 350, 2)
    assert index.tokenizer_hash == tokenizer_hash(tokenizer)
    assert verify_shards(folder) == index


def test_documents_never_become_control_tokens(folder, tokenizer, stream):
    assert tokenizer.mask_token_id not in stream
    assert stream.count(tokenizer.eos_token_id) == 3


def test_large_vocabularies_take_four_bytes(tokenizer, tmp_path, monkeypatch, stream):
    vocabulary = {**tokenizer.get_vocab(), "far": 70_000}
    monkeypatch.setattr(type(tokenizer), "get_vocab", lambda self: vocabulary)
    index = write_shards(DOCUMENTS, tokenizer, tmp_path / "data")
    assert (index.dtype, index.vocab_size) == ("uint32", 70_001)
    assert (tmp_path / "data" / "tokens-00000.bin").stat().st_size == 4 * len(stream)
    assert TokenRows(tmp_path / "data", len(stream))[0]["x0"].tolist() == stream


def test_shards_are_little_endian_integers(folder, stream):
    content = (folder / "tokens-00000.bin").read_bytes()
    assert [content[2 * i] + 256 * content[2 * i + 1] for i in range(7)] == stream[:7]


def test_rows_can_be_sent_to_another_process(folder):
    rows = TokenRows(folder, 4)
    unread = len(pickle.dumps(rows))
    first = rows[0]["x0"]
    pickled = pickle.dumps(rows)
    assert len(pickled) == unread  # the mapped file does not travel
    assert (pickle.loads(pickled)[0]["x0"] == first).all()
    assert (rows[0]["x0"] == first).all()


def test_only_existing_rows_can_be_read(folder):
    rows = TokenRows(folder, 4)
    for i in (-1, len(rows)):
        with pytest.raises(IndexError, match=rf"row {i} does not exist: the rows are 0 to {len(rows) - 1}"):
            rows[i]


def test_an_existing_empty_folder_may_be_filled(tokenizer, tmp_path):
    (tmp_path / "data").mkdir()
    write_shards(DOCUMENTS, tokenizer, tmp_path / "data")
    assert verify_shards(tmp_path / "data").documents == 3


def test_nothing_is_overwritten(folder, tokenizer, tmp_path):
    (tmp_path / "file").write_text("mine")
    for target in (folder, tmp_path / "file"):
        with pytest.raises(ValueError, match="exists and is not an empty folder"):
            write_shards(DOCUMENTS, tokenizer, target)


def test_an_interrupted_writer_leaves_nothing(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "BATCH_CHARACTERS", 1)

    def documents():
        yield Document("a", "x " * 100)
        assert any(tmp_path.glob(".data.*.partial/tokens-00000.bin"))  # it had begun
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(documents(), tokenizer, tmp_path / "data", shard_tokens=50)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("documents", "error"), [([], "there is no text to write"), ([Document("a", "")], "a: the text is empty")]
)
def test_an_empty_corpus_is_refused(tokenizer, tmp_path, documents, error):
    with pytest.raises(ValueError, match=error):
        write_shards(documents, tokenizer, tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_a_document_that_cannot_be_encoded_is_named(tokenizer, tmp_path):
    documents = [Document("good", "x"), Document("rows.jsonl, line 2", "\ud800")]
    with pytest.raises(ValueError, match=r"rows.jsonl, line 2: the text .* is half of a surrogate pair"):
        write_shards(documents, tokenizer, tmp_path / "data")


def test_shards_need_room_for_a_token(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="shard_tokens=0: a shard holds at least 1 token"):
        write_shards(DOCUMENTS, tokenizer, tmp_path / "data", shard_tokens=0)


def test_a_tokenizer_without_eos_is_refused(corpus, tmp_path):
    tokenizer = train_tokenizer(corpus, 262)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="the tokenizer has no eos_token"):
        write_shards(DOCUMENTS, tokenizer, tmp_path / "data")


def test_another_tokenizer_is_refused(folder, corpus):
    other = train_tokenizer(corpus, 300)
    with pytest.raises(
        ValueError, match=r"was written with another tokenizer \(hash [0-9a-f]{12}, given [0-9a-f]{12}\)"
    ):
        TokenRows(folder, 4, tokenizer=other)


def test_a_row_has_at_least_one_token(folder):
    with pytest.raises(ValueError, match="length=0: a row has at least 1 token"):
        TokenRows(folder, 0)


def test_a_corpus_shorter_than_a_row_is_refused(folder, stream):
    with pytest.raises(ValueError, match=f"has {len(stream)} tokens, less than one row of 1000"):
        TokenRows(folder, 1000)


def test_a_folder_without_index_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no tokens: there is no .*index.json"):
        TokenRows(tmp_path, 4)


def test_a_truncated_shard_is_named_with_both_sizes(folder):
    path = folder / "tokens-00001.bin"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"tokens-00001.bin has 11 bytes instead of 14"):
        TokenRows(folder, 4)


def test_a_missing_shard_is_named(folder):
    (folder / "tokens-00001.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokens-00001.bin is missing"):
        TokenRows(folder, 4)


def test_a_changed_shard_is_found_by_its_hash(folder):
    path = folder / "tokens-00001.bin"
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    TokenRows(folder, 4)  # sizes alone do not tell
    with pytest.raises(ValueError, match=r"tokens-00001.bin has SHA-256 \w+ instead of \w+: its content changed"):
        verify_shards(folder)


@pytest.mark.parametrize("place", [0, 9])
def test_a_token_of_no_vocabulary_is_refused_with_its_shard(folder, place):
    name = f"tokens-0000{place // 7}.bin"
    content = bytearray((folder / name).read_bytes())
    content[2 * (place % 7) : 2 * (place % 7) + 2] = b"\xff\xff"
    (folder / name).write_bytes(content)
    rows = TokenRows(folder, 4)
    with pytest.raises(ValueError, match=rf"{name} holds the token 65535, which is none of the 350 of its tokenizer"):
        rows[place // 4]
    rows[1]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '"version"', pytest.param("[" * 100_000, id="deep")])
def test_an_index_that_cannot_be_read_is_refused(folder, content):
    (folder / "index.json").write_text(content)
    with pytest.raises(ValueError, match=r"index.json is damaged"):
        TokenRows(folder, 4)


def test_another_version_of_the_format_is_refused(folder):
    change_index(folder, version=2)
    with pytest.raises(ValueError, match="has format version 2; this is written for 1"):
        TokenRows(folder, 4)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"extra": 1}, "unexpected keyword argument 'extra'"),
        ({"tokens": "12"}, "wrong values of tokens"),
        ({"tokens": 12}, "wrong values of dtype or tokens"),
        ({"dtype": "float64"}, "wrong values of dtype or tokens"),
        ({"shards": [{"name": "x"}]}, "missing 2 required positional arguments"),
        ({"shards": [{"name": "x", "tokens": -1, "sha256": ""}]}, "wrong values of Shard"),
        ({"shards": None}, "not iterable"),
        ({"vocab_size": -5}, "wrong values of eos_token_id or vocab_size"),
        ({"vocab_size": 2**16 + 1}, "wrong values of eos_token_id or vocab_size"),
        ({"eos_token_id": 10**30}, "wrong values of eos_token_id or vocab_size"),
        ({"text_bytes": 0}, "wrong values of documents or text_bytes"),
    ],
)
def test_an_index_with_wrong_values_is_refused(folder, changes, wrong):
    change_index(folder, **changes)
    with pytest.raises(ValueError, match=rf"index.json is damaged \(.*{wrong}"):
        TokenRows(folder, 4)


@pytest.mark.parametrize("name", ["../secret.bin", "/etc/passwd", "..", "a/b.bin"])
def test_an_index_cannot_name_files_elsewhere(folder, name):
    shard = {"name": name, "tokens": 7, "sha256": "0"}
    change_index(folder, shards=[shard], tokens=7)
    with pytest.raises(ValueError, match=r"which is not a file of this folder"):
        TokenRows(folder, 4)


def test_documents_of_a_row_are_numbered_and_end_with_their_eos(folder, tokenizer, stream):
    for length in (1, 5, len(stream)):
        rows, plain = TokenRows(folder, length, documents=True), TokenRows(folder, length)
        for i in range(len(rows)):
            assert plain[i].keys() == {"x0"}
            assert (rows[i]["x0"] == plain[i]["x0"]).all()
            number, expected = 0, []
            for token in rows[i]["x0"]:
                expected.append(number)
                number += int(token == tokenizer.eos_token_id)
            assert rows[i]["documents"].tolist() == expected
    assert set(TokenRows(folder, len(stream), documents=True)[0]["documents"]) == {0, 1, 2}
