"""`make bench`: medians and ratios against the baseline of the same run, on servers of its own; the results go to
`benchmarks/results.json` and into `docs/benchmarks.md`."""

from __future__ import annotations

import json
import sys
import tempfile
from itertools import chain
from pathlib import Path

from app.demo.servers import ServerError, start_postgres
from benchmarks import library, monitor
from benchmarks.harness import Comparison
from benchmarks.results import as_json, as_markdown, machine, replace_between

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "benchmarks.md"


def main() -> int:
    """Runs, prints and writes every comparison; exit code 2 when a server is missing."""
    where, found = machine(), list[Comparison]()
    with tempfile.TemporaryDirectory(prefix="loopwatch-bench-") as directory:
        try:
            server = start_postgres(Path(directory))
        except ServerError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 2
        url = server.url.replace("postgresql:", "postgresql+asyncpg:")
        try:
            for comparison in chain(library.comparisons(url), monitor.comparisons(Path(directory))):
                _print(comparison)
                found.append(comparison)
        except ServerError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 2
        finally:
            server.close()
    results = as_json(found, where)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    PAGE.write_text(replace_between(PAGE.read_text(), as_markdown(results)))
    print(f"\nwritten: {RESULTS.relative_to(ROOT)}, {PAGE.relative_to(ROOT)}")
    return 0


def _print(comparison: Comparison) -> None:
    print(f"\n{comparison.title}")
    for name, median in comparison.medians.items():
        lost = f" {comparison.lost[name]:10,} lost" if comparison.lost else ""
        print(f"  {name:36} {median * 1e6:10.2f} us {comparison.ratios[name]:8.2f}x{lost}", flush=True)
    for target in comparison.targets:
        verdict = "ok" if target.reached else "MISSED"
        print(f"  {verdict}: {target.what}: {target.measured:.3g} {target.unit}, at most {target.limit:g}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
