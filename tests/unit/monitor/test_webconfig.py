"""exporter-toolkit's file: what is understood, and that what is not is named by line and key, without its value."""

from __future__ import annotations

import re
import ssl
import subprocess
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from loopwatch_monitor.rate_limit import RateLimit
from loopwatch_monitor.webconfig import WebConfig, WebConfigError, read_web_config
from tests.integration.certificates import self_signed

HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls"))


def read(directory: Path, text: str) -> WebConfig:
    path = directory / "web.yml"
    path.write_text(text)
    return read_web_config(path)


def read_tls(pem: Path, directory: Path, *lines: str) -> ssl.SSLContext:
    both = [f"cert_file: {pem}", f"key_file: {pem}"]
    config = read(directory, "tls_server_config:\n" + "".join(f"  {line}\n" for line in [*both, *lines]))
    assert config.tls is not None
    return config.tls.context


@pytest.mark.parametrize("text", ["", "# nothing", "tls_server_config: {}", "basic_auth_users:\nhttp_server_config:\n"])
def test_nothing_is_plain_http_for_everybody(text: str, tmp_path: Path) -> None:
    assert read(tmp_path, text) == WebConfig()


def test_everything(pem: Path, tmp_path: Path) -> None:
    (tmp_path / "server.pem").write_bytes(pem.read_bytes())
    config = read(
        tmp_path,
        f"""
tls_server_config:
  cert_file: server.pem
  key_file: {pem}
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: {pem}
  client_allowed_sans: ["127.0.0.1"]
  min_version: TLS13
http_server_config:
  http2: false
  headers:
    Strict-Transport-Security: max-age=3600
    X-Frame-Options: deny
    X-XSS-Protection: 1
basic_auth_users:
  prometheus: {HASH}
  "007": {HASH}
rate_limit: {{interval: 1m0.5s, burst: 20}}
""",
    )
    assert config.tls is not None
    assert config.tls.context.verify_mode is ssl.CERT_REQUIRED
    assert config.tls.context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert config.tls.allowed_sans == {"127.0.0.1"}
    assert config.files == (tmp_path / "server.pem", pem, pem)
    assert config.headers == {
        "Strict-Transport-Security": "max-age=3600",
        "X-Frame-Options": "deny",
        "X-XSS-Protection": "1",
    }
    assert config.users == {"prometheus": HASH.encode(), "007": HASH.encode()}
    assert config.rate_limit == RateLimit(60.5, 20)


def test_the_example(pem: Path, tmp_path: Path) -> None:
    example = Path(__file__).parents[3] / "monitor" / "web-config.yml"
    for name in ("server.crt", "server.key", "clients.crt"):
        (tmp_path / name).write_bytes(pem.read_bytes())
    text = example.read_text()
    plain, mutual = read(tmp_path, text), read(tmp_path, re.sub("(?m)^  # client", "  client", text))
    assert list(plain.users) == list(mutual.users) == ["prometheus"]
    assert plain.tls is not None
    assert mutual.tls is not None
    assert mutual.tls.allowed_sans == {"prometheus.example.org"}


def test_tls_is_1_2_at_least(pem: Path, tmp_path: Path) -> None:
    assert read_tls(pem, tmp_path).minimum_version is ssl.TLSVersion.TLSv1_2


def test_texts_in_place(pem: Path, tmp_path: Path) -> None:
    text = pem.read_text().replace("\n", "\n    ")
    assert read(tmp_path, f"tls_server_config:\n  cert: |\n    {text}\n  key: |\n    {text}\n").tls is not None


def test_cipher_suites_by_gos_names(pem: Path, tmp_path: Path) -> None:
    context = read_tls(pem, tmp_path, "cipher_suites: [TLS_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]")
    of_tls12 = {cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3"}
    assert of_tls12 == {"ECDHE-RSA-AES256-GCM-SHA384"}
    only_newer = read_tls(pem, tmp_path, "cipher_suites: [TLS_AES_128_GCM_SHA256]")
    assert only_newer.minimum_version is ssl.TLSVersion.TLSv1_3


def test_whose_order_of_ciphers_counts(pem: Path, tmp_path: Path) -> None:
    assert read_tls(pem, tmp_path).options & ssl.OP_CIPHER_SERVER_PREFERENCE
    clients = read_tls(pem, tmp_path, "prefer_server_cipher_suites: false")
    assert not clients.options & ssl.OP_CIPHER_SERVER_PREFERENCE


def test_what_is_not_done_is_warned_of(pem: Path, tmp_path: Path) -> None:
    with capture_logs() as logs:
        read_tls(pem, tmp_path, "curve_preferences: [CurveP384, X25519]")
        read(tmp_path, "http_server_config: {http2: true}")
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("curve_preferences_cut", "warning"),
        ("http2_ignored", "warning"),
    ]


