import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from backstay.outbound import full_jitter, retry_after

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
SAYS_NOTHING = (
    *[
        "-1",
        "-0",
        "+5",
        "nan",
        "NaN",
        "inf",
        "-inf",
        "1e3",
        "1_000",
        "0x10",
        "١٢",
        "²",
        "1.",
        ".5",
        "1,5",
        "soon",
        "None",
    ],
    *("", " ", "5 s", "\x00", "5\r\n6", "9" * 41, "Fri, 01 May 2026 12:00:00 GMT" + " " * 20 + "x"),
    *("Fri, 99 May 2026 12:00:00 GMT", "Fri, 01 May 99999999999 12:00:00 GMT"),
    *("Fri, 01 May 2026 12:00:00 +99999999999", "Fri, 01 May 2026 12:00:00 +9999"),
)


class TestFullJitter:
    @pytest.mark.parametrize(("attempt", "most"), [(0, 0.1), (1, 0.2), (2, 0.4), (5, 3.2), (7, 10.0), (10**9, 10.0)])
    def test_spreads_from_nothing_to_a_bound_that_doubles(self, attempt: int, most: float) -> None:
        assert full_jitter(attempt, random=lambda: 0.0) == 0
        assert full_jitter(attempt, random=lambda: 0.5) == pytest.approx(most / 2)
        assert full_jitter(attempt, random=lambda: 1.0) == pytest.approx(most)

    def test_differs_between_callers(self) -> None:
        assert len({full_jitter(3) for _ in range(50)}) > 40

    @given(st.integers(), st.floats(0.001, 60), st.floats(0.001, 3600))
    def test_stays_within_its_bounds(self, attempt: int, base: float, most: float) -> None:
        assert 0 <= full_jitter(attempt, base=base, most=most) <= most


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"retry-after": "7"}, 7),
            ({"retry-after": "0"}, 0),
            ({"retry-after": " 1.5 "}, 1.5),
            ({"retry-after-ms": "250"}, 0.25),
            ({"retry-after-ms": "1500.5", "retry-after": "9"}, 1.5005),
            ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
            ({"retry-after": "Fri, 01 May 2026 12:00:30 GMT"}, 30),
            ({"retry-after": "Friday, 01-May-26 12:00:30 GMT"}, 30),
            ({"retry-after": "Fri May  1 12:00:30 2026"}, 30),
            ({"retry-after": "Fri, 01 May 2026 11:00:00 GMT"}, 0),
        ],
    )
    def test_is_read_in_every_form_it_comes_in(self, headers: dict[str, str], seconds: float) -> None:
        assert retry_after(headers, NOW) == pytest.approx(seconds)

    @pytest.mark.parametrize("text", SAYS_NOTHING)
    def test_is_nothing_when_it_says_nothing(self, text: str) -> None:
        assert retry_after({"retry-after": text}, NOW) is None
        assert retry_after({"retry-after": "3", "retry-after-ms": text}, NOW) == 3

    @pytest.mark.parametrize("text", ["86401", "9" * 40, "Fri, 01 May 2099 12:00:00 GMT"])
    def test_is_at_most_a_day_unless_the_caller_says_otherwise(self, text: str) -> None:
        assert retry_after({"retry-after": text}, NOW) == 86_400
        assert retry_after({"retry-after": text}, NOW, most=60) == 60

    def test_is_nothing_without_a_header(self) -> None:
        assert retry_after({}, NOW) is None

    def test_is_found_whatever_the_case_in_a_clients_headers(self) -> None:
        assert retry_after(CIMultiDict({"Retry-After": "4"}), NOW) == 4

    @given(st.text(max_size=60) | st.text("0123456789.eE+-_nainfGMT :,", max_size=45), st.booleans())
    def test_never_breaks_and_never_leaves_its_range(self, text: str, milliseconds: bool) -> None:
        found = retry_after({"retry-after-ms" if milliseconds else "retry-after": text}, NOW)
        assert found is None or (math.isfinite(found) and 0 <= found <= 86_400)

    @given(
        st.sampled_from(["Mon", "Friday", "Xyz"]),
        st.from_regex(r"[A-Za-z0-9:, +-]{0,34}", fullmatch=True),
    )
    def test_never_breaks_on_what_looks_like_a_date(self, day: str, rest: str) -> None:
        found = retry_after({"retry-after": f"{day}, {rest}"}, NOW)
        assert found is None or 0 <= found <= 86_400

    @given(st.integers(0, 86_400))
    def test_reads_the_dates_that_servers_write(self, seconds: int) -> None:
        at = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
        assert retry_after({"retry-after": at}, NOW) == seconds
