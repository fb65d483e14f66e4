"""Files of sessions, whatever a client calls its own."""

import pytest

from llada.web.files import forget, new_folder

NAMES = ["", ".", "..", "../..", "../other", "a/b", "/abs", "\x00", "\ud800", "a" * 1000, None]


@pytest.fixture
def folder(tmp_path):
    """The folder of all sessions, with another one beside it, which "/abs" is replaced by in names."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").write_text("stays")
    (tmp_path / "sessions").mkdir()
    return tmp_path / "sessions"


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_session_reaches_its_own_files_alone_whatever_it_is_called(folder, name):
    session = str(folder.parent / "other") if name == "/abs" else name
    (new_folder(folder, "neighbour") / "trace").write_text("stays")
    made = new_folder(folder, session)
    (made / "trace").write_text("goes")
    assert made.parent.parent == folder
    forget(folder, session)
    assert not made.parent.exists()
    assert [file.read_text() for file in folder.parent.rglob("*") if file.is_file()] == ["stays", "stays"]


def test_a_new_folder_takes_the_place_of_the_one_before_it(folder):
    first = new_folder(folder, "a")
    second = new_folder(folder, "a")
    assert not first.exists()
    assert second.is_dir()
    assert first != second
