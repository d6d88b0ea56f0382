import pytest

from backstay.demo.documents import QUESTIONS, library
from backstay.kernel.errors import ConfigurationError


def test_the_packaged_pages_say_something_about_each_default_question(monkeypatch, tmp_path):
    from backstay.demo import documents

    monkeypatch.setattr(documents, "__file__", str(tmp_path / "site-packages" / "backstay" / "demo" / "documents.py"))
    books = library(None)
    assert books.origin == "the pages that come with the package"
    text = " ".join(document.text for document in books.documents)
    for word in ("finished steps are not repeated", "is committed before", "takes a reservation"):
        assert word in " ".join(text.split())
    assert books.questions == QUESTIONS


def test_a_folder_is_read_with_its_subfolders_and_without_what_is_hidden(tmp_path):
    (tmp_path / "guides").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "guides" / "one.md").write_text("# Setting up\n\nDo it.")
    (tmp_path / "two.txt").write_bytes(b"caf\xe9 \x00 text")
    (tmp_path / ".git" / "no.md").write_text("no")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "empty.md").write_text("  \n")
    books = library(tmp_path)
    assert [document.id for document in books.documents] == ["guides/one.md", "two.txt"]
    assert [document.title for document in books.documents] == ["Setting up", "two"]
    assert "\x00" not in books.documents[1].text
    assert books.questions == ("What is said about Setting up?", "What is said about two?")


def test_a_folder_without_documents_is_refused_with_what_would_be_read(tmp_path):
    with pytest.raises(ConfigurationError, match=r"\.md"):
        library(tmp_path)
    with pytest.raises(ConfigurationError, match="not a folder"):
        library(tmp_path / "missing")
