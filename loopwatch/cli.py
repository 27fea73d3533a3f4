"""The command ``loopwatch``: finds the command that is asked for among the installed ones and runs it.

Commands are entry points of the group ``loopwatch.commands``, so that the library's command line reaches the monitor
without importing it. Each is a function that takes the rest of the arguments and returns an exit code.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

from loopwatch._version import __version__

__all__ = ["main"]

GROUP = "loopwatch.commands"
_EXTRAS = {"monitor": "monitor"}


def main(arguments: list[str] | None = None) -> int:
    """Runs ``loopwatch <command> ...``; returns the exit code (2 for a command line that cannot be run)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    commands = {point.name: point for point in entry_points(group=GROUP)}
    usage = f"usage: loopwatch {{{','.join(sorted(commands))}}} [options]; loopwatch <command> --help says more"
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"loopwatch {__version__}")
        return 0
    name, *rest = arguments
    if name not in commands:
        print(f"loopwatch: there is no command {name!r}; {usage}", file=sys.stderr)
        return 2
    try:
        run = commands[name].load()
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(name)
        if extra is None or error.name is None or error.name.startswith("loopwatch"):
            raise
        print(
            f"loopwatch {name} needs the package {error.name!r}, which is not installed: "
            f"pip install 'loopwatch[{extra}]'",
            file=sys.stderr,
        )
        return 2
    return int(run(rest))


if __name__ == "__main__":
    sys.exit(main())
