"""The monitor's pages on real sockets: who gets them, in which form, and what the hostile get."""

from __future__ import annotations

import asyncio
import base64
import gzip
import resource
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import bcrypt
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from loopwatch_monitor import connections, scrape, server
from loopwatch_monitor.addresses import Address
from loopwatch_monitor.intake.status import BrokerStatus, BrokerUnreachableError
from loopwatch_monitor.negotiate import Format
from loopwatch_monitor.scrape import MAX_PAGES, MAX_PARTS, Scraper, TooManyPagesError, Variant
from tests.integration.certificates import self_signed
from tests.integration.web_client import DEADLINE, Client, Response, parse, serving, until

HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
USERS = f"basic_auth_users: {{ann: {HASH}}}\n"
PATHS = ("/", "/metrics", "/health", "/ready", "/live")


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that a loaded machine keeps from writing is not what is ended for it."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1000.0)


def basic(user: str, password: str) -> str:
    return f"Authorization: Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def config(directory: Path, text: str) -> Path:
    path = directory / "web.yml"
    path.write_text(text)
    return path


# ------------------------------------------------------------------------------------------------------ the pages
async def test_the_text_format() -> None:
    async with serving() as client:
        found = await client.get("/metrics")
    assert (found.status, found.headers["content-type"]) == (200, Format.TEXT.value)
    assert "content-encoding" not in found.headers
    assert list(text_string_to_metric_families(found.body.decode()))


async def test_openmetrics_and_gzip_where_they_are_asked_for() -> None:
    async with serving() as client:
        found = await client.get("/metrics", "Accept: application/openmetrics-text", "Accept-Encoding: gzip")
    assert found.headers["content-type"] == Format.OPENMETRICS.value
    assert found.headers["content-encoding"] == "gzip"
    assert found.headers["vary"] == "Accept, Accept-Encoding"
    page = gzip.decompress(found.body).decode()
    assert list(openmetrics_families(page))  # type: ignore[no-untyped-call]


async def test_only_the_families_that_are_asked_for() -> None:
    async with serving() as client:
        found = await client.get("/metrics?name[]=loopwatch_monitor_broker_up&name%5B%5D=nonsense")
    assert [line for line in found.body.decode().splitlines() if not line.startswith("#")] == [
        "loopwatch_monitor_broker_up 1"
    ]


@pytest.mark.parametrize("path", PATHS)
async def test_head_says_what_get_says_without_the_body(path: str) -> None:
    async with serving() as client:
        got, head = await client.get(path), await client.get(path, method="HEAD")
    assert got.status == head.status == 200
    assert got.headers["content-type"] == head.headers["content-type"]
    assert got.body
    assert head.body == b""


async def test_the_landing_page_links_to_the_others_and_says_the_version() -> None:
    async with serving() as client:
        found = await client.get("/")
        page = found.body.decode()
        assert "1.2.3" in page
        for path in PATHS[1:]:
            assert f'href="{path[1:]}"' in page
    assert "default-src 'none'" in found.headers["content-security-policy"]


