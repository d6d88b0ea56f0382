"""The process that reads one file: its bytes come on standard input, what they say leaves on standard output.

Run as `python -m backstay.content.files.reader KIND SECONDS BYTES`. It is told nothing that is secret, takes bounds for
its memory and time before it looks at the first byte, and may not write files.
"""

import io
import json
import re
import resource
import sys
import zipfile
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

_MEMORY = 1 << 30
_UNPACKED = 256 << 20  # bytes that a DOCX may have in it, unpacked
_MANY_LINES = re.compile(r"\n{3,}")
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
_UNSEEN = ("script", "style", "noscript", "template", "svg", "iframe", "object", "head")


class Unreadable(Exception):
    """Why, in words for whoever sent the file."""


Told = dict[str, Any]


def pdf(data: bytes) -> Told:
    import pypdf
    from pypdf.errors import PyPdfError

    try:
        book = pypdf.PdfReader(io.BytesIO(data), strict=False)
        if book.is_encrypted and not book.decrypt(""):
            raise Unreadable("it is encrypted and needs a password")
        pages = [page.extract_text() for page in book.pages]
        title = book.metadata.title if book.metadata else None
    except PyPdfError as error:
        raise Unreadable(str(error) or type(error).__name__) from None
    if not any(page.strip() for page in pages):
        raise Unreadable("its pages have no text; if they are scanned, run character recognition first")
    return {"text": "\n\n".join(pages), "title": title, "pages": len(pages)}


def docx(data: bytes) -> Told:
    import mammoth  # type: ignore[import-untyped]

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _UNPACKED:
                raise Unreadable(f"unpacked it is larger than {_UNPACKED >> 20} MB")
    except zipfile.BadZipFile as error:
        raise Unreadable(f"it is no DOCX: {error}") from None
    nothing = mammoth.images.img_element(lambda _: {"src": ""})
    page = mammoth.convert_to_html(io.BytesIO(data), convert_image=nothing, external_file_access=False).value
    return html(f"<body>{page}</body>".encode())


def html(data: bytes) -> Told:
    import bs4
    import lxml  # type: ignore[import-untyped]  # noqa: F401 -- bs4 loads it by name
    from markdownify import MarkdownConverter

    tree = bs4.BeautifulSoup(data, "lxml")
    title = tree.title.get_text(" ", strip=True) if tree.title else None
    for unseen in tree(_UNSEEN):
        unseen.decompose()
    for image in tree("img"):
        image.replace_with(str(image.get("alt") or ""))
    convert = MarkdownConverter(
        heading_style="ATX", bullets="-", escape_asterisks=False, escape_underscores=False, strip=["a"]
    )
    return {"text": convert.convert_soup(tree), "title": title}


def text(data: bytes) -> Told:
    try:
        return {"text": data.decode("utf-8-sig")}
    except UnicodeDecodeError as error:
        raise Unreadable(f"it is not UTF-8: {error.reason} at byte {error.start}") from None


READERS: Mapping[str, Callable[[bytes], Told]] = MappingProxyType(
    {"pdf": pdf, "docx": docx, "html": html, "markdown": text, "plain": text}
)


def told(kind: str, data: bytes, most: int) -> Told:
    """What a file says, or `unreadable` with the reason, or `missing` with the name of the library."""
    try:
        found = READERS[kind](data)
    except ModuleNotFoundError as error:
        return {"missing": error.name}
    except Unreadable as error:
        return {"unreadable": str(error)}
    except (MemoryError, RecursionError) as error:
        return {"unreadable": f"it is nested too deep or needs too much memory ({type(error).__name__})"}
    except Exception as error:
        return {"unreadable": f"it is broken: {error or type(error).__name__}"[:500]}
    whole = found["text"].replace("\r\n", "\n").replace("\0", "").encode(errors="replace").decode()
    whole = _MANY_LINES.sub("\n\n", _TRAILING.sub("", whole)).strip()
    if not whole:
        return {"unreadable": "it has no text"}
    if len(whole.encode()) > most:
        return {"unreadable": f"its text is larger than {most >> 20} MB"}
    title = " ".join(str(found.get("title") or "").replace("\0", "").split())[:500]
    return {"text": whole, "title": title or None, "pages": found.get("pages")}


def bounded(seconds: int) -> None:
    """What this process may take."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    kind, seconds, most = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    bounded(seconds)
    answer = told(kind, sys.stdin.buffer.read(), most)
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
