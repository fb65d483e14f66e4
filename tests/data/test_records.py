import gzip
import json

import datasets
import pytest

from llada.data import records
from llada.data.bad_rows import BadRowError, BadRows, only_good
from llada.data.records import Record, read_records, scan_records, string_field
from llada.data.sources import Source, identity

ROWS = [{"text": "one", "n": 1}, {"text": "two", "n": 2}]


def fields(source, **options):
    return [record.fields for record in read_records(source, **options)]


@pytest.fixture
def jsonl(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "\n")
    return path


def test_json_lines_are_rows_and_blank_lines_are_not(jsonl):
    assert fields(jsonl) == ROWS
    assert [record.where for record in read_records(jsonl)] == [f"{jsonl}, line 1", f"{jsonl}, line 2"]


def test_compressed_json_lines_are_rows(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(ROWS[0]).encode()))
    assert fields(path) == ROWS[:1]


def test_a_json_file_is_a_list_of_rows(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS))
    assert fields(path) == ROWS


def test_parquet_files_are_rows(tmp_path):
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_list(ROWS).to_parquet(str(path))
    assert fields(path) == ROWS


def test_a_saved_data_set_is_rows(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    assert fields(tmp_path / "saved") == ROWS


def test_a_saved_data_set_has_splits(tmp_path):
    splits = {"train": datasets.Dataset.from_list(ROWS[:1]), "test": datasets.Dataset.from_list(ROWS[1:])}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    assert fields(tmp_path / "saved") == ROWS[:1]
    assert fields(tmp_path / "saved", split="test") == ROWS[1:]
    with pytest.raises(ValueError, match="has no split 'valid'; it has train, test"):
        read_records(tmp_path / "saved", split="valid")


def test_a_local_data_set_is_opened_by_prefix(jsonl, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert fields(f"hf:{jsonl.parent}") == ROWS


@pytest.mark.parametrize(
    ("source", "called"),
    [("hf:owner/name", ("owner/name", None)), ("hf:owner/name/config", ("owner/name", "config"))],
)
def test_hub_names_may_have_a_configuration(monkeypatch, source, called):
    calls = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **options: calls.append((names, options)) or ROWS)
    assert [record.where for record in read_records(source, split="test")] == [f"{source}, row 1", f"{source}, row 2"]
    assert calls == [(called, {"split": "test", "revision": None, "streaming": False})]


@pytest.mark.parametrize("source", ["hf:", "hf:name", "hf:owner/"])
def test_hub_names_without_owner_are_refused(source):
    with pytest.raises(ValueError, match="does not name a data set: write hf:owner/name"):
        read_records(source)


def test_a_text_file_is_one_row(tmp_path):
    path = tmp_path / "notes.md"
    path.write_bytes("\ufeffcafé\r\n".encode())
    assert fields(path, text_field="body") == [{"body": "café\r\n"}]


def test_a_folder_is_read_in_order_of_names_without_hidden_files(tmp_path):
    for name in ("b.txt", "a/z.txt", "c/d/e.txt", "a/b.md", ".hidden", ".git/config"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [row["text"] for row in fields(tmp_path)] == ["b.txt", "a/b.md", "a/z.txt", "c/d/e.txt"]


def test_a_missing_path_is_named_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder '.*nowhere.txt'"):
        read_records(tmp_path / "nowhere.txt")


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_a_binary_file_is_named_with_the_offset_of_the_byte(tmp_path, start):
    path = tmp_path / "image.txt"
    path.write_bytes(start + b"abc\xff\x00")
    with pytest.raises(ValueError, match=rf"image.txt is not UTF-8 text: byte {len(start) + 3} is 0xff"):
        fields(path)


def test_a_bad_byte_in_json_lines_is_named_with_its_offset_in_the_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "x"}\n{"text": "\xff"}\n')
    with pytest.raises(ValueError, match=r"rows.jsonl is not UTF-8 text: byte 24 is 0xff"):
        fields(path)


def test_a_line_that_is_not_json_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "x"}\n{"text": \n')
    with pytest.raises(ValueError, match=r"rows.jsonl, line 2: this is not JSON: Expecting value"):
        fields(path)


def test_deeply_nested_json_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"rows.jsonl, line 1: this is not JSON"):
        fields(path)


