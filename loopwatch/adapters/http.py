"""httpx and httpx2: one global client whose transport is per event loop.

An SDK keeps one HTTP client for the whole process (LangChain caches its own), so a new SDK object per loop isolates
nothing: half of the calls fail with "Event loop is closed". What is bound to a loop are the open connections, which
are the transport's.

A client with ``transport=`` leaves proxies to it, those of the environment included, so `HTTPTransport` finds the
proxy of a request itself.
"""

from __future__ import annotations

import importlib
import inspect
import ssl
from collections.abc import Iterable, Iterator
from functools import cache
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, overload
from urllib.request import getproxies

from loopwatch.adapters.http_exchange import Exchange, guarded_stream
from loopwatch.adapters.leaks import checked_threshold, meter_for
from loopwatch.adapters.pool_meter import PoolLabels, PoolMeter, pool_gauges
from loopwatch.errors import ConfigurationError, MissingExtraError
from loopwatch.per_loop import PerLoop
from loopwatch.sockets import SocketHandle, TransportSocket
from loopwatch.telemetry.stats import STATS, Gauge

if TYPE_CHECKING:
    import httpx
    import httpx2

__all__ = ["HTTPTransport", "http_client"]

LIBRARIES: Final = ("httpx2", "httpx")
"""The libraries that are served, the preferred one first."""
PROXY_SCHEMES: Final = ("http", "https", "socks5", "socks5h")


@overload
def http_client(*, name: str = "http", library: Literal["httpx"], **options: Any) -> httpx.AsyncClient: ...


@overload
def http_client(*, name: str = "http", library: Literal["httpx2"], **options: Any) -> httpx2.AsyncClient: ...


@overload
def http_client(*, name: str = "http", library: ModuleType | str | None = None, **options: Any) -> Any: ...


def http_client(*, name: str = "http", library: ModuleType | str | None = None, **options: Any) -> Any:
    """An ``AsyncClient`` that is right on every event loop, in every thread and after every fork.

    >>> http_client(name="llm", timeout=30)  # doctest: +ELLIPSIS
    <httpx2.AsyncClient object at ...>

    It works in a constructor or at import as well: no event loop is needed to make one.

    Args:
        name: the label ``pool`` of its metrics.
        library: ``"httpx"`` or ``"httpx2"``, or the module; by default the one that is installed, httpx2 before httpx.
        options: those of ``AsyncClient``; ``verify``, ``cert``, ``http1``, ``http2``, ``limits``, ``proxy``,
            ``trust_env`` and ``leak_threshold`` go to the `HTTPTransport`.

    Returns:
        A genuine ``AsyncClient`` of the library. Its ``aclose()`` closes it and the running loop's connections.

    Raises:
        ConfigurationError: ``transport`` is among the options, the library is an unknown one, or the proxy cannot be.
        MissingExtraError: the library is not installed.
    """
    if "transport" in options:
        raise ConfigurationError("http_client() makes the transport itself: leave out transport=, or use AsyncClient")
    module = _library(library)
    own = inspect.signature(HTTPTransport).parameters.keys() & options.keys()
    transport = HTTPTransport(name=name, **{key: options.pop(key) for key in own})
    return module.AsyncClient(transport=transport, trust_env=transport.trust_env, **options)