TLS = "tls_server_config:\n  cert_file: PEM\n  key_file: PEM\n"
PROBLEMS = {
    "tls_server_confg: {}": (1, "tls_server_confg is unknown; known are tls_server_config, http_server_config"),
    "\nrate_limit:\n  brust: 1": (3, "rate_limit.brust is unknown; known are interval, burst"),
    "rate_limit: {}\nrate_limit: {}": (2, "rate_limit is there twice"),
    "- a": (1, "the file must be a mapping"),
    "rate_limit: 5": (1, "rate_limit must be a mapping"),
    "rate_limit: {interval: 1}": (1, "rate_limit.interval must be a duration like 1s or 500ms"),
    "rate_limit: {interval: 1 s}": (1, "rate_limit.interval must be a duration"),
    "rate_limit: {interval: 1s, burst: 0}": (1, "rate_limit.burst must be 1 at least"),
    "rate_limit: {interval: 1s, burst: -1}": (1, "rate_limit.burst must be a whole number"),
    f"rate_limit: {{interval: 1s, burst: {'9' * 400}}}": (1, "rate_limit.burst must be a whole number"),
    "rate_limit: {interval: 1s, burst: 1.5}": (1, "rate_limit.burst must be a whole number"),
    "http_server_config:\n  http2: 1": (2, "http_server_config.http2 must be true or false"),
    "http_server_config:\n  headers:\n    Server: x": (3, "http_server_config.headers.Server is unknown; known are"),
    "http_server_config:\n  headers:\n    X-Frame-Options: no": (3, "headers.X-Frame-Options must be a text"),
    "http_server_config:\n  headers:\n    X-Frame-Options: all": (3, "X-Frame-Options must be one of deny, sameorigin"),
    'http_server_config:\n  headers:\n    X-XSS-Protection: "a\\nb"': (3, "must be one line of printable text"),
    "http_server_config:\n  headers:\n    X-XSS-Protection: [1]": (3, "headers.X-XSS-Protection must be a text"),
    "basic_auth_users:\n  a: hunter2": (2, "basic_auth_users.a must be a bcrypt hash"),
    "basic_auth_users:\n  a: 12": (2, "basic_auth_users.a must be a text (quote it)"),
    f"basic_auth_users:\n  a: $2b$10${'a' * 53}": (2, "basic_auth_users.a must be a bcrypt hash"),  # no such salt
    "basic_auth_users: [a]": (1, "basic_auth_users must be a mapping"),
    "tls_server_config:\n  cert_file: PEM": (2, "tls_server_config.key_file is missing"),
    "tls_server_config:\n  key_file: PEM": (2, "tls_server_config.cert_file is missing"),
    "tls_server_config:\n  cert_file: /nowhere\n  key_file: PEM": (2, "cert_file /nowhere: No such file"),
    "tls_server_config:\n  cert_file: PEM\n  key: hunter2": (2, "cert_file and its key are no pair of PEM texts"),
    f"{TLS}  key: hunter2": (4, "tls_server_config.key stands beside key_file"),
    f"{TLS}  min_version: TLS11": (4, "tls_server_config.min_version must be one of TLS12, TLS13"),
    f"{TLS}  max_version: TLS10": (4, "tls_server_config.max_version must be one of TLS12, TLS13"),
    f"{TLS}  min_version: TLS13\n  max_version: TLS12": (5, "tls_server_config.max_version TLS12 is below"),
    f"{TLS}  client_auth_type: RequireAnyClientCert": (4, "must be one of NoClientCert, VerifyClientCertIfGiven"),
    f"{TLS}  client_auth_type: RequireAndVerifyClientCert": (4, "RequireAndVerifyClientCert needs client_ca_file"),
    f"{TLS}  client_ca_file: PEM": (2, "client_auth_type is missing"),
    f"{TLS}  client_auth_type: VerifyClientCertIfGiven\n  client_ca: hunter2": (5, "client_ca holds no certificates"),
    f"{TLS}  client_allowed_sans: [a]": (4, "client_allowed_sans needs client_auth_type"),
    f"{TLS}  client_allowed_sans: a": (4, "client_allowed_sans must be a list"),
    f"{TLS}  cipher_suites:\n  - TLS_AES_128_GCM_SHA256\n  - TLS_RSA_WITH_RC4_128_SHA": (6, "must hold of these: TLS_"),
    f"{TLS}  cipher_suites: [TLS_AES_128_GCM_SHA256]\n  max_version: TLS12": (4, "has none of TLS 1.2"),
    f"{TLS}  curve_preferences: [P256]": (4, "curve_preferences must hold of these: CurveP256"),
    "rate_limit: {interval: 1s\nhunter2": (2, "is no YAML: "),
    "a: &a\n  <<: *a": (1, "a is unknown"),
    "tls_server_config:\n  <<: {cert: hunter2}": (2, "tls_server_config.<< is unknown"),
}


@pytest.mark.parametrize("text", PROBLEMS)
def test_a_problem_is_named_by_line_and_key(text: str, pem: Path, tmp_path: Path) -> None:
    line, problem = PROBLEMS[text]
    with pytest.raises(WebConfigError) as caught:
        read(tmp_path, text.replace("PEM", str(pem)))
    assert str(caught.value).startswith(f"{tmp_path / 'web.yml'}, line {line}: ")
    assert problem in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [b"\xff\xfe\xff", b"a\0b", b"[" * 5000, b" " * (1024 * 1024 + 1)],
    ids=["not UTF-8", "a NUL", "nested", "too long"],
)
def test_what_is_no_text_at_all(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "web.yml"
    path.write_bytes(data)
    with pytest.raises(WebConfigError, match=r"web\.yml"):
        read_web_config(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WebConfigError, match=r"web\.yml: cannot be read: No such file"):
        read_web_config(tmp_path / "web.yml")


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked(pem: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked.pem"
    command = ["openssl", "rsa", "-aes128", "-passout", "pass:x", "-in", str(pem), "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(WebConfigError, match="without a passphrase"):
        read(tmp_path, f"tls_server_config: {{cert_file: {pem}, key_file: {locked}}}")
