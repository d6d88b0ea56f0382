from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from backstay.kernel.errors import ConfigurationError
from backstay.outbound import AddressGuard, AddressPolicy, AddressRefused

PUBLIC = AddressGuard()
PLAIN = AddressGuard(AddressPolicy(plain_http=True))
# Where we refuse what some versions of Python call global: each is a way to something that is not the public internet.
STRICTER = [
    ip_network(network)
    for network in ("168.63.129.16/32", "192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2002::/16", "3fff::/20")
]

INNER_ADDRESSES = """
127.0.0.1 127.255.255.254 0.0.0.0 0.1.2.3 10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 100.100.100.200
169.254.169.254 169.254.0.1 168.63.129.16 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 192.0.0.1 192.0.0.192 192.0.2.1
198.51.100.1 203.0.113.1 198.18.0.1 198.19.255.255 192.88.99.1
:: ::1 ::7f00:1 fe80::1 febf::1 fec0::1 fc00::1 fd00:ec2::254 ff02::1 ff0e::1
::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0:127.0.0.1
64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 64:ff9b:1::a00:1
2002:7f00:1:: 2002:808:808:: 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:10::1 2001:db8::1
3fff::1 5f00::1 100::1 4000::1 e000::1
"""
PUBLIC_ADDRESSES = """
1.1.1.1 8.8.8.8 100.63.255.255 100.128.0.1 172.15.0.1 172.32.0.1 192.167.0.1 223.255.255.254
2606:4700::1111 2a00:1450:4001::1 2001:4860:4860::8888 2001:200::1 2400::1 3ffe::1 ::ffff:8.8.8.8 64:ff9b::808:808
"""
ODD_SPELLINGS = """
127.0.0.1 127.1 127.0.1 2130706433 017700000001 0177.0.0.1 0x7f.0.0.1 0x7f000001 0x7f.1 0 0.0.0.0 00.0.0.0
127.0.0.1. 127.1. 127.0.0.01 127.0.0.256 1.2.3.4.5 0x a.0x7f １２７.0.0.1 ①②⑦.⓪.⓪.① 127。0。0。1
127.0.0.1%00 localhost%00.example
[::1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:ffff:127.0.0.1] [64:ff9b::127.0.0.1]
[fe80::1%25eth0] [fe80::1%eth0] [::1%25] [2606:4700::1111%251] [127.0.0.1] [::1 ::1
"""
DOUBTFUL_URLS = (
    *[
        "x",
        "//example.com",
        "/path",
        "http://",
        "http:///x",
        "http:example.com",
        "http://.",
        "http://a..b",
        "http://.a",
    ],
    *["ftp://example.com", "file:///etc/passwd", "gopher://example.com", "ws://example.com", "javascript:alert(1)"],
    *["http+unix://%2Fvar%2Frun%2Fdocker.sock/", "tcp://example.com:80"],
    *["http://user@example.com", "http://user:secret@example.com", "http://:@example.com", "http://a@b@example.com"],
    *["http://example.com:0", "http://example.com:65536", "http://example.com:-1", "http://example.com:http"],
    *["http://-a.example", "http://a-.example", "http://a.example..", "http://exam%70le.com", "http://[v1.x]:0/"],
    *("", "http://exa mple.com", "http://exam\nple.com", "\thttp://example.com", "http://example.com\\@127.0.0.1/"),
    *("http://xn--\x80.com", "http://e\u200bvil.com", f"http://{'a' * 64}.example", f"http://{'a.' * 130}example"),
    f"http://example.com/{'a' * 2048}",
)


def refused(url: str, guard: AddressGuard = PLAIN) -> str:
    with pytest.raises(AddressRefused) as caught:
        guard.place(url)
    assert caught.value.status == 422
    return caught.value.detail


class TestAddresses:
    @pytest.mark.parametrize("address", INNER_ADDRESSES.split())
    def test_that_are_not_public_are_refused(self, address: str) -> None:
        assert PUBLIC.objection(ip_address(address))

    @pytest.mark.parametrize("address", PUBLIC_ADDRESSES.split())
    def test_that_are_public_are_let_through(self, address: str) -> None:
        assert PUBLIC.objection(ip_address(address)) == ""

    @given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
    @example(ip_address("192.0.0.9"))
    @example(ip_address("2001:20::1"))
    def test_are_never_let_through_where_python_calls_them_not_global(self, address: IPv4Address | IPv6Address) -> None:
        if PUBLIC.objection(address):
            return
        reached = within(address) or address
        assert reached.is_global
        assert not any((reached.is_multicast, reached.is_reserved, reached.is_loopback, reached.is_link_local))

    @given(st.ip_addresses(v=4) | st.ip_addresses(v=6, network="2000::/3"))
    def test_are_let_through_where_python_calls_them_global_but_for_a_named_few(
        self, address: IPv4Address | IPv6Address
    ) -> None:
        if address.is_global and not address.is_multicast and not any(address in network for network in STRICTER):
            assert PUBLIC.objection(address) == ""

    @given(st.ip_addresses(v=4))
    def test_of_ipv4_stay_what_they_are_inside_ipv6(self, address: IPv4Address) -> None:
        kind = PUBLIC.objection(address)
        assert PUBLIC.objection(IPv6Address(f"::ffff:{address}")) == kind
        assert PUBLIC.objection(IPv6Address(f"64:ff9b::{address}")) == kind

    @given(st.ip_addresses(v=4))
    def test_of_ipv4_are_refused_in_every_tunnel(self, address: IPv4Address) -> None:
        upper, lower = divmod(int(address), 2**16)
        for tunnel in (f"2002:{upper:x}:{lower:x}::1", f"::{upper:x}:{lower:x}", f"2001:0:{upper:x}:{lower:x}::1"):
            assert PUBLIC.objection(IPv6Address(tunnel))

    def test_of_one_interface_are_refused_even_where_their_network_is_allowed(self) -> None:
        guard = AddressGuard(AddressPolicy.of(["fe80::/10", "2000::/3"]))
        assert guard.objection(ip_address("fe80::1")) == ""
        assert guard.objection(ip_address("fe80::1%eth0"))
        assert guard.objection(ip_address("2606:4700::1111%1"))


