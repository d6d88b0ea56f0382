"""Files become Markdown, and those that were made to do harm end in an error of their own."""

import io
import zipfile
from pathlib import Path

import psutil
import pytest
from pypdf import PdfReader, PdfWriter

from backstay.content.files import FileUnreadable, Kind, ReaderMissing, kind_of, read, reading

PAGE = """
<html><head><title> On&nbsp;tides </title><style>p {}</style><script>alert("no")</script></head><body>
<h1>Tides</h1><p>The <b>moon</b> pulls the <a href="https://example.org/sea">sea</a>.</p>
<ul><li>high<li>low</ul><table><tr><th>when</th><th>metres</th></tr><tr><td>noon</td><td>3</td></tr></table>
<img src="file:///etc/passwd" alt="a wave"><noscript>turn it on</noscript></body></html>
"""


def pdf(*pages: str) -> bytes:
    """A PDF whose pages say these words, made by hand."""
    kids = " ".join(f"{4 + 2 * place} 0 R" for place in range(len(pages)))
    parts = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for place, words in enumerate(pages):
        script = f"BT /F1 12 Tf 72 720 Td ({words}) Tj ET"
        parts.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * place} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        parts.append(f"<< /Length {len(script)} >>\nstream\n{script}\nendstream")
    out, starts = io.BytesIO(b"%PDF-1.4\n"), []
    out.seek(0, io.SEEK_END)
    for number, part in enumerate(parts, start=1):
        starts.append(out.tell())
        out.write(f"{number} 0 obj\n{part}\nendobj\n".encode())
    table = out.tell()
    rows = "".join(f"{start:010} 00000 n \n" for start in starts)
    out.write(f"xref\n0 {len(parts) + 1}\n0000000000 65535 f \n{rows}".encode())
    out.write(f"trailer << /Size {len(parts) + 1} /Root 1 0 R >>\nstartxref\n{table}\n%%EOF".encode())
    return out.getvalue()


