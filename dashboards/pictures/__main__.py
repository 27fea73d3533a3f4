"""``python -m dashboards.pictures``: a run of sixteen minutes, and its pictures in ``docs/pictures``, light and dark.

With ``--draw`` there is no run: they are drawn anew from the recording of the last one.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from app.demo.fleet import FleetError
from app.demo.phases import DemoError
from app.demo.servers import ServerError
from dashboards.__main__ import DIRECTORY as BOARDS
from dashboards.pictures.chosen import PICTURES, boards_of
from dashboards.pictures.draw import draw
from dashboards.pictures.recording import Recording
from dashboards.pictures.run import run
from dashboards.pictures.theme import THEMES

DIRECTORY = Path(__file__).resolve().parents[2] / "docs" / "pictures"
SECONDS = 960
"""So long that the alerts that wait for five minutes fire, too."""
SHORTEST, LONGEST = 20, 3600


def draw_all(recording: Recording, directory: Path = DIRECTORY) -> list[Path]:
    """Draws every picture in every theme."""
    drawn = []
    for name, picture in PICTURES.items():
        for mode, theme in THEMES.items():
            canvas, _ = draw(recording, picture, theme)
            drawn.append(directory / f"{name}-{mode}.png")
            canvas.write(drawn[-1])
    return drawn


def main() -> int:
    """The exit code: 0, or 2 when the run could not be."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m dashboards.pictures", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long the run lasts: half for each setting")
    parser.add_argument("--recording", type=Path, default=DIRECTORY / "recording.json", help="where its data are kept")
    parser.add_argument("--draw", action="store_true", help="draw what the recording holds, without a run")
    given = parser.parse_args()
    if not SHORTEST <= given.seconds <= LONGEST:
        parser.error(f"--seconds: from {SHORTEST} to {LONGEST}, e.g. {SECONDS}")
    # As Ctrl-C: whatever ends the run, what it has started ends first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if not given.draw:
            boards = {path.stem: json.loads(path.read_text()) for path in BOARDS.glob("*.json")}
            run(boards_of(boards), given.seconds).write(given.recording)
        for path in draw_all(Recording.read(given.recording)):
            print(path)
    except (OSError, ValueError, ServerError, FleetError, DemoError) as error:
        print(f"pictures: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
