import gzip
import json

import datasets
import pytest

from llada.data.records import Record, read_records, string_field

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
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, split: calls.append((names, split)) or ROWS)
    assert [record.where for record in read_records(source, split="test")] == [f"{source}, row 1", f"{source}, row 2"]
    assert calls == [(called, "test")]


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