async def test_headers_of_every_response_and_those_of_the_file(tmp_path: Path) -> None:
    text = "http_server_config: {headers: {X-Frame-Options: deny, Content-Security-Policy: \"default-src 'self'\"}}"
    async with serving(config(tmp_path, text)) as client:
        for path in (*PATHS, "/nowhere"):
            headers = (await client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "deny"
            assert headers["content-security-policy"] == "default-src 'self'"
            assert headers["server"] == "loopwatch"


async def test_a_header_that_is_empty_in_the_file_is_not_sent(tmp_path: Path) -> None:
    text = "http_server_config: {headers: {X-XSS-Protection: '', Content-Security-Policy: ''}}"
    async with serving(config(tmp_path, text)) as client:
        headers = (await client.get("/")).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert not {"x-xss-protection", "content-security-policy"} & headers.keys()


class _Held:
    """A page that is not made to its end before it may."""

    def __init__(self) -> None:
        self.made: list[Format] = []
        self.go_on = threading.Event()

    def __call__(self, form: Format, names: frozenset[str]) -> Iterator[bytes]:
        self.made.append(form)
        assert self.go_on.wait(DEADLINE)
        yield b"x 1\n"


async def test_scrapers_that_come_together_share_one_page() -> None:
    """Two come while one page is made, a third one after it."""
    page = _Held()
    async with serving(pieces=page) as client:
        both = [asyncio.create_task(client.get("/metrics")) for _ in range(2)]
        await until(lambda: bool(page.made), "the first")
        assert (await client.get("/live")).status == 200  # the loop is free meanwhile; and the second has come
        page.go_on.set()
        assert [found.body for found in await asyncio.gather(*both)] == [b"x 1\n"] * 2
        assert (await client.get("/metrics")).body == b"x 1\n"
    assert len(page.made) == 2


async def test_parts_of_the_page_do_not_queue_up_without_end() -> None:
    """Whoever asks for the whole page, or for a part that is being made, gets it; another part has to wait."""
    made, go_on = [], threading.Event()

    def pieces(form: Format, names: frozenset[str]) -> Iterator[bytes]:
        made.append(names)
        assert go_on.wait(DEADLINE)
        yield f"{len(names)}".encode()

    scraper = Scraper(pieces, connections.reset)
    parts = [Variant(names=frozenset({str(number)})) for number in range(MAX_PARTS)]
    asked = [asyncio.create_task(scraper.page(part)) for part in (*parts, parts[0], Variant())]
    await until(lambda: bool(made), "the first")
    other = Variant(names=frozenset({"other"}))
    with pytest.raises(TooManyPagesError):
        await scraper.page(other)
    go_on.set()
    assert await asyncio.gather(*asked) == [[b"1"]] * (MAX_PARTS + 1) + [[b"0"]]
    assert len(made) == MAX_PARTS + 1
    assert await scraper.page(other) == [b"1"]


async def test_who_has_to_wait_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "MAX_PARTS", 0)
    async with serving() as client:
        found = await client.get("/metrics?name[]=up")
        assert (found.status, found.headers["retry-after"]) == (503, "1")
        assert (await client.get("/metrics")).status == 200


async def test_so_many_names_that_nobody_needs_them() -> None:
    async with serving() as client:
        names = [f"name[]=n{number}" for number in range(101)]
        found = await client.get(f"/metrics?{'&'.join(names)}")
        assert (found.status, found.body) == (400, b"at most 100 name[]; none gives them all\n")
        assert (await client.get(f"/metrics?{'&'.join([*names[:100], *names[:50]])}")).status == 200


async def test_a_scraper_that_gives_up_does_not_cost_the_other_his_page() -> None:
    page = _Held()
    scraper = Scraper(page, connections.reset)
    impatient, patient = (asyncio.create_task(scraper.page(Variant())) for _ in range(2))
    await until(lambda: bool(page.made), "the first")
    impatient.cancel()
    await asyncio.wait([impatient])
    page.go_on.set()
    assert await patient == [b"x 1\n"]
    assert len(page.made) == 1


async def test_a_scraper_that_is_gone_is_no_failure() -> None:
    page = _Held()
    async with serving(pieces=page) as client:
        with capture_logs() as logs:
            _, writer = await client.connect()
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: m\r\n\r\n")
            await until(lambda: bool(page.made), "the page")
            writer.transport.abort()
            assert (await client.get("/live")).status == 200  # its end is heard of before
            page.go_on.set()
            assert (await client.get("/metrics")).body == b"x 1\n"
        assert logs == []


async def test_a_page_that_cannot_be_made_is_a_500_without_its_reason() -> None:
    def pieces(form: Format, names: frozenset[str]) -> Iterator[bytes]:
        raise ValueError("hunter2")

    async with serving(pieces=pieces) as client:
        found = await client.get("/metrics")
        assert (found.status, found.body) == (500, b"500 Internal Server Error\n")
        assert (await client.get("/live")).status == 200


# ------------------------------------------------------------------------------------------------------ the probes
@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (BrokerStatus(up=True), 200, b""),
        (BrokerStatus(up=True, buffered=499, buffer_limit=1000), 200, b""),
        (BrokerStatus(up=True, buffered=500, buffer_limit=1000), 503, b"the intake is behind"),
        (BrokerStatus(up=False), 503, b"the broker is not connected"),
    ],
)
async def test_ready(status: BrokerStatus, code: int, reason: bytes) -> None:
    async with serving(status=status) as client:
        found = await client.get("/ready")
        assert (await client.get("/live")).status == 200
    assert found.status == code
    assert reason in found.body


async def test_health_asks_the_broker() -> None:
    def probe() -> None:
        raise BrokerUnreachableError("redis://h:6379/0: Connection refused")

    async with serving(probe=probe) as client:
        found = await client.get("/health")
        assert found.status == 503
        assert b"Connection refused" in found.body
        assert (await client.get("/live")).status == 200


