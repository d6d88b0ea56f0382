"""Cuts a text into chunks by characters and structure. Nothing but white space is ever lost.

A chunk ends where a section ends, else after a paragraph, a line, a sentence, a word, in this order of preference; a
heading or a blank line inside a Markdown code block is no such place. A chunk that does not begin a section repeats
the end of the one before it. Each knows the path of headings it stands under.
"""

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_HEADING = re.compile(r"^ {0,3}(#{1,6})[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$")
_UNDERLINE = re.compile(r"^ {0,3}(=+|-{2,})[ \t]*$")
_SENTENCE = re.compile(r"[.!?。！？…]['\"”’)\]]*(?:\s+|(?<=[。！？]))")
_SPACE = re.compile(r"\s+")
_MAX_TITLE = 200
REVISION = 1  # part of a space's definition: raise it when the same text would be cut otherwise


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the text: where it starts and ends (white space around it left out) and the headings it is under."""

    text: str
    heading: tuple[str, ...]
    start: int
    end: int


def searched(heading: tuple[str, ...], text: str) -> str:
    """What is embedded and indexed of a chunk: the headings give a short passage its context."""
    return f"{' > '.join(heading)}\n\n{text}" if heading else text


@dataclass(frozen=True, slots=True)
class Chunker:
    """`size` and `overlap` are characters; a chunk is never longer than `size`."""

    size: int
    overlap: int
    markdown: bool

    @property
    def revision(self) -> str:
        """Names everything that decides where the cuts fall."""
        return f"{'markdown' if self.markdown else 'plain'}-{REVISION}-{self.size}-{self.overlap}"

    def cut(self, text: str) -> list[Piece]:
        """The chunks of `text`, in order; none when it is only white space."""
        outline = _Outline.of(text, self.markdown)
        pieces: list[Piece] = []
        start, seen = _skip_space(text, 0), 0
        while start < len(text):
            end = self._end(text, start, max(seen, start), outline)
            words = text[start:end].rstrip()
            # After an overlap the chunk belongs to the section of what is new in it.
            pieces.append(Piece(words, outline.path(max(seen, start)), start, start + len(words)))
            seen = _skip_space(text, end)
            if seen >= len(text):
                break
            start = self._restart(text, start, seen, end, outline)
        return pieces

    def _end(self, text: str, start: int, seen: int, outline: "_Outline") -> int:
        """Where the chunk that begins at `start` ends; always behind `seen`, up to where the text is in chunks."""
        limit = start + self.size
        # A section ends the chunk unless that would leave a crumb: then the next section joins it.
        section = outline.first_section(max(start + self.size // 4, seen + 1), min(limit, len(text)))
        if section is not None:
            return section
        if limit >= len(text):
            return len(text)
        least = max(start + self.size // 2, seen + 1)
        return (
            _last(outline.paragraphs, least, limit)
            or _last(outline.lines, least, limit)
            or _last_match(_SENTENCE, text, least, limit)
            or _last_match(_SPACE, text, least, limit)
            or limit
        )

    def _restart(self, text: str, start: int, seen: int, end: int, outline: "_Outline") -> int:
        """Where the next chunk begins: at `seen`, or earlier by the overlap within the same section."""
        least = max(end - self.overlap, outline.section_start(seen), start + 1)
        if least >= seen:
            return seen
        found = _SENTENCE.search(text, least, end) or _SPACE.search(text, least, end)
        if found is None or found.end() >= end:
            found = _SPACE.search(text, least, end)
        return _skip_space(text, found.end() if found is not None and found.end() < end else least)


@dataclass(frozen=True, slots=True)
class _Outline:
    """Where sections, paragraphs and lines of a text begin, and the path of headings at each section."""

    sections: list[int]
    paths: list[tuple[str, ...]]
    paragraphs: list[int]
    lines: list[int]

    @classmethod
    def of(cls, text: str, markdown: bool) -> "_Outline":
        outline = cls([], [], [], [])
        stack: list[tuple[int, str]] = []
        fence, blank, at = "", True, 0
        before, paragraph_lines = "", 0
        for line in text.splitlines(keepends=True):
            bare = line.rstrip()
            if at:
                outline.lines.append(at)
            if blank and bare and not fence and at:
                outline.paragraphs.append(at)
            if markdown:
                mark = _FENCE.match(bare)
                closes = bool(fence) and mark is not None and mark[1].startswith(fence) and bare.strip() == mark[1]
                if not fence:
                    heading = _HEADING.match(bare)
                    underline = _UNDERLINE.match(bare)
                    if heading:
                        outline._enter(stack, at, len(heading[1]), heading[2])
                    elif underline and paragraph_lines == 1 and not before.startswith(("    ", "\t", "|", ">", "-")):
                        # The heading is the line above; it began a paragraph of its own.
                        outline._enter(stack, outline._line_before(at), 1 if "=" in bare else 2, before.strip())
                    elif mark:
                        fence = mark[1]
                elif closes:
                    fence = ""
            paragraph_lines = paragraph_lines + 1 if bare else 0
            blank, before = not bare, bare
            at += len(line)
        return outline

    def _enter(self, stack: list[tuple[int, str]], at: int, level: int, title: str) -> None:
        while stack and stack[-1][0] >= level:
            stack.pop()
        stack.append((level, title.strip()[:_MAX_TITLE]))
        self.sections.append(at)
        self.paths.append(tuple(name for _, name in stack if name))

    def _line_before(self, at: int) -> int:
        index = bisect_left(self.lines, at)
        return self.lines[index - 1] if index else 0

    def path(self, at: int) -> tuple[str, ...]:
        index = bisect_right(self.sections, at)
        return self.paths[index - 1] if index else ()

    def section_start(self, at: int) -> int:
        index = bisect_right(self.sections, at)
        return self.sections[index - 1] if index else 0

    def first_section(self, least: int, most: int) -> int | None:
        index = bisect_left(self.sections, least)
        return self.sections[index] if index < len(self.sections) and self.sections[index] <= most else None


def _last(places: list[int], least: int, most: int) -> int | None:
    index = bisect_right(places, most)
    return places[index - 1] if index and places[index - 1] >= least else None


def _last_match(pattern: re.Pattern[str], text: str, least: int, most: int) -> int | None:
    end = None
    for match in pattern.finditer(text, least, most):
        end = match.end()
    return end


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at
