"""A sealed answer opens for its own tenant and key, and for nobody and nothing else."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from backstay.gateway.answers import Hit
from backstay.gateway.answers.seal import Seal
from backstay.kernel.crypto import Vault

VAULT = Vault(b"a master key of thirty-two bytes")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ALICE, BOB = Seal(VAULT, uuid4()), Seal(VAULT, uuid4())
KEY = ALICE.digest("whole", b"question")
SEALED = ALICE.close(KEY, b"answer", "sim:echo", NOW)


def test_it_opens_with_who_answered_and_how_long_ago() -> None:
    assert ALICE.open(KEY, SEALED, NOW + timedelta(seconds=5)) == Hit(b"answer", "sim:echo", "exact", 5.0)


def test_a_clock_that_was_set_back_makes_no_answer_younger_than_new() -> None:
    hit = ALICE.open(KEY, SEALED, NOW - timedelta(seconds=5))
    assert hit is not None
    assert hit.age == 0


def test_it_opens_for_no_other_tenant_even_with_the_right_key() -> None:
    assert BOB.open(KEY, SEALED, NOW) is None


def test_it_opens_under_no_other_key() -> None:
    assert ALICE.open(ALICE.digest("whole", b"another question"), SEALED, NOW) is None


def test_equal_answers_are_sealed_differently() -> None:
    assert ALICE.close(KEY, b"answer", "sim:echo", NOW) != SEALED


def test_a_digest_depends_on_tenant_use_content_and_master_key() -> None:
    others = [
        BOB.digest("whole", b"question"),
        ALICE.digest("rest", b"question"),
        ALICE.digest("whole", b"question "),
        Seal(Vault(b"another master key of 32 bytes !"), ALICE._tenant).digest("whole", b"question"),
    ]
    assert len({KEY, *others}) == 5
    assert ALICE.digest("whole", b"question") == KEY