class HTTPTransport:
    """The ``transport=`` of an ``httpx.AsyncClient`` or ``httpx2.AsyncClient``, with one set of connections a loop.

    >>> import httpx
    >>> client = httpx.AsyncClient(transport=HTTPTransport(name="llm", http2=False), timeout=30)

    Which of the two it serves is told by the request. The options mean what they mean in ``AsyncHTTPTransport``;
    ``proxy`` is a URL (or the library's ``Proxy``), and where there is none and ``trust_env`` is true, the
    environment's proxies, as they are now, are used. ``limits`` are for each loop and proxy.

    >>> import httpx
    >>> httpx.AsyncClient(transport=HTTPTransport(name="api", limits=httpx.Limits(max_connections=20)))
    <httpx.AsyncClient object at ...>

    A connection is in use from the moment that it is there until the response is closed. Over HTTP/2 requests share
    one: each of them is then counted as a connection in use.

    Args:
        name: the label ``pool`` of its metrics.
        leak_threshold: seconds; a response that is open for longer is logged once, with the stack of its request and
            the task, and counted in ``loopwatch_pool_leaks_total``. ``None``: nobody looks.

    Raises:
        ConfigurationError: options that cannot work.
    """

    def __init__(
        self,
        *,
        name: str = "http",
        leak_threshold: float | None = None,
        verify: ssl.SSLContext | str | bool = True,
        cert: Any = None,
        http1: bool = True,
        http2: bool = False,
        limits: Any = None,
        proxy: Any = None,
        trust_env: bool = True,
        uds: str | None = None,
        local_address: str | None = None,
        retries: int = 0,
        socket_options: Iterable[Any] | None = None,
    ) -> None:
        if not http1 and not http2:
            raise ConfigurationError("HTTPTransport needs http1=True or http2=True")
        if retries < 0:
            raise ConfigurationError(f"retries must be at least 0, not {retries!r}")
        _check_proxy(proxy)
        self.trust_env = trust_env
        self.leak_threshold = checked_threshold(leak_threshold)
        self.labels = PoolLabels(name, "httpx")
        self._proxy = proxy
        # Read once, as httpx does, so that all loops use the same ones. A Unix socket has no proxy.
        self._proxies = getproxies() if trust_env and proxy is None and uds is None else {}
        self._tls = {"verify": verify, "cert": cert, "trust_env": trust_env}
        self._tls_contexts: dict[str, ssl.SSLContext] = {}
        given = {"limits": limits, "uds": uds, "local_address": local_address, "socket_options": socket_options}
        self._options: dict[str, Any] = {
            **{key: value for key, value in given.items() if value is not None},
            "http1": http1,
            "http2": http2,
            "retries": retries,
        }
        self._loops: PerLoop[_Connections] = PerLoop(
            self._make_connections, dispose=_Connections.aclose, name=name, sockets=_Connections.sockets
        )
        STATS.add_source(self._gauges)

    async def handle_async_request(self, request: Any) -> Any:
        """Sends one request on the running loop's connections."""
        library = _library_of(request)
        proxy = self._proxy or self._proxy_for(request.url)
        if self._loops.ending():
            # The loop is being shut down: what is kept open now would never be closed.
            connections = self._make_connections()
            transport = self._make(library, proxy, keep=False)
        else:
            connections = self._loops.get()
            transport = connections.transports.get((library, str(proxy)))
            if transport is None:
                transport = connections.transports[library, str(proxy)] = self._make(library, proxy)
        extensions = request.extensions
        exchange = Exchange(connections.meter, extensions)
        request.extensions = exchange.extensions
        try:
            response = await transport.handle_async_request(request)
        except BaseException as error:
            exchange.failed(timed_out=isinstance(error, importlib.import_module(library).PoolTimeout))
            raise
        finally:
            request.extensions = extensions
        response.stream = guarded_stream(library, response.stream, exchange)
        return response

    async def aclose(self) -> None:
        """Closes the running loop's connections."""
        await self._loops.aclose()

    async def __aenter__(self) -> HTTPTransport:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<HTTPTransport {self.labels.pool!r} loops={len(self._loops)}>"

    def _make_connections(self) -> _Connections:
        return _Connections(meter_for(self.labels, self.leak_threshold))

    def _gauges(self) -> Iterable[Gauge]:
        loops = list(self._loops)
        pools = [(library, transport._pool) for loop in loops for (library, _), transport in [*loop.transports.items()]]
        idle = sum(connection.is_idle() for _, pool in pools for connection in pool.connections)
        limits = [limit for library, _ in pools if (limit := self._limit(library)) is not None]
        return pool_gauges(
            self.labels, [loop.meter for loop in loops], idle=idle, limit=sum(limits) if limits else None
        )

    def _limit(self, library: str) -> int | None:
        limits = self._options.get("limits") or _default_limits(library)
        return limits.max_connections  # type: ignore[no-any-return]

    def _proxy_for(self, url: Any) -> str | None:
        proxy = self._proxies.get(url.scheme) or self._proxies.get("all")
        if not proxy or _goes_direct(url, self._proxies.get("no", "")):
            return None
        return proxy if "://" in proxy else f"http://{proxy}"

    def _make(self, library: str, proxy: Any, *, keep: bool = True) -> Any:
        module = importlib.import_module(library)
        options = dict(self._options)
        if not keep:
            options["limits"] = module.Limits(max_keepalive_connections=0)
        if proxy is not None:
            options["proxy"] = proxy
        return module.AsyncHTTPTransport(verify=self._tls_context(module), **options)

    def _tls_context(self, module: ModuleType) -> ssl.SSLContext:
        # It is bound to no loop, and reading the certificates takes longer than most requests.
        context = self._tls_contexts.get(module.__name__)
        if context is None:
            context = self._tls_contexts[module.__name__] = module.create_ssl_context(**self._tls)
        return context


