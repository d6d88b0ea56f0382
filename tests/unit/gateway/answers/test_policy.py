"""Caching is off unless somebody asks for it, and what cannot be understood is refused with the mend."""

import pytest

from backstay.gateway.answers import OFF, CachePolicy, lasting
from backstay.gateway.dialogue import Stop
from backstay.kernel.errors import BadRequest

ROUTE = CachePolicy.parse("ttl=600, semantic=0.95")


def of(own: str | None = None, control: str | None = None, route: CachePolicy | None = None) -> CachePolicy:
    headers = {"backstay-cache": own, "cache-control": control}
    return CachePolicy.of({name: value for name, value in headers.items() if value is not None}, route)


def test_it_is_off_by_default() -> None:
    assert of() == OFF
    assert not of().on


def test_a_request_may_ask_for_it() -> None:
    assert of("ttl=60") == CachePolicy(ttl=60)
    assert of(" ttl = 60 ,semantic=0.92 ") == CachePolicy(ttl=60, semantic=0.92)


def test_a_route_may_ask_for_it_and_the_request_has_the_last_word() -> None:
    assert of(route=ROUTE) == CachePolicy(ttl=600, semantic=0.95)
    assert of("ttl=60", route=ROUTE) == CachePolicy(ttl=60, semantic=0.95)
    assert of("semantic=0.8", route=ROUTE) == CachePolicy(ttl=600, semantic=0.8)
    assert of("semantic=off", route=ROUTE) == CachePolicy(ttl=600)
    assert not of("off", route=ROUTE).on


@pytest.mark.parametrize("similarity", ["0.5", ".5", "0.999999", "1", "1.0"])
def test_similarities_from_a_half_to_one_are_understood(similarity: str) -> None:
    assert of(f"ttl=1, semantic={similarity}").semantic == float(similarity)


class TestCacheControl:
    @pytest.mark.parametrize("control", ["no-store", "No-Store", "private, no-store", "no-store, no-cache"])
    def test_no_store_switches_it_off(self, control: str) -> None:
        assert of("ttl=60", control) == OFF
        assert of(control=control, route=ROUTE) == OFF

    @pytest.mark.parametrize("control", ["no-cache", "NO-CACHE", 'no-cache="set-cookie"', "max-age=0", "max-age=soon"])
    def test_no_cache_takes_nothing_and_keeps_the_new_answer(self, control: str) -> None:
        policy = of("ttl=60", control)
        assert (policy.on, policy.reads) == (True, False)

    def test_max_age_bounds_the_age_of_what_is_taken(self) -> None:
        assert of("ttl=60").oldest == 60
        assert of("ttl=60", "max-age=10").oldest == 10
        assert of("ttl=60", 'max-age="10"').oldest == 10
        assert of("ttl=60", "max-age=9999").oldest == 60
        assert of("ttl=60", "max-age=" + "9" * 50).oldest == 0

    @pytest.mark.parametrize("control", ["", "max-stale=5", "only-if-cached", "x-no-store-y", ";;;", 'a="no-store"'])
    def test_everything_else_means_nothing_here(self, control: str) -> None:
        assert of("ttl=60", control) == CachePolicy(ttl=60)

    def test_it_does_not_switch_the_cache_on(self) -> None:
        assert of(control="max-age=60") == OFF


class TestRefused:
    @pytest.mark.parametrize(
        ("text", "mend"),
        [
            ("", "takes `off`, `ttl=<seconds>`"),
            ("on", "takes `off`, `ttl=<seconds>`"),
            ("60", "takes `off`, `ttl=<seconds>`"),
            ("ttl", "takes `off`, `ttl=<seconds>`"),
            ("off=1", "takes `off`, `ttl=<seconds>`"),
            ("ttl=60;semantic=0.9", "`ttl` must be a whole number of seconds"),
            ("ttl=0", "from 1 to 2592000"),
            ("ttl=2592001", "from 1 to 2592000"),
            ("ttl=-1", "from 1 to 2592000"),
            ("ttl=1.5", "from 1 to 2592000"),
            ("ttl=1h", "from 1 to 2592000"),
            ("ttl=²", "from 1 to 2592000"),
            ("ttl=" + "9" * 100, "from 1 to 2592000"),
            ("ttl=60, ttl=70", "names `ttl` twice"),
            ("off, ttl=60", "`off` stands alone"),
            ("semantic=0.92", "needs a ttl as well"),
            ("semantic=off", "needs a ttl as well"),
            ("ttl=60, semantic=0.49", "from 0.5 to 1"),
            ("ttl=60, semantic=1.1", "from 0.5 to 1"),
            ("ttl=60, semantic=nan", "from 0.5 to 1"),
            ("ttl=60, semantic=1e-1", "from 0.5 to 1"),
            ("ttl=60, semantic=", "from 0.5 to 1"),
            ("ttl=60, semantics=0.9", "takes `off`"),
        ],
    )
    def test_what_cannot_be_understood_is_named_with_the_mend(self, text: str, mend: str) -> None:
        with pytest.raises(BadRequest) as caught:
            of(text)
        (error,) = caught.value.errors
        assert error.field == "backstay-cache"
        assert mend in error.message

    def test_a_routes_setting_is_refused_under_its_own_name(self) -> None:
        with pytest.raises(BadRequest, match=r"`routes\.smart\.cache` is wrong"):
            CachePolicy.parse("ttl=x", "routes.smart.cache")

    def test_a_long_word_is_not_repeated_at_length(self) -> None:
        with pytest.raises(BadRequest) as caught:
            of("x" * 10_000)
        assert len(caught.value.errors[0].message) < 200


@pytest.mark.parametrize(
    ("stops", "tools", "kept"),
    [
        ([Stop.END], False, True),
        ([Stop.SEQUENCE], False, True),
        ([Stop.END, Stop.SEQUENCE], False, True),
        ([Stop.LENGTH], False, False),
        ([Stop.REFUSAL], False, False),
        ([Stop.TOOL], False, False),
        ([None], False, False),
        ([], False, False),
        ([Stop.END, Stop.LENGTH], False, False),
        ([Stop.END], True, False),
    ],
)
def test_only_a_whole_answer_that_ended_by_itself_and_calls_no_tool_lasts(
    stops: list[Stop | None], tools: bool, kept: bool
) -> None:
    assert lasting(stops, tools) is kept
