"""The documents of the demo: a folder of Markdown or text, and questions that fit it."""

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ..kernel.errors import ConfigurationError

SUFFIXES = frozenset({".md", ".markdown", ".txt", ".rst"})
QUESTIONS = (
    "When is the audit entry of a model call committed?",
    "Which steps are repeated after kill -9 of a worker, and which are not?",
    "What does a reservation protect a budget from?",
)
_MAX_BYTES = 2 * 1024 * 1024
_HEADING = re.compile(r"^#{1,2}\s+(.+?)\s*#*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Document:
    """One file. `id` is its path inside the folder."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Library:
    """Where the documents come from, the documents, and what to ask about them."""

    origin: str
    documents: list[Document]
    questions: tuple[str, ...]


def library(folder: Path | None) -> Library:
    """The documents of `folder`; by default those of this repository, or the ones that come with the package.

    Raises:
        ConfigurationError: there is no such folder, or no Markdown or text in it.
    """
    if folder is not None:
        documents = _read(folder)
        if not documents:
            raise ConfigurationError(
                f"{folder} has no documents: the demo reads {', '.join(sorted(SUFFIXES))} files below it"
            )
        return Library(str(folder), documents, _questions_about(documents))
    repository = Path(__file__).parents[3]
    if (repository / "pyproject.toml").is_file() and (repository / "docs").is_dir():
        return Library("the repository's docs/", _read(repository / "docs"), QUESTIONS)
    return Library("the pages that come with the package", _packaged(), QUESTIONS)


def _read(folder: Path) -> list[Document]:
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is not a folder; --docs wants a folder of Markdown or text")
    found = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if hidden or path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        try:
            body = path.read_bytes()[:_MAX_BYTES]
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
        text = body.decode("utf-8", "replace").replace("\x00", "").strip()
        if text:
            found.append(Document(inside.as_posix(), _title(text, path.stem), text))
    return found


def _packaged() -> list[Document]:
    pages = files(__package__).joinpath("pages")
    texts = {page.name: page.read_text(encoding="utf-8") for page in pages.iterdir() if page.name.endswith(".md")}
    return [Document(f"pages/{name}", _title(text, name), text) for name, text in sorted(texts.items())]


def _title(text: str, otherwise: str) -> str:
    heading = _HEADING.search(text)
    return heading[1] if heading else otherwise


def _questions_about(documents: list[Document]) -> tuple[str, ...]:
    """Questions about three documents spread over the folder, in the words of their headings."""
    step = max(1, len(documents) // 3)
    chosen = documents[::step][:3]
    return tuple(dict.fromkeys(f"What is said about {document.title}?" for document in chosen))
