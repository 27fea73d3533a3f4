"""A real MariaDB for the tests of MySQL's drivers: its own data directory, a free port of the loopback interface, one
user with a random password; gone when it is closed."""

from __future__ import annotations

import secrets
import shutil
import signal
import subprocess
from pathlib import Path

from app.demo.servers import HOST, Server, ServerError, ServerMissingError, _accepts, _start, _unprivileged

__all__ = ["start_mariadb"]

USER = "loopwatch"
BINARY = Path("/usr/sbin/mariadbd")  # not on the path of an ordinary user


def start_mariadb(directory: Path) -> Server:
    """Starts MariaDB with a new data directory in ``directory``; durable it is not.

    Where we are root, ``directory`` must stand where other users can reach it, such as in ``/tmp``.

    Raises:
        ServerMissingError: the Debian package mariadb-server is not installed.
        ServerError: it did not start.
    """
    install = shutil.which("mariadb-install-db")
    if not BINARY.exists() or install is None:
        raise ServerMissingError("MariaDB is missing: install the Debian package mariadb-server")
    data = directory / "data"
    data.mkdir(parents=True)
    identity = _unprivileged(data)
    password = secrets.token_urlsafe(16)
    # By a file that only the server's user can read: it lies in the data directory, which is closed to others.
    data.chmod(0o700)
    accounts = data / "accounts.sql"
    accounts.touch(mode=0o600)
    accounts.write_text(
        f"FLUSH PRIVILEGES;\nCREATE USER {USER}@'{HOST}' IDENTIFIED BY '{password}';\n"
        f"GRANT ALL ON *.* TO {USER}@'{HOST}';\n"
        "DELETE FROM mysql.global_priv WHERE User = 'root' OR User = '';\n"
    )
    if identity:
        shutil.chown(accounts, identity["user"])
    made = subprocess.run(
        [
            install,
            "--no-defaults",
            f"--datadir={data}",
            "--skip-test-db",
            "--skip-name-resolve",
            "--auth-root-authentication-method=normal",
            f"--extra-file={accounts}",
        ],
        cwd=data,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **identity,
    )
    accounts.unlink()
    if made.returncode:
        raise ServerError(f"MariaDB's data directory could not be made: {made.stdout[-2000:]}")

    def command(port: int) -> list[str]:
        options = {
            "datadir": data,
            "socket": data / "socket",
            "pid-file": data / "pid",
            "bind-address": HOST,
            "port": port,
            "max-connections": 200,
            "innodb-buffer-pool-size": "16M",
            "innodb-flush-log-at-trx-commit": 0,
            "skip-name-resolve": 1,
        }
        return [str(BINARY), "--no-defaults", *(f"--{name}={value}" for name, value in options.items())]

    process, port = _start("MariaDB", command, ready=_accepts, log=directory / "mariadb.log", identity=identity)
    # SIGKILL: what it would tidy up is thrown away.
    return Server(f"mysql://{USER}:{password}@{HOST}:{port}/", process.pid, process, signal.SIGKILL)