def _goes_direct(url: Any, no_proxy: str) -> bool:
    """Whether ``no_proxy`` (names, with or without a port, each standing for its subdomains too; ``*``) covers it."""
    hosts = (url.host.lower(), f"{url.host}:{url.port}".lower())
    for entry in no_proxy.lower().split(","):
        name = entry.strip().lstrip(".")
        if name == "*" or (name and any(host == name or host.endswith(f".{name}") for host in hosts)):
            return True
    return False


class _Connections:
    """One loop's transports, by library and proxy, and its meter."""

    __slots__ = ("meter", "transports")

    def __init__(self, meter: PoolMeter) -> None:
        self.meter = meter
        self.transports: dict[tuple[str, str], Any] = {}

    async def aclose(self) -> None:
        for transport in self.transports.values():
            await transport.aclose()

    def sockets(self) -> Iterator[SocketHandle]:
        """The driver table: beneath a transport lie httpcore's pool, its connections (a proxy's nested), a stream."""
        for transport in self.transports.values():
            for connection in transport._pool.connections:
                while (inner := getattr(connection, "_connection", None)) is not None:
                    connection = inner
                stream = getattr(connection, "_network_stream", None)
                sock = stream.get_extra_info("socket") if stream is not None else None
                if sock is not None:
                    yield TransportSocket(sock)


@cache
def _default_limits(library: str) -> Any:
    return inspect.signature(importlib.import_module(library).AsyncHTTPTransport).parameters["limits"].default


def _check_proxy(proxy: Any) -> None:
    """Refuses a URL that no library takes; of the URL itself, which may hold a password, only the scheme is told."""
    if isinstance(proxy, str):
        scheme, separator, rest = proxy.partition("://")
        if scheme not in PROXY_SCHEMES or not rest.rpartition("@")[2].strip("/"):
            told = f"one with the scheme {scheme!r}" if separator else "one without a scheme"
            schemes = ", ".join(f"{known}://host:port" for known in PROXY_SCHEMES)
            raise ConfigurationError(f"proxy must be a URL such as {schemes}, not {told} or without a host")


def _library_of(request: Any) -> str:
    for cls in type(request).__mro__:
        root = cls.__module__.partition(".")[0]
        if root in LIBRARIES:
            return root
    raise TypeError(f"HTTPTransport sends the requests of {' and '.join(LIBRARIES)}, not a {type(request)!r}")


def _library(library: ModuleType | str | None) -> ModuleType:
    if isinstance(library, ModuleType):
        library = library.__name__
    if library is not None and library not in LIBRARIES:
        raise ConfigurationError(f"library must be one of {', '.join(LIBRARIES)}, not {library!r}")
    for candidate in (library,) if library else LIBRARIES:
        try:
            return importlib.import_module(candidate)
        except ModuleNotFoundError as error:
            if error.name != candidate:
                raise
    if library == "httpx2":  # no extra of ours has it
        raise ConfigurationError(
            "library='httpx2' needs the package 'httpx2', which is not installed: pip install httpx2"
        )
    raise MissingExtraError("http_client", "httpx", "httpx")
