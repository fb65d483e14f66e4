"""Files under their names: whole or not at all, and never in the place of anything but a file."""

import os
import socket
from contextlib import closing

import pytest

from llada.durable import (
    check_file,
    check_folder,
    check_is_folder,
    check_new_file,
    followed,
    is_taken,
    publish_file,
)


def kinds(folder):
    return {path.name: path.lstat().st_mode for path in folder.iterdir()}


@pytest.fixture(params=["folder", "pipe", "socket", "link to nothing", "loop", "link to a pipe"])
def taken(request, tmp_path):
    """A name that something else than a file has."""
    path = tmp_path / "taken"
    match request.param:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "socket":
            with closing(socket.socket(socket.AF_UNIX)) as made:
                made.bind(os.path.relpath(path))  # such names have 107 bytes at most
        case "link to nothing":
            path.symlink_to("nowhere")
        case "loop":
            path.symlink_to("taken")
        case "link to a pipe":
            os.mkfifo(tmp_path / "pipe")
            path.symlink_to("pipe")
    return path


def test_nothing_but_a_file_is_replaced(taken, tmp_path):
    before = kinds(tmp_path)
    for refuse in (check_file, lambda path: publish_file(path, b"new")):
        with pytest.raises(FileExistsError, match="taken is a folder, a device, a pipe or a link to nothing; name a f"):
            refuse(taken)
    assert kinds(tmp_path) == before


def test_a_link_stays_one_and_its_file_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("far/file")
    publish_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "file").read_bytes() == b"new"
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["file"]


def test_only_an_empty_folder_or_nothing_can_become_a_folder(taken, tmp_path):
    empty = taken.is_dir()
    assert is_taken(taken) != empty
    (tmp_path / "full" / "inside").mkdir(parents=True)
    (tmp_path / "link to full").symlink_to("full")
    assert is_taken(tmp_path / "full")
    assert is_taken(tmp_path / "link to full")
    assert not is_taken(tmp_path / "new")


def test_a_file_without_a_name_or_a_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileExistsError, match=r"^\. is a folder"):
        check_file(tmp_path.relative_to(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere; make it first"):
        check_file(tmp_path / "nowhere" / "file")


def test_what_must_be_new_replaces_no_file(tmp_path):
    check_new_file(tmp_path / "new")
    (tmp_path / "old").touch()
    with pytest.raises(FileExistsError, match="old exists; choose another name or remove it"):
        check_new_file(tmp_path / "old")
    with pytest.raises(FileExistsError, match="is a folder"):
        check_new_file(tmp_path)


def test_a_link_that_leads_to_itself_is_followed_to_where_it_is(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    assert followed(tmp_path / "loop") == tmp_path / "loop"
    for check in (check_is_folder, check_folder, check_file):
        with pytest.raises(FileExistsError, match="loop"):
            check(tmp_path / "loop")
