"""What a file is and what is read from it. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from types import MappingProxyType

from ...kernel.errors import Conflict, Invalid


class FileUnreadable(Invalid):
    """The file is no such file, is broken, encrypted, too large, or has no text."""

    code, title = "file_unreadable", "The file cannot be read"


class ReaderMissing(Conflict):
    """The library that reads such files is not installed."""

    code, title = "file_reader_missing", "No reader for such files is installed"


class Kind(StrEnum):
    """What can be read."""

    PDF = "pdf"
    DOCX = "docx"
    HTML = "html"
    MARKDOWN = "markdown"
    PLAIN = "plain"


_DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
_TYPES: Mapping[str, Kind] = MappingProxyType(
    {
        "application/pdf": Kind.PDF,
        _DOCX: Kind.DOCX,
        "text/html": Kind.HTML,
        "application/xhtml+xml": Kind.HTML,
        "text/markdown": Kind.MARKDOWN,
        "text/plain": Kind.PLAIN,
    }
)
FILE_SUFFIXES: Mapping[str, Kind] = MappingProxyType(
    {
        ".pdf": Kind.PDF,
        ".docx": Kind.DOCX,
        ".html": Kind.HTML,
        ".htm": Kind.HTML,
        ".xhtml": Kind.HTML,
        ".md": Kind.MARKDOWN,
        ".markdown": Kind.MARKDOWN,
        ".txt": Kind.PLAIN,
        ".rst": Kind.PLAIN,
    }
)


@dataclass(frozen=True, slots=True)
class Read:
    """What a file says.

    Attributes:
        text: as Markdown; of a PDF the text of its pages, with a blank line between them.
        title: as the file itself names it, if it does.
        pages: of a PDF.
    """

    kind: Kind
    text: str
    title: str | None = None
    pages: int | None = None

    @property
    def body(self) -> dict[str, object]:
        """As the body of a document; every text in it is there to be searched."""
        known = {"title": self.title, "text": self.text, "pages": self.pages}
        return {name: value for name, value in known.items() if value is not None}


def kind_of(type: str | None, name: str) -> Kind:
    """What a file is by its media type, or where that says nothing, by its name.

    Raises:
        FileUnreadable: neither names a kind that can be read (422).
    """
    bare = (type or "").partition(";")[0].strip().lower()
    kind = _TYPES.get(bare) or FILE_SUFFIXES.get(PurePosixPath(name).suffix.lower())
    if kind is None:
        told = f"{bare!r} and the name {name!r}" if bare else f"the name {name!r}"
        raise FileUnreadable(
            f"{told} say no kind of file that can be read: send one of {', '.join(_TYPES)} as its type, "
            f"or a name that ends in {', '.join(FILE_SUFFIXES)}"
        )
    return kind
