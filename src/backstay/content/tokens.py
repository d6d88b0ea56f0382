"""Terms of a text, as text search sees them. Why so: docs/decisions/0006-tokenisation.md.

A term is a stemmed word (Unicode letters and digits, compatibility forms and case folded, accents of Latin, Greek and
Cyrillic removed) or, in scripts that put no space between words, two neighbouring characters.
"""

import re
import threading
import unicodedata
from functools import lru_cache
from hashlib import blake2b

DIMENSIONS = 1_000_000_000  # the most a sparsevec may have; two of a million terms collide in 500 cases
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
_WORDS = re.compile(rf"[{_UNSPACED}]+|(?:(?![{_UNSPACED}])[^\W_])+(?:'(?:(?![{_UNSPACED}])[^\W_])+)*")
_UNSPACED_RUN = re.compile(rf"[{_UNSPACED}]")
_ACCENTS = re.compile("[\u0300-\u036f]")
_LONGEST = 100  # of a word: longer ones are encoded data, nobody types them
# Words that say nothing about what is looked for. They are left out of queries only: a document keeps all its words.
_STOP = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be but by can for from has have how in is it its not of on or that the their there these "
        "they this to was were what when where which who will with",
    )
)
_local = threading.local()


def terms(text: str) -> list[str]:
    """Every term of a document, in order, repetitions included."""
    return [term for word in _words(text) for term in _terms_of(word)]


def query_terms(text: str) -> list[str]:
    """The terms to look for: without stop words, unless the query has nothing else."""
    words = _words(text)
    telling = [word for word in words if word not in _STOP] or words
    return [term for word in telling for term in _terms_of(word)]


@lru_cache(maxsize=65_536)
def number(term: str) -> int:
    """The dimension of a term in a sparsevec, from 1 to DIMENSIONS. The same in every process, for ever."""
    return int.from_bytes(blake2b(term.encode(), digest_size=8).digest(), "big") % DIMENSIONS + 1


def _words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text).replace("’", "'").casefold()
    if not folded.isascii():
        folded = unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", folded)))
    return [word for word in _WORDS.findall(folded) if len(word) <= _LONGEST or _UNSPACED_RUN.match(word)]


def _terms_of(word: str) -> tuple[str, ...]:
    if not word.isascii() and _UNSPACED_RUN.match(word):
        return tuple(word[at : at + 2] for at in range(len(word) - 1)) or (word,)
    return (_stem(word),)


@lru_cache(maxsize=65_536)
def _stem(word: str) -> str:
    if not word.isascii() or any(map(str.isdigit, word)):
        return word  # an English stemmer has no business with it
    try:
        stemmer = _local.stemmer
    except AttributeError:
        # A stemmer keeps state while it works: one for each thread. Named directly, because the package's own choice
        # depends on what else is installed, and stored terms must not.
        # Imported with the first word: the package brings every language along, which a start should not wait for.
        from snowballstemmer.english_stemmer import EnglishStemmer  # type: ignore[import-untyped]

        stemmer = _local.stemmer = EnglishStemmer()
    return str(stemmer.stemWord(word))