def within(address: IPv4Address | IPv6Address) -> IPv4Address | None:
    """The IPv4 address inside a mapped or a NAT64 one."""
    if isinstance(address, IPv6Address) and (address.ipv4_mapped or address in ip_network("64:ff9b::/96")):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


class TestAllowedNetworks:
    def test_open_exactly_themselves(self) -> None:
        guard = AddressGuard(AddressPolicy.of(["10.1.0.0/16", "fd12::/16"]))
        for inside in ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "fd12::1"):
            assert guard.objection(ip_address(inside)) == ""
        for outside in ("10.2.0.1", "127.0.0.1", "169.254.169.254", "fd13::1", "::1", "::ffff:10.2.0.1"):
            assert guard.objection(ip_address(outside))

    @pytest.mark.parametrize("wrong", ["", "10.0.0.1/8", "10.0.0.0/33", "localhost", "10.0.0.0-10.0.0.9", "*"])
    def test_that_are_none_are_refused_by_name_when_they_are_set(self, wrong: str) -> None:
        with pytest.raises(ConfigurationError, match="is not a network"):
            AddressPolicy.of([wrong])


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "host", "port"),
        [
            ("https://api.example.com/v1", "api.example.com", 443),
            ("http://api.example.com:8080", "api.example.com", 8080),
            ("HTTPS://API.Example.COM", "api.example.com", 443),
            ("https://api.example.com.", "api.example.com.", 443),
            ("https://münchen.example/", "xn--mnchen-3ya.example", 443),
            ("https://a_b.example", "a_b.example", 443),
            ("https://3.example", "3.example", 443),
            ("https://0xcafe.example", "0xcafe.example", 443),
            ("https://8.8.8.8/", "8.8.8.8", 443),
            ("https://[2606:4700::1111]:8443/", "2606:4700::1111", 8443),
            ("https://x.example/?next=http://127.0.0.1/@", "x.example", 443),
        ],
    )
    def test_say_where_they_lead(self, url: str, host: str, port: int) -> None:
        assert PLAIN.place(url)[:2] == (host, port)

    @pytest.mark.parametrize("host", ODD_SPELLINGS.split())
    def test_with_an_inner_address_are_refused_however_it_is_spelt(self, host: str) -> None:
        refused(f"http://{host}/")

    @pytest.mark.parametrize("url", DOUBTFUL_URLS)
    def test_that_could_mean_two_things_are_refused(self, url: str) -> None:
        refused(url)

    @pytest.mark.parametrize("port", [1, 22, 25, 110, 143, 587, 1023])
    def test_do_not_reach_ports_of_other_protocols(self, port: int) -> None:
        assert f"port {port}" in refused(f"http://example.com:{port}/")

    def test_reach_the_ports_that_a_policy_names_and_no_other(self) -> None:
        guard = AddressGuard(AddressPolicy(ports=frozenset({443, 22})))
        assert guard.place("https://example.com:22").port == 22
        refused("https://example.com:8443", guard)

    def test_need_tls_unless_a_policy_says_otherwise(self) -> None:
        assert PLAIN.place("http://example.com").port == 80
        assert refused("http://example.com", PUBLIC) == "the URL must begin with https://"

    def test_are_refused_without_repeating_their_secrets(self) -> None:
        urls = "http://user:hunter2@example.com/ ftp://a.example/?hunter2 http://127.0.0.1/hunter2 http://[fe80::1%hunter2]/"
        for url in urls.split():
            assert "hunter2" not in refused(url)

    def test_are_refused_with_host_and_reason(self) -> None:
        assert refused("http://10.0.0.7/").startswith("10.0.0.7 leads to a private network; only public addresses")

    @given(st.text(max_size=30), st.sampled_from(["", ":80", ":8080/", "/?#@", "@8.8.8.8", "#@8.8.8.8"]))
    def test_whatever_they_are_lead_to_a_public_place_or_nowhere(self, host: str, rest: str) -> None:
        url = f"http://{host}{rest}"
        try:
            place = PLAIN.place(url)
        except AddressRefused:
            return
        # The client reads the same host out of the URL, and a host it would take for an address was judged as one.
        assert URL(url).raw_host == place.host
        literal = ":" in place.host or place.host.replace(".", "").isdigit()
        assert literal == (place.address is not None)
        assert place.address is None or place.address.is_global

    @given(
        st.integers(0, 2**32 - 1),
        st.sampled_from(["{0}", "0x{0:x}", "0{0:o}", "{1}.{2}", "0x{1:x}.{2}", "{1}.0x{2:x}"]),
    )
    def test_with_a_number_for_a_host_are_refused_public_or_not(self, number: int, spelling: str) -> None:
        refused(f"http://{spelling.format(number, number >> 24, number & 0xFFFFFF)}/")