def test_a_line_that_is_no_object_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('["x"]\n')
    with pytest.raises(ValueError, match=r"line 1: an object with named fields is needed, not list"):
        fields(path)


def test_a_json_file_that_is_no_list_is_refused(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('{"text": "x"}')
    with pytest.raises(ValueError, match=r"must hold one list of objects, not dict"):
        fields(path)


@pytest.mark.parametrize(
    "content", [b"not gzip", gzip.compress(b'{"text": "x"}\n' * 100)[:-12]], ids=["not gzip", "cut short"]
)
def test_a_damaged_gzip_file_is_named(tmp_path, content):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"rows.jsonl.gz is not a whole gzip file"):
        fields(path)


def test_a_damaged_parquet_file_is_named(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"rows.parquet cannot be read as Parquet"):
        fields(path)


def test_a_missing_field_lists_the_fields_found():
    with pytest.raises(ValueError, match=r"f, line 3: there is no field 'text'; the fields are body, title"):
        string_field(Record("f, line 3", {"body": "x", "title": "y"}), "text")
    with pytest.raises(ValueError, match="the fields are none"):
        string_field(Record("f, line 3", {}), "text")


def test_a_field_that_is_no_string_is_refused():
    with pytest.raises(ValueError, match=r"f, line 3: the field 'text' must be a string, not int"):
        string_field(Record("f, line 3", {"text": 3}), "text")


@pytest.mark.parametrize("name", ["rows.json.gz", "notes.txt.gz"])
def test_other_files_may_be_compressed(tmp_path, name):
    content = json.dumps(ROWS)
    (tmp_path / name).write_bytes(gzip.compress(content.encode()))
    assert fields(tmp_path / name) == (ROWS if "json" in name else [{"text": content}])


def texts(path, separator, longest=None):
    return [
        row.kind if isinstance(row, BadRowError) else row.fields["text"]
        for row in scan_records(Source(str(path), separator=separator, longest=longest))
    ]


@pytest.mark.parametrize("block", [1, 2, 3, 5, 1000])
def test_text_files_are_cut_at_a_separator_wherever_blocks_end(tmp_path, monkeypatch, block):
    monkeypatch.setattr(records, "BLOCK", block)
    path = tmp_path / "stories.txt"
    path.write_text("one<|>\ntwo<|><|>caf\u00e9<|>\n")
    assert texts(path, "<|>") == ["one", "\ntwo", "", "caf\u00e9"]
    path.write_text("<|>".join(["short", "x" * 50, "<" * 30, "end"]))
    assert texts(path, "<|>", longest=10) == ["short", "too long", "too long", "end"]
    path.write_bytes(b"good<|>\xff<|>also good")
    assert texts(path, "<|>") == ["good", "not UTF-8", "also good"]


def test_pieces_and_bytes_of_a_text_file_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "BLOCK", 4)
    path = tmp_path / "stories.txt"
    path.write_bytes(b"one|two|" + b"x" * 20 + b"|\xff")
    found = list(scan_records(Source(str(path), separator="|", longest=5)))
    assert [record.where for record in found[:2]] == [f"{path}, piece 1", f"{path}, piece 2"]
    assert "stories.txt, piece 3 has more than 5 bytes of text: cut it" in str(found[2])
    assert "byte 29 is 0xff" in str(found[3])


