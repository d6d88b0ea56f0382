"""What the master key guards: sealed data opens unchanged, in its place and under its key only."""

import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backstay.kernel.crypto import Unsealable, Vault, master_key
from backstay.kernel.errors import ConfigurationError
from backstay.kernel.settings import Settings

VAULT = Vault(b"k" * 32)


@given(st.binary(max_size=300), st.binary(max_size=50))
def test_sealed_data_opens_as_it_was(plain: bytes, context: bytes) -> None:
    sealed = VAULT.seal(plain, context)
    assert VAULT.open(sealed, context) == plain
    assert len(plain) < 8 or plain not in sealed


@given(st.binary(max_size=100), st.integers(0, 2000))
def test_a_flipped_bit_is_noticed(plain: bytes, bit: int) -> None:
    sealed = bytearray(VAULT.seal(plain, b"here"))
    bit %= len(sealed) * 8
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Unsealable):
        VAULT.open(bytes(sealed), b"here")


@pytest.mark.parametrize("sealed", [b"", b"x", b"x" * 12, b"x" * 27])
def test_what_was_never_sealed_does_not_open(sealed: bytes) -> None:
    with pytest.raises(Unsealable):
        VAULT.open(sealed, b"")


def test_it_opens_in_its_own_context_and_under_its_own_key_only() -> None:
    sealed = VAULT.seal(b"text", b"here")
    with pytest.raises(Unsealable, match="BACKSTAY_MASTER_KEY"):
        VAULT.open(sealed, b"there")
    with pytest.raises(Unsealable):
        Vault(b"x" * 32).open(sealed, b"here")


def test_the_same_text_is_sealed_differently_each_time() -> None:
    assert len({VAULT.seal(b"text", b"") for _ in range(100)}) == 100


def test_a_digest_depends_on_secret_and_master_key_alone() -> None:
    assert VAULT.digest("secret") == Vault(b"k" * 32).digest("secret")
    assert VAULT.digest("secret") != VAULT.digest("secret ")
    assert VAULT.digest("secret") != Vault(b"x" * 32).digest("secret")
    assert len(VAULT.digest("")) == 32


def test_each_use_has_a_key_of_its_own() -> None:
    assert VAULT.digest("m")[:16] != VAULT.sign(b"m")


def test_a_signature_holds_for_its_message_only() -> None:
    signature = VAULT.sign(b"message")
    assert VAULT.signed(b"message", signature)
    assert not VAULT.signed(b"massage", signature)
    assert not VAULT.signed(b"message", signature[:-1])
    assert not VAULT.signed(b"message", b"")


def _key(place: str) -> bytes:
    return master_key(Settings.load(data_dir=Path(place)))


class TestOurOwnKey:
    def test_is_made_once_and_only_its_owner_reads_it(self, tmp_path: Path) -> None:
        first = _key(str(tmp_path / "new"))
        assert _key(str(tmp_path / "new")) == first
        assert len(first) == 64
        assert (tmp_path / "new" / "master.key").stat().st_mode & 0o777 == 0o600
        assert [file.name for file in (tmp_path / "new").iterdir()] == ["master.key"]

    def test_is_one_for_processes_that_boot_at_once(self, tmp_path: Path) -> None:
        with multiprocessing.get_context("spawn").Pool(3) as pool:
            assert len(set(pool.map(_key, [str(tmp_path)] * 6))) == 1

    def test_that_cannot_be_made_names_the_mend(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ConfigurationError, match="BACKSTAY_MASTER_KEY"):
            _key(str(tmp_path / "file"))

    def test_a_configured_one_comes_first(self, tmp_path: Path) -> None:
        assert master_key(Settings.load(data_dir=tmp_path, master_key="k" * 40)) == b"k" * 40
        assert not (tmp_path / "master.key").exists()