# ------------------------------------------------------------------------------------------------------ credentials
@pytest.mark.parametrize("path", [*PATHS, "/nowhere"])
@pytest.mark.parametrize("header", ["X: y", basic("ann", "wrong"), basic("bob", "secret"), "Authorization: Bearer x"])
async def test_without_the_right_credentials_there_is_nothing(path: str, header: str, tmp_path: Path) -> None:
    async with serving(config(tmp_path, USERS)) as client:
        found = await client.get(path, header)
        assert (found.status, found.body) == (401, b"401 Unauthorized\n")
        assert found.headers["www-authenticate"] == "Basic"
        assert found.headers["x-content-type-options"] == "nosniff"
        assert (await client.get("/metrics", basic("ann", "secret"))).status == 200


async def test_the_probes_stay_open_only_if_asked(tmp_path: Path) -> None:
    async with serving(config(tmp_path, USERS), open_health=True) as client:
        for path in server.PROBES:
            found = await client.get(path)
            assert (found.status, found.body) == (200, b'{"status": "ok"}')
        for path in ("/", "/metrics", "/health/", "//health", "/health/../metrics", "/metrics?x=/health"):
            assert (await client.get(path)).status == 401


async def test_a_new_password_needs_no_restart(tmp_path: Path) -> None:
    path = config(tmp_path, "")
    async with serving(path) as client:
        assert (await client.get("/metrics")).status == 200
        path.write_text(USERS)
        assert (await client.get("/metrics")).status == 401
        assert (await client.get("/metrics", basic("ann", "secret"))).status == 200


async def test_the_rate_limit(tmp_path: Path) -> None:
    async with serving(config(tmp_path, "rate_limit: {interval: 1h, burst: 2}")) as client:
        found = [await client.get("/live") for _ in range(3)]
    assert [one.status for one in found] == [200, 200, 429]
    assert 3500 < int(found[-1].headers["retry-after"]) <= 3600  # some of the hour may have gone by


# ------------------------------------------------------------------------------------------------------ TLS
def trusting(pem: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(pem))
    context.check_hostname = False
    return context


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    return self_signed(tmp_path)


async def refused_by_tls(client: Client, context: ssl.SSLContext) -> bool:
    """Whether nothing comes back. In TLS 1.3 the client thinks that it is connected before its certificate is seen."""
    client.context = context
    try:
        await client.get("/live")
    except (ssl.SSLError, ConnectionError, IndexError):
        return True
    return False


async def test_tls_and_a_new_certificate_without_a_restart(pem: Path, tmp_path: Path) -> None:
    path = config(tmp_path, f"tls_server_config: {{cert_file: {pem}, key_file: {pem}}}")
    async with serving(path) as client:
        client.context = trusting(pem)
        assert (await client.get("/live")).status == 200
        (tmp_path / "new").mkdir()
        self_signed(tmp_path / "new").replace(pem)
        with pytest.raises(ssl.SSLCertVerificationError):
            await client.get("/live")
        client.context = trusting(pem)
        assert (await client.get("/live")).status == 200


async def test_plain_http_to_a_tls_port_gets_nothing(pem: Path, tmp_path: Path) -> None:
    path = config(tmp_path, f"tls_server_config: {{cert_file: {pem}, key_file: {pem}}}")
    async with serving(path) as client:
        with pytest.raises((ConnectionError, IndexError)):
            await client.get("/metrics")
        client.context = trusting(pem)
        assert (await client.get("/live")).status == 200


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_old_versions_of_tls_are_refused(version: ssl.TLSVersion, pem: Path, tmp_path: Path) -> None:
    context = trusting(pem)
    # What OpenSSL's default forbids a client, so that it is the server who refuses.
    context.set_ciphers("ALL:@SECLEVEL=0")
    path = config(tmp_path, f"tls_server_config: {{cert_file: {pem}, key_file: {pem}}}")
    async with serving(path) as client:
        client.context = context
        assert (await client.get("/live")).status == 200
        context.minimum_version = context.maximum_version = version
        with capture_logs() as logs:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await client.get("/live")
            await until(lambda: bool(logs), "the server's word")
    assert "unsupported protocol" in logs[0]["error"]