def test_a_text_file_may_be_exactly_as_long_as_allowed(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("x" * 10)
    assert texts(path, None, longest=10) == ["x" * 10]
    assert texts(path, None, longest=9) == ["too long"]


def test_rows_can_be_skipped_without_being_read(tmp_path):
    (tmp_path / "rows.jsonl").write_text('not JSON\n{"text": "two"}\n\n{"text": "three"}\n')
    datasets.Dataset.from_list(ROWS).to_parquet(str(tmp_path / "rows.parquet"))
    every = list(scan_records(Source(str(tmp_path))))
    assert isinstance(every[0], BadRowError)
    for skip in range(1, 7):
        assert list(scan_records(Source(str(tmp_path)), skip)) == every[skip:]
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    (record,) = scan_records(Source(str(tmp_path / "saved")), 1)
    assert record == Record(f"{tmp_path / 'saved'}, row 2", ROWS[1])


def test_a_data_set_can_be_streamed_and_skipped(jsonl):
    source = Source(f"hf:{jsonl.parent}", streaming=True)
    assert [record.fields for record in scan_records(source)] == ROWS
    assert [record.where for record in scan_records(source, 1)] == [f"hf:{jsonl.parent}, row 2"]


def test_the_identity_of_a_source_is_that_of_its_files(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text("one")
    first = identity(Source(str(tmp_path / "d")))
    assert list(first["files"]) == ["a.txt"]
    assert first["files"]["a.txt"]["bytes"] == 3
    assert identity(Source(str(tmp_path / "d" / "a.txt"))) == first  # where it lies says nothing
    (tmp_path / "d" / "a.txt").write_text("two")
    assert identity(Source(str(tmp_path / "d"))) != first
    assert identity(Source(f"hf:{tmp_path / 'd'}", split="test"))["split"] == "test"


def test_a_data_set_of_the_hub_is_identified_by_its_files_there(monkeypatch):
    class Builder:
        class config:  # noqa: N801
            data_files = {"train": ["hf://datasets/owner/name@5f1/train.parquet"]}  # noqa: RUF012

        class info:  # noqa: N801
            version = "1.0.0"

        hash = "abc"

    calls = []
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *a, **k: calls.append((a, k)) or Builder)
    found = identity(Source("hf:owner/name/config", revision="v2"))
    assert calls == [(("owner/name", "config"), {"revision": "v2"})]
    assert found["files"] == {"train": ["hf://datasets/owner/name@5f1/train.parquet"]}
    assert (found["fingerprint"], found["revision"]) == ("abc", "v2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a.txt", "streaming": True}, "--streaming has no effect on a.txt"),
        ({"name": "a.txt", "revision": "v2"}, "--revision has no effect on a.txt"),
        ({"name": "hf:a/b", "separator": "x"}, "--separator cuts text files, and has no effect on hf:a/b"),
        ({"name": "a.txt", "separator": ""}, "the separator is empty"),
    ],
)
def test_options_without_effect_on_a_source_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Source(**options)


def test_bad_rows_are_counted_by_kind_with_the_first_of_each():
    bad = BadRows()
    for kind, message in (("empty", "a, line 1"), ("empty", "a, line 2"), ("not JSON", "b")):
        bad.add(BadRowError(kind, message))
    assert str(bad) == "3 rows cannot be used: 2 empty (first: a, line 1); 1 not JSON (first: b)"
    assert BadRows(json.loads(json.dumps(bad.found))).total == 3


def test_a_bad_row_is_refused_after_a_look_at_the_next_ones(monkeypatch):
    monkeypatch.setattr("llada.data.bad_rows.LOOK_ON", 3)
    taken = []
    rows = (taken.append(i) or (BadRowError("empty", f"row {i}") if i > 1 else i) for i in range(100))
    good = only_good(rows, "Mend it.")
    assert [next(good), next(good)] == [0, 1]
    with pytest.raises(ValueError, match=r"^4 rows cannot be used: 4 empty \(first: row 2\). Mend it.$"):
        next(good)
    assert taken == [0, 1, 2, 3, 4, 5]
