"""A guard that takes personal data out of texts: addresses, numbers of phones, cards and accounts, on both ways.

It finds what has a form of its own. Names and the like have none; do not rely on it for them.
"""

import re
from collections.abc import Sequence

from .guards import AnswerGuard, Guard, GuardContext

_EMAIL = r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+"
_IBAN = r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"
_CARD = r"\b\d(?:[ -]?\d){12,18}\b"
_PHONE = r"(?<![\w+])(?:\+|00)\d(?:[ ()./-]{0,2}\d){6,14}\b"
_KINDS = ("email", "iban", "card", "phone")
_FORMS = zip(_KINDS, (_EMAIL, _IBAN, _CARD, _PHONE), strict=True)
_FOUND = re.compile("|".join(f"(?P<{kind}>{form})" for kind, form in _FORMS))
# The longest thing that is looked for; what may be the beginning of one is held back so long.
_LONGEST = 160
_BEGUN = re.compile(r"(?:[\w.+@-]+|[+\d][\d ()./-]*|[A-Z]{2}\d{2}[A-Z0-9 ]*)\Z")


class Redactor(Guard):
    """Puts `[email]`, `[iban]`, `[card]` and `[phone]` in the place of what it finds; `kinds` chooses among them."""

    def __init__(self, kinds: Sequence[str] = _KINDS) -> None:
        unknown = sorted(set(kinds) - set(_KINDS))
        if unknown:
            raise ValueError(f"there is no {', '.join(unknown)} to redact; there are {', '.join(_KINDS)}")
        self._kinds = frozenset(kinds)

    async def request(self, text: str, context: GuardContext) -> str:
        return self.redacted(text)

    def answer(self, context: GuardContext) -> AnswerGuard:
        return _Watch(self)

    def redacted(self, text: str) -> str:
        return _FOUND.sub(self._mark, text)

    def _mark(self, found: re.Match[str]) -> str:
        kind = str(found.lastgroup)
        if kind not in self._kinds or (kind == "card" and not _luhn(found[0])):
            return found[0]
        return f"[{kind}]"


class _Watch(AnswerGuard):
    """Holds the end of the text back while more of it could make it something to redact."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor, self._held = redactor, ""

    def feed(self, text: str) -> str:
        self._held += text
        cut = self._cut()
        ready, self._held = self._held[:cut], self._held[cut:]
        return self._redactor.redacted(ready)

    def rest(self) -> str:
        ready, self._held = self._held, ""
        return self._redactor.redacted(ready)

    def _cut(self) -> int:
        """Up to where nothing to redact can have begun that more text would complete."""
        begun = _BEGUN.search(self._held)
        start = begun.start() if begun else len(self._held)
        while start and (self._held[start - 1].isalnum() or self._held[start - 1] in "+_"):
            start -= 1  # whether something stands alone shows only with what is before it
        cut = max(start, len(self._held) - _LONGEST)
        for found in _FOUND.finditer(self._held):
            if found.start() < cut < found.end():
                return found.start()
        return cut


def _luhn(text: str) -> bool:
    """The check digit of card numbers (ISO/IEC 7812-1)."""
    digits = [int(digit) for digit in text if digit.isdigit()]
    doubled = [digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
