import re
from itertools import islice

import pytest

from llada.data import corpora
from llada.data.corpora import python_documentation

PROSE = "This is a sentence that is in the documentation of the file, and it is number {} of them."


def key(paragraph):
    return re.sub(r"[^a-z]+", " ", paragraph.lower())


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Two hundred made-up source files in place of those installed; each has a sentence of its own and a shared one."""
    letters = "abcdefghij"
    for number in range(200):
        own = PROSE.format(letters[number // 100] + letters[number // 10 % 10] + letters[number % 10])
        shared = PROSE.format("all" if number % 2 else "many")
        text = f'"""{own}\n\n{shared}\n\n{own.replace("sentence", "line")}\n\n{own.replace("file", "page")}\n"""\n'
        (tmp_path / f"module{number}.py").write_text(text)
    monkeypatch.setattr(corpora.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(corpora, "PACKAGES", ("no_such_package",))
    return tmp_path


def test_every_file_is_in_one_split_and_few_are_held_out(library):
    train, heldout = list(python_documentation()), list(python_documentation("heldout"))
    names = {document.name for document in train} | {document.name for document in heldout}
    assert len(names) == len(train) + len(heldout) == 200
    assert 1 <= len(heldout) <= 25  # 10 expected


def test_no_paragraph_comes_twice_in_both_splits_together(library):
    documents = [*python_documentation(), *python_documentation("heldout")]
    keys = [key(paragraph) for document in documents for paragraph in document.text.split("\n\n")]
    assert len(keys) == len(set(keys)) == 3 * 200 + 2


def test_order_is_fixed_and_a_limit_takes_the_beginning(library):
    everything = list(python_documentation())
    assert list(python_documentation()) == everything
    limited = list(python_documentation(max_bytes=5000))
    assert limited == everything[: len(limited)]
    size = sum(len(document.text.encode()) for document in limited)
    assert size <= 5000 < size + len(everything[len(limited)].text.encode())


def test_a_file_is_read_without_being_imported_or_valid(library):
    text = (library / "module0.py").read_text()
    (library / "module0.py").write_text("raise SystemExit\nprint 'old'\n" + text)
    assert len([*python_documentation(), *python_documentation("heldout")]) == 200


def test_files_that_are_not_utf8_and_tests_are_passed_over(library):
    (library / "module0.py").write_bytes(b"# \xff\n" + (library / "module0.py").read_bytes())
    (library / "tests").mkdir()
    (library / "module1.py").rename(library / "tests" / "module1.py")
    assert len([*python_documentation(), *python_documentation("heldout")]) == 198


def paragraphs(text):
    return list(corpora._new_paragraphs([text], set()))


@pytest.mark.parametrize(
    "text",
    [
        "x : array_like\n    The array that is to be sorted and that is not changed by the function.",
        "- this is one of the points of the list, and it is not a sentence of the text.",
        "It has points that are in a list:\n- the first of them is here,\n- and the second is there.",
        ">>> this_is(code) and it is not the prose that we want to have in it.",
        "for x in the_list: if it is not in the other, then do this and that.",
        "Args:\n    a: the first of the two.\n    b: the second of the two, which is not the first.",
        "Too short.",
        "A heading that is not a sentence and has no full stop at the end of it",
        "Convolution kernel dilation stride padding groups bias tensor dtype device layout memory.",
        "Where (a+b)*(c-d)/2 = [x, y] is the <value> of {the} 1/2*sum(3**2) and it is 0x12 or 1e-5.",
        "",
    ],
)
def test_what_is_no_prose_is_dropped(text):
    assert paragraphs(text) == []


def test_prose_is_unwrapped_and_cleared_of_marks():
    text = "Returns:\n    The :class:`~a.B` that is in the *first* of the ``files``, as it\n    is in [the manual](http://x.y)."
    assert paragraphs(text) == ["The a.B that is in the first of the files, as it is in the manual."]


def test_strings_that_are_no_docstrings_are_passed_over(tmp_path):
    path = tmp_path / "module.py"
    path.write_text('x = \'\'\'\nnot this\n\'\'\'\ndef f():\n    r"""This one."""\n    y = """nor this"""\n')
    assert corpora._documentation(str(path)) == ["This one."]


def test_what_is_installed_gives_readable_text():
    documents = list(islice(python_documentation("heldout"), 40))
    assert len(documents) == 40
    assert all(len(document.text) >= corpora.SHORTEST_DOCUMENT for document in documents)
    text = "\n".join(document.text for document in documents)
    words = re.findall(r"[a-z]+", text.lower())
    assert len(words) > 3000
    assert 0.03 < words.count("the") / len(words) < 0.12  # English


def test_the_language_reference_is_read():
    path = corpora.os.path.join(corpora.sysconfig.get_path("stdlib"), "pydoc_data", "topics.py")
    assert len(paragraphs("\n\n".join(corpora._documentation(path)))) > 300


def test_unknown_splits_are_refused_at_once():
    with pytest.raises(ValueError, match="split='test'; allowed are 'train' and 'heldout'"):
        python_documentation("test")


def test_a_limit_of_nothing_is_refused_at_once():
    with pytest.raises(ValueError, match="max_bytes=0: give at least 1, or None for everything"):
        python_documentation(max_bytes=0)
