import base64
import re

from hypothesis import given
from hypothesis import strategies as st

from backstay.gateway.wire.gemini import pack_id, seal, unpack_id, unseal
from backstay.gateway.wire.gemini.ids import make_id

_text = st.text(max_size=30)
_signature = st.binary(max_size=200).map(lambda raw: base64.b64encode(raw).decode()) | _text


@given(_text, _signature)
def test_an_id_gives_back_the_signature_that_was_hidden_in_it(id, signature):
    packed = pack_id(id, signature)
    assert re.fullmatch(r"gsig_[A-Za-z0-9_-]+", packed)
    assert unpack_id(packed) == (id, signature)
    assert unpack_id(pack_id(packed, signature)) == (packed, signature)


@given(_text | st.text("gsi_AQb-=", max_size=20).map("gsig_".__add__))
def test_any_other_id_comes_back_as_it_is(id):
    found, signature = unpack_id(id)
    assert (found, signature) == (id, None) or pack_id(found, signature) == id


def test_a_packed_id_is_hardly_longer_than_its_signature():
    signature = base64.b64encode(bytes(range(256)) * 8).decode()
    assert len(pack_id("call_0123456789abcdef", signature)) < len(signature) + 60


@given(_text, st.sampled_from(["anthropic", "openai", "deepseek"]), st.booleans())
def test_a_seal_gives_back_what_another_provider_signed(signature, origin, redacted):
    sealed = seal(signature, origin, redacted)
    assert base64.b64decode(sealed, validate=True)
    assert unseal(sealed) == (signature, origin, redacted)
    # As Google's Python client sends it back.
    assert unseal(base64.urlsafe_b64encode(base64.b64decode(sealed)).decode()) == (signature, origin, redacted)


@given(_signature | st.text(max_size=20).map("YmFja3N0YXkA".__add__))
def test_any_other_signature_is_geminis_own(signature):
    found, origin, redacted = unseal(signature)
    assert (found, origin, redacted) == (signature, "gemini", False) or origin != "gemini" or found != signature


def test_made_ids_are_taken_by_every_provider():
    made = {make_id("answer", choice, number) for choice in range(2) for number in range(3)}
    assert len(made) == 6
    assert all(re.fullmatch(r"call_[0-9a-f]{24}", id) for id in made)
    assert make_id("answer", 0, 0) == make_id("answer", 0, 0)
