"""Which URLs and addresses may be called, so that nobody makes this server call its own neighbours (SSRF).

Public means global unicast. The networks below are those of IANA's registries for special purposes, kept here because
`ipaddress` knows other ones in each version of Python; where the two differ, this is the stricter.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from yarl import URL

from .models import Address, AddressPolicy, AddressRefused, Network

_LONGEST_URL = 2048
_FIRST_FREE_PORT = 1024
_USUAL_PORTS = frozenset({80, 443})
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_NOT_IN_A_URL = re.compile(r"[\x00-\x20\x7f\\]")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,254}}\Z){_LABEL}(?:\.{_LABEL})*\.?")
# A host that ends in a number is read as an IPv4 address by some: 127.1, 0x7f.1, 2130706433. No name ends so.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

_SPECIAL: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(network), kind)
    for kind, networks in {
        "this machine": "0.0.0.0/8 127.0.0.0/8 ::/128 ::1/128",
        "a private network": "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7 fec0::/10",
        "a provider's internal network": "100.64.0.0/10",
        "a link-local address": "169.254.0.0/16 fe80::/10",
        "a cloud's own service": "168.63.129.16/32",  # Azure's, to be reached from inside only though it looks public
        "a multicast address": "224.0.0.0/4 ff00::/8",
        "addresses for documentation": "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32 3fff::/20",
        "addresses for benchmarks": "198.18.0.0/15",
        "a tunnel between IPv4 and IPv6": "192.88.99.0/24 2001::/32 2002::/16 64:ff9b:1::/48",
        "a reserved address": "192.0.0.0/24 240.0.0.0/4 2001::/23",
    }.items()
    for network in networks.split()
)


class Place(NamedTuple):
    """What a URL says about where it leads: the host as it goes on the wire, and its address when it is one."""

    host: str
    port: int
    address: Address | None


class AddressGuard:
    """Applies a policy. Knows nothing of name servers: see `GuardedResolver` for what is asked of them."""

    def __init__(self, policy: AddressPolicy | None = None) -> None:
        self._policy = policy or AddressPolicy()
        self._schemes = ("https", "http") if self._policy.plain_http else ("https",)

    def place(self, url: str | URL) -> Place:
        """Checks all that a URL itself can tell; an address in it is judged, a name is not looked up.

        Raises:
            AddressRefused: what is wrong with it, without repeating more of it than the host.
        """
        parsed = _parsed(url) if isinstance(url, str) else url
        if parsed.scheme not in self._schemes:
            raise AddressRefused(f"the URL must begin with {' or '.join(f'{scheme}://' for scheme in self._schemes)}")
        if parsed.raw_user is not None or parsed.raw_password is not None:
            raise AddressRefused("the URL carries a user or a password; send credentials in a header instead")
        host, port = parsed.raw_host or "", parsed.port or 0
        address = _literal(host)
        if address is None and not _NAME.fullmatch(host):
            raise AddressRefused("the URL has no host, or one that is neither a name nor an address")
        if not self._opens(port):
            raise AddressRefused(f"{host} may not be called at port {port}")
        if address is not None:
            self.judge(host, [address])
        return Place(host, port, address)

    def judge(self, host: str, addresses: Iterable[Address]) -> None:
        """Passes when all `addresses` of `host` may be called.

        Raises:
            AddressRefused: at least one of them may not. It says what kind it is, not which.
        """
        for address in addresses:
            if kind := self.objection(address):
                raise AddressRefused(
                    f"{host} leads to {kind}; only public addresses and networks that the operator allows may be called"
                )

    def objection(self, address: Address) -> str:
        """What kind of address it is when it may not be called, else nothing."""
        if isinstance(address, IPv6Address) and address.scope_id:
            return "an address of one network interface"
        reached = _reached(address)
        if any(address in network or reached in network for network in self._policy.networks):
            return ""
        return _kind(reached)

    def _opens(self, port: int) -> bool:
        if self._policy.ports is not None:
            return port in self._policy.ports
        # Below 1024 live protocols that a request could be smuggled into, such as mail.
        return port in _USUAL_PORTS or port >= _FIRST_FREE_PORT


def _parsed(url: str) -> URL:
    """Read by the parser of the client that will call it, so that both see the same host."""
    if len(url) > _LONGEST_URL or _NOT_IN_A_URL.search(url):
        raise AddressRefused(
            f"the URL is longer than {_LONGEST_URL} characters, or has characters that must be encoded"
        )
    try:
        return URL(url)
    except ValueError:
        raise AddressRefused("this is not a URL; check its host, its port and its brackets") from None


def _literal(host: str) -> Address | None:
    """The address that `host` is; None for a name. Only the usual spelling counts as an address."""
    if ":" not in host and not _NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2]):
        return None
    if "%" in host:
        raise AddressRefused("the host is an address with a zone, which only means something on its own network")
    try:
        return ip_address(host)
    except ValueError:
        raise AddressRefused(
            "the host looks like an address and is none; write IPv4 as four decimal numbers without leading zeros"
        ) from None


def _reached(address: Address) -> Address:
    """Where packets to `address` end up: IPv6 can hold an IPv4 address, for the kernel (mapped) or a NAT64 gateway."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return IPv4Address(address.packed[-4:]) if address in _NAT64 else address


def _kind(address: Address) -> str:
    for network, kind in _SPECIAL:
        if address in network:
            return kind
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return "a reserved address"
    return ""
