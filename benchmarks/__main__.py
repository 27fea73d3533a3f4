"""`make bench`: medians and ratios against the baseline of the same run, on an embedded PostgreSQL."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from app.demo.servers import ServerError, start_postgres
from benchmarks.harness import Comparison
from benchmarks.library import comparisons


def main() -> int:
    """Runs and prints every comparison; exit code 2 when there is no PostgreSQL."""
    with tempfile.TemporaryDirectory(prefix="loopwatch-bench-") as directory:
        try:
            server = start_postgres(Path(directory))
        except ServerError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 2
        try:
            for comparison in comparisons(server.url.replace("postgresql:", "postgresql+asyncpg:")):
                _print(comparison)
        finally:
            server.close()
    return 0


def _print(comparison: Comparison) -> None:
    print(f"\n{comparison.title}")
    print(f"  {'':24} {'median':>12} {'ratio':>8}")
    for name, median in comparison.medians.items():
        print(f"  {name:24} {median * 1e6:9.2f} us {median / comparison.baseline:7.2f}x", flush=True)


if __name__ == "__main__":
    sys.exit(main())