@pytest.mark.parametrize("sans", ["[]", "['127.0.0.1']", "['other.example.org']"])
async def test_client_certificates(sans: str, pem: Path, tmp_path: Path) -> None:
    for name in ("known", "stranger"):
        (tmp_path / name).mkdir()
    known, stranger = self_signed(tmp_path / "known"), self_signed(tmp_path / "stranger")
    text = f"""
tls_server_config:
  cert_file: {pem}
  key_file: {pem}
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: {known}
  client_allowed_sans: {sans}
"""
    async with serving(config(tmp_path, text)) as client:
        assert await refused_by_tls(client, trusting(pem))
        wrong, right = trusting(pem), trusting(pem)
        wrong.load_cert_chain(stranger)
        right.load_cert_chain(known)
        assert await refused_by_tls(client, wrong)
        assert await refused_by_tls(client, right) == ("other" in sans)


# ------------------------------------------------------------------------------------------------------ the hostile
async def rest(reader: asyncio.StreamReader, length: int = sys.maxsize) -> bytes:
    """All that comes until the server closes, or breaks off; at most ``length`` bytes."""
    found = bytearray()
    async with asyncio.timeout(DEADLINE):
        with suppress(ConnectionError):
            while len(found) < length and (data := await reader.read(1_000_000)):
                found += data
    return bytes(found)


async def test_headers_drop_by_drop_end_in_a_closed_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.5)
    async with serving() as client:
        reader, writer = await client.connect()

        async def drip() -> None:
            writer.write(b"GET /metrics HTTP/1.1\r\n")
            while True:
                writer.write(b"X-a: b\r\n")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        assert await rest(reader) == b""
        dripping.cancel()
        writer.close()


async def test_a_handshake_that_does_not_go_on_is_ended(
    monkeypatch: pytest.MonkeyPatch, pem: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.5)
    async with serving(config(tmp_path, f"tls_server_config: {{cert_file: {pem}, key_file: {pem}}}")) as client:
        reader, writer = await client.connect()
        assert await rest(reader) == b""
        writer.close()


async def test_a_client_that_does_not_read_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SEND_SECONDS", 0.5)

    def pieces(form: Format, names: frozenset[str]) -> Iterator[bytes]:
        yield from [b"#" * 1_000_000] * 50

    async with serving(pieces=pieces) as client:
        reader, writer = await client.connect()
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: m\r\n\r\n")
        assert isinstance(writer.transport, asyncio.Transport)
        writer.transport.pause_reading()
        established, connection = 1, writer.get_extra_info("socket")
        await until(
            lambda: connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != established, "the server to end"
        )
        writer.transport.resume_reading()
        assert len(await rest(reader)) < 50_000_000
        writer.close()


