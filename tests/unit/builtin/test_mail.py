"""The input of the job `email`."""

import base64

import pytest
from pydantic import ValidationError

from backstay.builtin import Email

_MAIL = {"to": ["ada@example.com"], "subject": "s", "text": "t"}
_FILE = {"name": "a.txt", "media_type": "text/plain", "content": base64.b64encode(b"x").decode()}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"subject": "x\r\nBcc: eve@example.com"}, "must be one line"),
        ({"subject": "x\u2028y"}, "must be one line"),
        ({"to": ["ada@example.com\r\nDATA"]}, "must be a bare address"),
        ({"to": ["ada@example.com, eve@example.com"]}, "must be a bare address"),
        ({"to": ["Ada <ada@example.com>"]}, "must be a bare address"),
        ({"to": ["<ada@example.com> SIZE=1"]}, "must be a bare address"),
        ({"to": ["ada@exämple.com"]}, "must be a bare address"),
        ({"to": ["ada"]}, "must be a bare address"),
        ({"to": []}, "at least 1 item"),
        ({"to": [f"a{n}@example.com" for n in range(101)]}, "at most 100 items"),
        ({"reply_to": "eve@example.com\nX: y"}, "must be a bare address"),
        ({"text": None}, "give `text`, `html` or both"),
        ({"attachments": [_FILE | {"name": "../x"}]}, "must be a file's name"),
        ({"attachments": [_FILE | {"name": 'x"\r\nEvil: 1'}]}, "must be a file's name"),
        ({"attachments": [_FILE | {"media_type": "text/html\r\nEvil: 1"}]}, "must be a media type"),
        ({"attachments": [_FILE | {"media_type": "message/rfc822"}]}, "must be a media type"),
        ({"attachments": [_FILE | {"content": base64.b64encode(b"x" * 9_000_000).decode()}]}, "together they may have"),
        ({"from": "ceo@example.com"}, "Extra inputs"),
    ],
)
def test_what_would_smuggle_something_into_a_mail_is_refused(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Email.model_validate(_MAIL | change)


def test_everyone_gets_it_once() -> None:
    mail = Email(to=["a@x.org", "b@x.org"], cc=["a@x.org"], bcc=["b@x.org", "c@x.org"], subject="s", text="t")
    assert mail.recipients == ["a@x.org", "b@x.org", "c@x.org"]
