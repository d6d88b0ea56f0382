"""What outbound calls are about: states and policies of breakers, retries and addresses, and their errors."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Self

from ..kernel.errors import ConfigurationError, Invalid, TimedOut, Unavailable, Upstream

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class AddressRefused(Invalid):
    """The URL leads where calls may not go. The message names the host and never what it resolved to."""

    code, title = "address_refused", "The address may not be called"


class HostUnresolved(Invalid):
    """No address is known for the host. It may be misspelt, or its name server may be away."""

    code, title = "host_unresolved", "The host has no address"


class RedirectRefused(Invalid):
    """A host sends its caller on to where calls may not go."""

    code, title = "redirect_refused", "The redirect may not be followed"


class Unreachable(Upstream):
    """There was no connection, or it broke before the answer was whole. The call may have had its effect."""

    code, title = "unreachable", "The other side could not be reached"


class Overdue(TimedOut):
    """There was no whole answer in time. The call may have had its effect."""

    code, title = "overdue", "The other side took too long"


class Resting(Unavailable):
    """A host failed too often lately and is left alone for `after` seconds. Nothing was sent."""

    code, title = "resting", "The other side is left alone for a while"

    def __init__(self, host: str, after: float) -> None:
        wait = max(1, round(after))
        super().__init__(
            f"{host} failed too often lately; it is asked again in {wait} s", headers={"retry-after": str(wait)}
        )
        self.after = after


class State(StrEnum):
    """Of a breaker. `half_open`: one call at a time is let through to see whether the dependency is back."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Change:
    """A breaker went from one state to another, and why."""

    key: Hashable
    before: State
    after: State
    reason: str


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens and for how long. Durations in seconds.

    It opens when `failure_percent` of at least `of_calls` calls within `window` failed, or `in_a_row` one after the
    other; stays open for `open_for`; then lets one probe through. A probe that tells nothing for `probe_for` makes room
    for another one.

    Raises:
        ConfigurationError: a value is out of range.
    """

    failure_percent: int = 50
    of_calls: int = 20
    window: float = 30.0
    in_a_row: int = 5
    open_for: float = 15.0
    probe_for: float = 60.0

    def __post_init__(self) -> None:
        _within("failure_percent", self.failure_percent, 1, 100)
        _positive(of_calls=self.of_calls, window=self.window, in_a_row=self.in_a_row)
        _positive(open_for=self.open_for, probe_for=self.probe_for)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Within `window` seconds at most `percent` of the calls may be repeated, and `floor` retries besides.

    Raises:
        ConfigurationError: a value is out of range.
    """

    percent: int = 10
    floor: int = 10
    window: float = 10.0

    def __post_init__(self) -> None:
        _within("percent", self.percent, 0, 1000)
        _within("floor", self.floor, 0, 1_000_000)
        _positive(window=self.window)


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """Which URLs may be called: https to public addresses.

    `networks` may be called although they are not public, `plain_http` allows http as well, `ports` replaces the usual
    ports (80, 443 and all from 1024 on).
    """

    networks: tuple[Network, ...] = ()
    plain_http: bool = False
    ports: frozenset[int] | None = None

    @classmethod
    def of(cls, networks: Iterable[str], *, plain_http: bool = False, ports: frozenset[int] | None = None) -> Self:
        """From networks as an operator writes them, such as `10.0.0.0/8` or `fd00::/8`.

        Raises:
            ConfigurationError: one of them is not a network.
        """
        return cls(tuple(_network(text) for text in networks), plain_http, ports)

    @classmethod
    def listed(cls, networks: str) -> Self:
        """From a setting: networks with commas between them. Whoever names one may speak plain http.

        Raises:
            ConfigurationError: one of them is not a network.
        """
        named = [part for part in networks.split(",") if part.strip()]
        return cls.of(named, plain_http=bool(named))


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a URL leads: its host as it goes on the wire, its port, and the addresses that were found allowed."""

    host: str
    port: int
    addresses: tuple[Address, ...]


def _network(text: str) -> Network:
    try:
        return ip_network(text.strip())
    except ValueError:
        raise ConfigurationError(
            f"{text.strip()!r} is not a network; write it as an address and a length whose further bits are zero, such "
            "as 10.0.0.0/8 or fd00::/8"
        ) from None


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ConfigurationError(f"{name} is {value}; give a number above 0")


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ConfigurationError(f"{name} is {value}; give a number from {least} to {most}")