async def test_pages_that_are_not_read_are_not_piled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is another page, as it asks for other families; who reads gets his."""
    monkeypatch.setattr(server, "SEND_SECONDS", 1000.0)  # they are ended for their number, not for their slowness

    def pieces(form: Format, names: frozenset[str]) -> Iterator[bytes]:
        yield from [b"#" * 1_000_000] * 30

    async with serving(pieces=pieces) as client:
        slow = []
        for number in range(MAX_PAGES + 2):
            reader, writer = await client.connect()
            assert isinstance(writer.transport, asyncio.Transport)
            writer.write(f"GET /metrics?name[]={number} HTTP/1.1\r\nHost: m\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.pause_reading()
            slow.append((reader, writer))
        assert len((await client.get("/metrics")).body) == 30_000_000
        for place, (reader, writer) in enumerate(slow):
            assert isinstance(writer.transport, asyncio.Transport)
            with suppress(RuntimeError):  # it is closing
                writer.transport.resume_reading()
            whole = 30_000_000
            async with asyncio.timeout(DEADLINE):
                got = await rest(reader, whole)
            assert (len(got) == whole) == (place >= 3)
            writer.close()


@pytest.mark.parametrize(("most", "files"), [(5, 1024), (5, resource.RLIM_INFINITY), (256, 10)])
async def test_a_flood_of_connections_only_displaces_itself(
    most: int, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", most)
    monkeypatch.setattr(resource, "getrlimit", lambda what: (files, files))
    async with serving() as client:
        flood = [await client.connect() for _ in range(20)]
        for _ in range(3):
            assert (await client.get("/live")).status == 200
        async with asyncio.timeout(DEADLINE):
            for reader, _ in flood[:15]:
                assert await rest(reader) == b""
        for _, writer in flood:
            writer.close()


async def test_a_connection_is_kept_for_the_next_scrape() -> None:
    async with serving() as client:
        reader, writer = await client.connect()
        for _ in range(3):
            writer.write(b"GET /live HTTP/1.1\r\nHost: m\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(parse(head).headers["content-length"])
            assert b"ok" in await reader.readexactly(length)
        writer.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: m\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: m\r\nX-Big: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: m\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(5000)) + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: m\r\nX-Nul: a\0<script>\r\n\r\n",
        b"GET /metrics\0<script> HTTP/1.1\r\nHost: m\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: m\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n<script>",
        b"GET / HTTP/1.1\r\nHost: m\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: m\r\n\r\n",
        b"<script> / HTTP/1.1\r\nHost: m\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n" * 3,
    ],
    ids=["line", "header", "headers", "nul", "nul-in-path", "smuggling", "length", "version", "method", "tls"],
)
async def test_what_is_no_request_is_a_400_that_repeats_nothing(request_bytes: bytes) -> None:
    async with serving() as client:
        found = await client.raw(request_bytes)
        assert found.status in (400, 431)
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.body in (b"400 Bad Request\n", b"431 Request Header Fields Too Large\n")
        assert (await client.get("/live")).status == 200


@pytest.mark.parametrize(
    "path",
    ["//metrics", "/metrics/", "/metrics/../", "/./metrics", "/x/../metrics", "/%2e%2e/metrics", "/metrics%00",
     "/metrics;x", "/%6detrics/..", "/..%2fmetrics", "/%2fmetrics", "/etc/passwd", "/static/../../etc/passwd",
     "/\\metrics"],
)  # fmt: skip
async def test_path_tricks_lead_nowhere(path: str) -> None:
    async with serving() as client:
        found = await client.get(path)
    assert found.status in (400, 404)
    assert b"metrics" not in found.body


@pytest.mark.parametrize("host", ["evil.example", "<script>alert(1)</script>", "a b", "[::1", "m:99999", ""])
async def test_a_hostile_host_is_not_repeated(host: str) -> None:
    async with serving() as client:
        for path in ("/", "/nowhere", "/health"):
            found = await client.raw(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            assert found.status in (200, 400, 404)
            assert host.encode() not in found.body or not host
            assert not host or host not in str(found.headers)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"])
@pytest.mark.parametrize("path", ["/metrics", "/nowhere"])
async def test_other_methods_are_not_allowed(method: str, path: str) -> None:
    async with serving() as client:
        target = "m:80" if method == "CONNECT" else path
        found = await client.get(target, method=method)
    assert (found.status, found.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("length", ["Content-Length: 10000000000", "Transfer-Encoding: chunked"])
async def test_a_body_is_refused_unread(method: str, length: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as client:
        reader, writer = await client.connect()
        writer.write(f"{method} /metrics HTTP/1.1\r\nHost: m\r\n{length}\r\n\r\n".encode())
        async with asyncio.timeout(DEADLINE):
            found = parse(await reader.read())
        writer.close()
    assert found.status == (413 if method == "GET" else 405)


# ------------------------------------------------------------------------------------------------------ listening
async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "monitor.sock"
    async with serving(address=Address(path=str(path))) as client:
        assert (await client.get("/live")).status == 200
    assert not path.exists()


def a_server() -> server.Server:
    return server.Server(
        pieces=lambda form, names: iter([b""]), probe=lambda: None, status=BrokerStatus(up=True), version="1"
    )


async def test_a_unix_socket_goes_although_nobody_waits_for_the_servers_end(tmp_path: Path) -> None:
    path, ended = tmp_path / "monitor.sock", a_server()
    await ended.start([Address(path=str(path))])
    closing = asyncio.create_task(ended.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    assert not path.exists()
    await ended.close()


async def test_several_at_once(tmp_path: Path) -> None:
    several = a_server()
    path = str(tmp_path / "monitor.sock")
    bound = await several.start([Address("127.0.0.1"), Address(path=path), Address("localhost")])
    try:
        found: list[Response] = [await Client(address).get("/live") for address in bound]
        assert [one.status for one in found] == [200] * 3
    finally:
        await several.close()


async def test_an_address_that_is_taken_is_named() -> None:
    async with serving() as client:
        another = a_server()
        with pytest.raises(server.ListenError, match=f"cannot listen on 127.0.0.1:{client.address.port}"):
            await another.start([Address("127.0.0.1"), client.address])
