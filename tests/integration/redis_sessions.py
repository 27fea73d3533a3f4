"""What a Redis says of a test's sessions: the only witness that counts for leaks."""

from __future__ import annotations

import time
from typing import Any

import redis

__all__ = ["Sessions"]


class Sessions:
    """The sessions that clients named ``app`` have on the server."""

    def __init__(self, url: str, **options: Any) -> None:
        self._admin = redis.Redis.from_url(url, **options)

    def __call__(self) -> int:
        return len(self._clients())

    def _clients(self) -> list[dict[str, str]]:
        return [client for client in self._admin.client_list() if client["name"] == "app"]

    def become(self, number: int, seconds: float = 10) -> bool:
        """Waits until there are so many; the server notices a closed socket a little later."""
        deadline = time.monotonic() + seconds
        while self() != number and time.monotonic() < deadline:
            time.sleep(0.01)
        return self() == number

    def kill(self) -> None:
        """Ends them, as a failover would."""
        for client in self._clients():
            self._admin.client_kill_filter(_id=client["id"])

    def close(self) -> None:
        self._admin.close()
