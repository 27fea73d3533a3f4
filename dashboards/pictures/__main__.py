"""``python -m dashboards.pictures``: a run, and the pictures of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from dashboards.__main__ import DIRECTORY
from dashboards.pictures.run import run

if __name__ == "__main__":
    boards = {path.stem: json.loads(path.read_text()) for path in sorted(DIRECTORY.glob("*.json"))}
    run(boards, float(sys.argv[2])).write(Path(sys.argv[1]))
