"""The guard where it counts: real sockets, a real client, servers on loopback."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from backstay.kernel.errors import ConfigurationError
from backstay.outbound import (
    AddressGuard,
    AddressPolicy,
    AddressRefused,
    Destination,
    HostUnresolved,
)
from backstay.outbound.connector import GuardedConnector, GuardedResolver

STRANGERS = AddressGuard(AddressPolicy(plain_http=True))
LOOPBACK = AddressGuard(AddressPolicy.of(["127.0.0.0/8"], plain_http=True))
ONE_OF_LOOPBACK = AddressGuard(AddressPolicy.of(["127.0.0.1/32"], plain_http=True))


class Names(AbstractResolver):
    """A name server under somebody else's control: the answers in turn, the last one for ever."""

    def __init__(self, *answers: Sequence[str] | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.closed = False

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=0,
            )
            for address in answer
        ]

    async def close(self) -> None:
        self.closed = True


class Server:
    """Answers on 127.0.0.1 and remembers what reached it, down to bare connections."""

    def __init__(self) -> None:
        self.port = 0
        self.hosts: list[str] = []
        self.connections = 0

    async def handle(self, request: web.Request) -> web.Response:
        self.hosts.append(request.headers["host"])
        if target := request.query.get("to"):
            raise web.HTTPFound(target)
        response = web.Response(text="inside")
        if "last" in request.query:
            response.force_close()
        return response


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_get("/", server.handle)
    runner = web.AppRunner(app)
    await runner.setup()

    def counted() -> asyncio.Protocol:
        server.connections += 1
        assert runner.server is not None
        return runner.server()

    listening = await asyncio.get_running_loop().create_server(counted, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        await runner.cleanup()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


def session(guard: AddressGuard, names: AbstractResolver | None = None) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=GuardedConnector(guard, resolver=names))


async def get(http: aiohttp.ClientSession, url: str) -> str:
    async with http.get(url) as response:
        return await response.text()


class TestNames:
    async def test_that_lead_to_an_allowed_network_are_called_under_their_own_name(self, server: Server) -> None:
        names = Names(["127.0.0.1"])
        async with session(LOOPBACK, names) as http:
            assert await get(http, f"http://service.test:{server.port}/") == "inside"
        assert names.asked == ["service.test"]
        assert server.hosts == [f"service.test:{server.port}"]

    async def test_that_lead_inside_are_refused_before_a_connection_is_made(self, server: Server) -> None:
        async with session(STRANGERS, Names(["127.0.0.1"])) as http:
            with pytest.raises(AddressRefused) as caught:
                await get(http, f"http://service.test:{server.port}/")
        assert server.connections == 0
        assert "service.test leads to this machine" in caught.value.detail
        assert "127.0.0.1" not in caught.value.detail  # what a name resolves to inside is not told

    async def test_that_change_between_the_check_and_the_call_are_refused(self, server: Server) -> None:
        names = Names(["93.184.216.34"], ["127.0.0.1"])
        url = f"http://service.test:{server.port}/"
        destination = await GuardedResolver(STRANGERS, names).check(url)
        assert destination == Destination("service.test", server.port, (ip_address("93.184.216.34"),))
        async with session(STRANGERS, names) as http:
            with pytest.raises(AddressRefused):
                await get(http, url)
        assert server.connections == 0

    async def test_that_change_between_two_attempts_are_refused_at_the_second(self, server: Server) -> None:
        url = f"http://service.test:{server.port}/?last"
        async with session(ONE_OF_LOOPBACK, Names(["127.0.0.1"], ["127.0.0.2"])) as http:
            assert await get(http, url) == "inside"
            with pytest.raises(AddressRefused):
                await get(http, url)
        assert server.connections == 1

    async def test_are_asked_for_again_by_each_new_connection_only(self, server: Server) -> None:
        names = Names(["127.0.0.1"])
        async with session(LOOPBACK, names) as http:
            for end in ("", "", "?last", ""):
                await get(http, f"http://service.test:{server.port}/{end}")
        assert (server.connections, len(names.asked)) == (2, 2)

    @pytest.mark.parametrize(
        "answer", [["93.184.216.34", "127.0.0.1"], ["127.0.0.1", "2606:4700::1111"], ["::ffff:7f00:1"]]
    )
    async def test_with_one_inner_address_among_others_are_refused(self, server: Server, answer: list[str]) -> None:
        async with session(STRANGERS, Names(answer)) as http:
            with pytest.raises(AddressRefused):
                await get(http, f"http://service.test:{server.port}/")
        assert server.connections == 0

    async def test_are_looked_up_by_the_system_and_guarded_all_the_same(self, server: Server) -> None:
        url = f"http://localhost:{server.port}/"
        async with session(STRANGERS) as http:
            with pytest.raises(AddressRefused, match="localhost leads to this machine"):
                await get(http, url)
        assert server.connections == 0
        async with session(AddressGuard(AddressPolicy.of(["127.0.0.0/8", "::1/128"], plain_http=True))) as http:
            assert await get(http, url) == "inside"

    async def test_without_an_address_are_a_failed_connection(self) -> None:
        for answer in ([], socket.gaierror(socket.EAI_NONAME, "no such thing in our internal zone")):
            async with session(STRANGERS, Names(answer)) as http:
                with pytest.raises(aiohttp.ClientConnectorDNSError):
                    await get(http, "http://service.test/")


