"""What a provider's failure asks for."""

from dataclasses import dataclass, field

import orjson
import pytest

from backstay.gateway.errors import GatewayError
from backstay.gateway.failures import conduct, raise_for_status, understood
from backstay.gateway.providers.sim import SimProvider
from backstay.gateway.wire import CHAT, GEMINI

PROVIDER = SimProvider()


@dataclass
class Answered:
    """What came from a provider, as far as its status goes."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)


def busy(delay: object, status: int = 429) -> bytes:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    quota = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": []}
    return orjson.dumps({"error": {"code": status, "message": "quota", "details": [quota, info]}})


def failure(raw: bytes, status: int = 429, wire=GEMINI, **headers: str) -> GatewayError:
    with pytest.raises(GatewayError) as told:
        raise_for_status(Answered(status, headers), raw, wire, PROVIDER)
    return told.value


@pytest.mark.parametrize(("delay", "wait"), [("34.074824224s", 35), ("2s", 2), ("0s", 0)])
def test_googles_delay_is_waited_for_and_never_less(delay: str, wait: int):
    assert conduct(failure(busy(delay))).after == wait
    assert conduct(failure(busy(delay, 503), 503)).after == wait


def test_googles_delay_is_found_in_its_openai_format_which_has_a_list():
    assert conduct(failure(b"[" + busy("7s") + b"]", wire=CHAT)).after == 7


def test_a_header_decides_over_the_body():
    assert conduct(failure(busy("34s"), **{"retry-after": "3"})).after == 3


def test_googles_delay_counts_in_an_error_of_status_200():
    with pytest.raises(GatewayError) as told:
        understood(busy("9s"), GEMINI, PROVIDER)
    assert conduct(told.value).after == 9


@pytest.mark.parametrize("delay", ["-1s", "1e9s", "5", "nans", 5, None, ["5s"], "٣s", "9" * 40 + "s"])
def test_a_delay_that_is_none_is_passed_over(delay: object):
    assert conduct(failure(busy(delay))).after is None


@pytest.mark.parametrize("raw", [b"[]", b"{}", b'{"error": "no"}', b'{"error": {"details": {}}}', b"[[1]]", b"no json"])
def test_an_error_of_any_shape_is_still_an_error(raw: bytes):
    assert failure(raw).status == 429
