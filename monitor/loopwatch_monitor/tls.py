"""TLS for the pages, as exporter-toolkit's ``tls_server_config`` says: Go's names in, Python's `ssl.SSLContext` out."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CIPHER_SUITES", "CLIENT_AUTH", "CURVES", "TLS", "VERSIONS", "TLSError", "TLSSettings", "make_tls"]

VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
"""Go's other two types ask for a certificate and verify nothing: that looks like a lock and is none."""
CURVES = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}
_TLS13_SUITES = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
CIPHER_SUITES = {
    **dict.fromkeys(_TLS13_SUITES, ""),  # not configurable, in Go as here
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}


class TLSError(Exception):
    """Settings that cannot work. ``key``: the one to be mended; the message holds no secret."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(problem)
        self.key = key


@dataclass(frozen=True, kw_only=True, slots=True)
class TLSSettings:
    """The section's values, by its own names; paths are absolute. ``cert``, ``key`` and ``client_ca`` are PEM texts."""

    cert: str = ""
    key: str = ""
    client_ca: str = ""
    cert_file: Path | None = None
    key_file: Path | None = None
    client_ca_file: Path | None = None
    client_auth_type: str = "NoClientCert"
    client_allowed_sans: tuple[str, ...] = ()
    cipher_suites: tuple[str, ...] = ()
    prefer_server_cipher_suites: bool = True
    curve_preferences: tuple[str, ...] = ()
    min_version: str = "TLS12"
    max_version: str = "TLS13"

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read beside the settings."""
        return tuple(path for path in (self.cert_file, self.key_file, self.client_ca_file) if path is not None)


@dataclass(frozen=True, slots=True)
class TLS:
    """What connections are made with."""

    context: ssl.SSLContext
    allowed_sans: frozenset[str] = frozenset()

    def admits(self, connection: ssl.SSLObject | None) -> bool:
        """Whether the client's certificate has one of the names that are allowed, if only some are."""
        if not self.allowed_sans:
            return True
        certificate = (connection.getpeercert() if connection is not None else None) or {}
        names = certificate.get("subjectAltName", ())
        return any(isinstance(name, tuple) and name[-1] in self.allowed_sans for name in names)


def make_tls(settings: TLSSettings) -> TLS:
    """Reads the certificates; raises `TLSError`."""
    _check(settings)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[settings.min_version]
    context.maximum_version = VERSIONS[settings.max_version]
    _load_certificate(context, settings)
    _load_client_ca(context, settings)
    _set_ciphers(context, settings)
    if settings.curve_preferences:
        context.set_ecdh_curve(CURVES[settings.curve_preferences[0]])
    return TLS(context, frozenset(settings.client_allowed_sans))


def _check(settings: TLSSettings) -> None:
    for name in ("cert", "key", "client_ca"):
        inline, path = getattr(settings, name), getattr(settings, f"{name}_file")
        if inline and path is not None:
            raise TLSError(name, f"stands beside {name}_file: give one of them")
        if name != "client_ca" and not inline and path is None:
            raise TLSError(f"{name}_file", f"is missing: TLS needs cert_file and key_file (or {name}, in place)")
    verifies = settings.client_auth_type != "NoClientCert"
    has_ca = bool(settings.client_ca) or settings.client_ca_file is not None
    if has_ca and not verifies:
        raise TLSError("client_auth_type", "is missing: client certificates need RequireAndVerifyClientCert")
    if verifies and not has_ca:
        raise TLSError("client_auth_type", f"{settings.client_auth_type} needs client_ca_file")
    if settings.client_allowed_sans and settings.client_auth_type != "RequireAndVerifyClientCert":
        raise TLSError("client_allowed_sans", "needs client_auth_type: RequireAndVerifyClientCert")
    if VERSIONS[settings.min_version] > VERSIONS[settings.max_version]:
        raise TLSError("max_version", f"{settings.max_version} is below min_version {settings.min_version}")


def _load_certificate(context: ssl.SSLContext, settings: TLSSettings) -> None:
    with (
        _as_file("cert", settings.cert, settings.cert_file) as cert,
        _as_file("key", settings.key, settings.key_file) as key,
    ):
        try:
            # An encrypted key must not make OpenSSL ask on the terminal.
            context.load_cert_chain(cert, key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            name = "cert_file" if settings.cert_file is not None else "cert"
            raise TLSError(
                name, f"and its key are no pair of PEM texts without a passphrase ({_reason(error)})"
            ) from None


def _no_password() -> str:
    raise ValueError("the key has a passphrase")


def _load_client_ca(context: ssl.SSLContext, settings: TLSSettings) -> None:
    context.verify_mode = CLIENT_AUTH[settings.client_auth_type]
    if settings.client_auth_type == "NoClientCert":
        return
    with _as_file("client_ca", settings.client_ca, settings.client_ca_file) as path:
        try:
            context.load_verify_locations(path)
        except ssl.SSLError as error:
            name = "client_ca_file" if settings.client_ca_file is not None else "client_ca"
            raise TLSError(name, f"holds no certificates in PEM ({_reason(error)})") from None


def _set_ciphers(context: ssl.SSLContext, settings: TLSSettings) -> None:
    if settings.prefer_server_cipher_suites:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    if not settings.cipher_suites:
        return
    names = [name for suite in settings.cipher_suites if (name := CIPHER_SUITES[suite])]
    if names:
        context.set_ciphers(":".join(names))
    elif settings.max_version == "TLS12":
        raise TLSError("cipher_suites", "has none of TLS 1.2, and max_version is TLS12")
    else:
        context.minimum_version = ssl.TLSVersion.TLSv1_3


@contextmanager
def _as_file(name: str, inline: str, path: Path | None) -> Iterator[str]:
    """A path that `ssl` can read: a PEM text in place stands in memory alone, never on a disk."""
    if path is not None:
        try:
            path.open("rb").close()
        except OSError as error:
            raise TLSError(f"{name}_file", f"{path}: {error.strerror}") from None
        yield str(path)
        return
    descriptor = os.memfd_create(f"loopwatch-{name}")
    try:
        os.write(descriptor, inline.encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else "") or str(error).partition(" (_ssl")[0]