class TestAddressesInUrls:
    @pytest.mark.parametrize("host", ["127.0.0.1", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"])
    async def test_are_judged_although_no_name_is_looked_up(self, server: Server, host: str) -> None:
        names = Names(["93.184.216.34"])
        async with session(STRANGERS, names) as http:
            with pytest.raises(AddressRefused, match="this machine"):
                await get(http, f"http://{host}:{server.port}/")
        assert (server.connections, names.asked) == (0, [])

    @pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.0.0.1."])
    async def test_in_odd_spellings_are_refused_even_where_they_are_allowed(self, server: Server, host: str) -> None:
        async with session(LOOPBACK, Names(["127.0.0.1"])) as http:
            with pytest.raises(AddressRefused):
                await get(http, f"http://{host}:{server.port}/")
        assert server.connections == 0

    async def test_are_called_where_they_are_allowed(self, server: Server) -> None:
        async with session(LOOPBACK) as http:
            assert await get(http, f"http://127.0.0.1:{server.port}/") == "inside"

    async def test_are_judged_after_a_redirect_too(self, server: Server) -> None:
        async with session(ONE_OF_LOOPBACK, Names(["127.0.0.2"])) as http:
            for target in (f"http://127.0.0.2:{server.port}/", "http://169.254.169.254/latest", "http://service.test/"):
                with pytest.raises(AddressRefused):
                    await get(http, f"http://127.0.0.1:{server.port}/?to={target}")
        assert server.hosts == [f"127.0.0.1:{server.port}"] * 3


class TestTheConnector:
    async def test_needs_tls_unless_plain_http_is_allowed(self, server: Server) -> None:
        async with session(AddressGuard(AddressPolicy.of(["127.0.0.0/8"]))) as http:
            with pytest.raises(AddressRefused, match="https"):
                await get(http, f"http://127.0.0.1:{server.port}/")
        assert server.connections == 0

    async def test_does_not_let_a_proxy_choose_the_address(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        proxy = f"http://127.0.0.1:{server.port}"
        async with session(LOOPBACK) as http:
            with pytest.raises(ConfigurationError, match="proxy"):
                await http.get("http://service.test/", proxy=proxy)
        monkeypatch.setenv("http_proxy", proxy)
        async with aiohttp.ClientSession(connector=GuardedConnector(LOOPBACK), trust_env=True) as http:
            with pytest.raises(ConfigurationError, match="proxy"):
                await http.get("http://service.test/")
        assert server.connections == 0

    @pytest.mark.parametrize("answer", [["127.0.0.1"], ["127.0.0.1", "127.0.0.2", "::1"]])
    async def test_opens_no_socket_to_a_refused_address_even_if_all_else_fails(
        self, server: Server, answer: list[str]
    ) -> None:
        connector = GuardedConnector(STRANGERS)
        connector._resolver = Names(answer)  # as if the client had found a way around the guarded one
        async with aiohttp.ClientSession(connector=connector) as http:
            with pytest.raises(aiohttp.ClientConnectorError):
                await get(http, f"http://service.test:{server.port}/")
        assert server.connections == 0

    async def test_leaves_no_connection_taken_after_a_refusal(self, server: Server) -> None:
        names = Names(["127.0.0.2"], ["127.0.0.2"], ["127.0.0.1"])
        connector = GuardedConnector(ONE_OF_LOOPBACK, resolver=names, limit=1)
        async with aiohttp.ClientSession(connector=connector) as http:
            for _ in range(2):
                with pytest.raises(AddressRefused):
                    await get(http, f"http://service.test:{server.port}/")
            assert await get(http, f"http://service.test:{server.port}/") == "inside"

    @pytest.mark.parametrize("dot", ["", "."])
    async def test_keeps_the_name_in_tls_and_checks_the_certificate_against_it(self, tmp_path: Path, dot: str) -> None:
        trusted, told = certificate_for("service.test", tmp_path)
        asked: list[str | None] = []
        told.sni_callback = lambda _, name, __: asked.append(name)
        connector = GuardedConnector(
            AddressGuard(AddressPolicy.of(["127.0.0.0/8"])), resolver=Names(["127.0.0.1"]), ssl=trusted
        )
        async with serving(told) as server, aiohttp.ClientSession(connector=connector) as http:
            assert await get(http, f"https://service.test{dot}:{server.port}/") == "inside"
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await get(http, f"https://other.test:{server.port}/")
        assert asked == ["service.test", "other.test"]
        assert server.hosts == [f"service.test:{server.port}"]


class TestCheck:
    async def test_returns_all_addresses_of_a_public_name(self) -> None:
        resolver = GuardedResolver(AddressGuard(), Names(["93.184.216.34", "2606:4700::1111"]))
        assert await resolver.check("https://example.com/hook") == Destination(
            "example.com", 443, (ip_address("93.184.216.34"), ip_address("2606:4700::1111"))
        )

    async def test_asks_no_name_server_for_an_address(self) -> None:
        names = Names(["127.0.0.1"])
        found = await GuardedResolver(AddressGuard(), names).check("https://8.8.8.8")
        assert (found.addresses, names.asked) == ((ip_address("8.8.8.8"),), [])

    async def test_refuses_an_inner_address_or_a_bad_url_before_asking(self) -> None:
        names = Names(["93.184.216.34"])
        for url in ("https://10.0.0.1", "http://example.com", "https://user@example.com", "nonsense"):
            with pytest.raises(AddressRefused):
                await GuardedResolver(AddressGuard(), names).check(url)
        assert names.asked == []

    @pytest.mark.parametrize(
        "answer",
        [
            [],
            ["not an address"],
            socket.gaierror(socket.EAI_AGAIN, "10.0.0.53 is away"),
            UnicodeError("label too long"),
        ],
    )
    async def test_says_that_a_host_has_no_address_and_not_why(self, answer: list[str] | Exception) -> None:
        with pytest.raises(HostUnresolved) as caught:
            await GuardedResolver(AddressGuard(), Names(answer)).check("https://gone.example/secret")
        assert caught.value.status == 422
        assert caught.value.detail == (
            "no address is known for gone.example; check how it is written, or try again later"
        )

    async def test_does_not_wait_for_ever_for_a_name_server(self) -> None:
        class Silent(Names):
            async def resolve(
                self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
            ) -> list[ResolveResult]:
                await asyncio.Event().wait()
                raise AssertionError

        async with asyncio.timeout(3):
            with pytest.raises(HostUnresolved):
                await GuardedResolver(AddressGuard(), Silent(), limit=0.01).check("https://example.com")

    async def test_refuses_an_address_of_one_interface_from_a_name_server(self) -> None:
        with pytest.raises(AddressRefused):
            await GuardedResolver(LOOPBACK, Names(["fe80::1%eth0"])).check("https://example.com")

    async def test_the_resolver_closes_what_it_asks(self) -> None:
        names = Names([])
        await GuardedResolver(STRANGERS, names).close()
        assert names.closed


def certificate_for(name: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A client's context that trusts the server's, and the server's."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "both.pem").write_bytes(pem + secret)
    told = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    told.load_cert_chain(folder / "both.pem")
    return ssl.create_default_context(cadata=pem.decode()), told