def docx(body: str, **more: bytes) -> bytes:
    """A DOCX with this body, made by hand."""
    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    types = "http://schemas.openxmlformats.org/package/2006/content-types"
    relations = "http://schemas.openxmlformats.org/package/2006/relationships"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    main = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    override = f'<Override PartName="/word/document.xml" ContentType="{main}"/>'
    files = {
        "[Content_Types].xml": f'<Types xmlns="{types}">{override}</Types>',
        "_rels/.rels": f'<Relationships xmlns="{relations}"><Relationship Id="r" Type="{office}" '
        'Target="word/document.xml"/></Relationships>',
        "word/document.xml": f"<w:document {space}><w:body>{body}</w:body></w:document>",
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        for name, data in more.items():
            archive.writestr(name, data)
    return out.getvalue()


def paragraph(text: str, style: str | None = None) -> str:
    chosen = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{chosen}<w:r><w:t>{text}</w:t></w:r></w:p>"


async def test_a_page_of_html_keeps_its_structure_and_loses_what_nobody_sees() -> None:
    found = await read(PAGE.encode(), Kind.HTML)
    assert found.title == "On tides"
    table = "| when | metres |\n| --- | --- |\n| noon | 3 |"
    assert found.text == f"# Tides\n\nThe **moon** pulls the sea.\n\n- high\n- low\n\n{table}\n\na wave"


async def test_html_says_its_own_character_set() -> None:
    page = '<html><head><meta charset="iso-8859-1"></head><body><p>Küste</p></body></html>'.encode("iso-8859-1")
    assert (await read(page, Kind.HTML)).text == "Küste"


async def test_the_pages_of_a_pdf_become_its_text() -> None:
    found = await read(pdf("The moon pulls", "The sea follows"), Kind.PDF)
    assert found.text == "The moon pulls\n\nThe sea follows"
    assert found.pages == 2
    assert found.body == {"text": found.text, "pages": 2}


async def test_headings_of_a_docx_become_headings() -> None:
    body = paragraph("Tides", "Heading1") + paragraph("The moon pulls the sea.")
    assert (await read(docx(body), Kind.DOCX)).text == "# Tides\n\nThe moon pulls the sea."


async def test_a_pdf_that_needs_a_password_says_so() -> None:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf("secret words"))))
    writer.encrypt("password", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    with pytest.raises(FileUnreadable, match="encrypted and needs a password"):
        await read(out.getvalue(), Kind.PDF)


async def test_a_pdf_of_pictures_says_what_to_do() -> None:
    with pytest.raises(FileUnreadable, match="character recognition"):
        await read(pdf("", ""), Kind.PDF)


@pytest.mark.parametrize("kind", [Kind.PDF, Kind.DOCX])
@pytest.mark.parametrize("data", [b"", b"\x00" * 100, b"%PDF-1.7\n1 0 obj << /A", b"PK\x03\x04 broken"])
async def test_a_broken_file_is_refused_with_the_reason(kind: Kind, data: bytes) -> None:
    with pytest.raises(FileUnreadable, match=f"the {kind} file cannot be read: "):
        await read(data, kind)


async def told(data: bytes, kind: Kind) -> str:
    """The text, or why there is none."""
    try:
        return (await read(data, kind)).text
    except FileUnreadable as error:
        return f"refused: {error.detail}"


@pytest.mark.parametrize("kind", [Kind.PDF, Kind.DOCX])
async def test_a_file_that_is_cut_off_is_read_or_refused_and_nothing_else(kind: Kind) -> None:
    whole = pdf("The moon pulls") if kind is Kind.PDF else docx(paragraph("The moon pulls"))
    for part in (len(whole) // 3, len(whole) // 2, len(whole) - 20):
        answer = await told(whole[:part], kind)
        assert "moon" in answer or answer.startswith("refused: ")


async def test_a_docx_that_unpacks_to_too_much_is_not_unpacked() -> None:
    bomb = docx(paragraph("small"), **{"word/media/zeros.bin": b"\0" * (300 << 20)})
    assert len(bomb) < 1 << 20
    with pytest.raises(FileUnreadable, match="unpacked it is larger than 256 MB"):
        await read(bomb, Kind.DOCX)


async def test_a_docx_reads_no_other_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret words")
    entity = f'<!DOCTYPE d [<!ENTITY x SYSTEM "file://{secret}">]>'
    whole = docx(paragraph("&x;"))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        document = entity + archive.read("word/document.xml").decode()
        others = {name: archive.read(name) for name in archive.namelist() if name != "word/document.xml"}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in (others | {"word/document.xml": document.encode()}).items():
            archive.writestr(name, data)
    with pytest.raises(FileUnreadable) as refused:
        await read(out.getvalue(), Kind.DOCX)
    assert "secret" not in refused.value.detail


async def test_html_that_is_nested_without_end_is_read_or_refused() -> None:
    answer = await told(b"<div>" * 200_000 + b"words", Kind.HTML)
    assert "words" in answer or "nested too deep" in answer or "bounds of memory and time" in answer


async def test_a_reader_that_takes_too_long_is_killed() -> None:
    with pytest.raises(FileUnreadable, match=r"took longer than 0\.01 seconds"):
        await read(PAGE.encode() * 5_000, Kind.HTML, seconds=0.01)
    assert not psutil.Process().children(recursive=True)


async def test_a_file_that_is_too_large_is_not_read_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_BYTES", 10)
    with pytest.raises(FileUnreadable, match="10 are the most"):
        await read(b"12345678901", Kind.PLAIN)


async def test_text_loses_what_the_database_cannot_hold() -> None:
    assert (await read("\ufeffa\0b\r\nc   \n\n\n\nd".encode(), Kind.PLAIN)).text == "ab\nc\n\nd"


async def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(FileUnreadable, match="not UTF-8"):
        await read("Küste".encode("latin-1"), Kind.PLAIN)


async def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pypdf.py").write_text("raise ModuleNotFoundError(\"No module named 'pypdf'\", name='pypdf')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ReaderMissing, match=r"pip install 'backstay\[files\]'"):
        await read(pdf("words"), Kind.PDF)


@pytest.mark.parametrize(
    ("type", "name", "kind"),
    [
        ("application/pdf", "", Kind.PDF),
        ("text/html; charset=utf-8", "x.pdf", Kind.HTML),
        ("application/octet-stream", "a/b.DOCX", Kind.DOCX),
        (None, "notes.md", Kind.MARKDOWN),
    ],
)
def test_the_type_says_what_a_file_is_and_else_its_name(type: str | None, name: str, kind: Kind) -> None:
    assert kind_of(type, name) is kind


def test_a_file_of_no_known_kind_is_refused_with_what_can_be_sent() -> None:
    with pytest.raises(FileUnreadable, match=r"application/pdf.*docx"):
        kind_of("image/png", "cat.png")
