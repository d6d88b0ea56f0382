from hypothesis import given
from hypothesis import strategies as st

from backstay.content.chunker import Chunker, Piece, searched

PARTS = [*"ab .\n#`-=|é你。\t\r\x0b\u2028", "\n\n", "# H\n", "```\n", "\n## T x\n", "word ", "Sentence. ", "T\n===\n"]
texts = st.lists(st.sampled_from(PARTS), max_size=400).map("".join)


@given(texts, st.integers(100, 300), st.integers(0, 150), st.booleans())
def test_nothing_is_lost_and_bounds_are_kept(text: str, size: int, overlap: int, markdown: bool) -> None:
    overlap = min(overlap, size // 2)
    pieces = Chunker(size, overlap, markdown).cut(text)
    covered: set[int] = set()
    for before, piece in zip([None, *pieces], pieces, strict=False):
        assert piece.text == text[piece.start : piece.end]
        assert 0 < len(piece.text) <= size
        assert piece.text == piece.text.strip()
        if before is not None:
            assert piece.start > before.start
            assert piece.end > before.end
            assert before.end - piece.start <= overlap
        covered.update(range(piece.start, piece.end))
    assert all(index in covered for index, character in enumerate(text) if not character.isspace())


@given(texts, st.booleans())
def test_the_same_text_is_cut_the_same_way(text: str, markdown: bool) -> None:
    chunker = Chunker(120, 30, markdown)
    assert chunker.cut(text) == chunker.cut(text)


def cut(text: str, size: int = 100, overlap: int = 0, *, markdown: bool = True) -> list[Piece]:
    return Chunker(size, overlap, markdown).cut(text)


def test_white_space_makes_no_chunk() -> None:
    assert cut(" \n\t\n ") == []


def test_a_section_begins_a_chunk_and_gives_it_its_path() -> None:
    parts = ("# Book", "intro " * 10, "## One", "first " * 10, "### Deep", "deep " * 10, "## Two", "second " * 9)
    text = "\n\n".join(parts)
    assert [piece.heading for piece in cut(text)] == [
        ("Book",),
        ("Book", "One"),
        ("Book", "One", "Deep"),
        ("Book", "Two"),
    ]


def test_sections_that_are_crumbs_stay_together() -> None:
    assert len(cut("# A\n\nx\n\n# B\n\ny\n\n# C\n\nz")) == 1


def test_underlined_headings_count() -> None:
    pieces = cut(f"Title\n=====\n\n{'words ' * 12}\n\nPart\n----\n\n{'words ' * 12}")
    assert [piece.heading for piece in pieces] == [("Title",), ("Title", "Part")]


def test_a_comment_in_a_code_block_is_no_heading() -> None:
    text = f"# Real\n\n```sh\n# not a heading\n\n{'run ' * 15}\n```\n\n{'after ' * 12}"
    assert {piece.heading for piece in cut(text)} == {("Real",)}


def test_plain_text_has_no_headings() -> None:
    assert {piece.heading for piece in cut("# 1\n" + "words " * 60, markdown=False)} == {()}


def test_cuts_prefer_paragraphs_then_sentences_then_words() -> None:
    paragraphs = f"{'a' * 30} {'b' * 30}\n\n{'c' * 30} {'d' * 30}"
    assert [piece.text[0] for piece in cut(paragraphs)] == ["a", "c"]
    sentences = f"{'a' * 60}. {'b' * 60}. {'c' * 20}."
    assert [piece.text[-1] for piece in cut(sentences)] == [".", "."]
    words = "abcdefghi " * 30
    assert all(set(piece.text.split()) == {"abcdefghi"} for piece in cut(words))


def test_overlap_repeats_the_end_within_a_section_only() -> None:
    first, second = cut("The quick brown fox. " * 9, size=120, overlap=40)[:2]
    assert 0 < first.end - second.start <= 40
    assert second.text.startswith("The")
    sections = cut(f"# A\n\n{'alpha ' * 15}\n\n# B\n\n{'beta ' * 15}", size=110, overlap=40)
    assert "alpha" not in sections[-1].text


def test_a_word_longer_than_a_chunk_is_cut_all_the_same() -> None:
    assert [len(piece.text) for piece in cut("x" * 250)] == [100, 100, 50]


def test_what_is_searched_begins_with_the_headings() -> None:
    assert searched(("A", "B"), "text") == "A > B\n\ntext"
    assert searched((), "text") == "text"


def test_the_revision_names_what_decides_the_cuts() -> None:
    revisions = {
        Chunker(*options).revision for options in [(100, 0, True), (100, 0, False), (200, 0, True), (100, 9, True)]
    }
    assert len(revisions) == 4
