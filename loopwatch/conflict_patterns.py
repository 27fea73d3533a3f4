"""The table of messages that mean a loop conflict, and how a text is searched for them.

The patterns were measured on real servers. They are ordered fragments, not regular expressions: a search takes linear
time however long the text (reprs of 200 kB are seen), and escaped quotes of a repr do not matter.

- *definite*: the message can mean nothing else;
- *ambiguous*: seen when a connection is shared over a fork, but also with a hand-made ``BEGIN`` or behind pgbouncer; a
  definite one anywhere in the chain wins;
- aftermath and concurrent use (``another operation is in progress``, ``readuntil() called while another coroutine``)
  have no row: alone they are no conflict, and where they are one, the definite error is in the chain.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

__all__ = ["AMBIGUOUS", "DEFINITE", "OWN", "Kind", "Pattern", "search"]

Kind = Literal["cross_loop", "closed_loop", "fork_shared"]
Pattern = tuple[Kind, tuple[str, ...]]
DEFINITE: Final[Sequence[Pattern]] = (
    ("cross_loop", ("got Future ", " attached to a different loop")),
    ("cross_loop", (" is bound to a different event loop",)),
    ("cross_loop", ("The future belongs to a different loop than the one specified as the loop argument",)),
    ("cross_loop", ("Non-thread-safe operation invoked on an event loop other than the current one",)),
    ("closed_loop", ("Event loop is closed",)),
    # uvloop; a Unix socket's transport says the same as a TCP one.
    ("closed_loop", ("unable to perform operation on <", "Transport closed=True ", "; the handler is closed")),
)
AMBIGUOUS: Final[Sequence[Pattern]] = (
    ("fork_shared", ("cannot use Connection.transaction() in a manually started transaction",)),
    ("fork_shared", ("prepared statement ", "__asyncpg_stmt_", " already exists")),
)
# `LoopConflictError` as a repr and as the last line of a traceback; its words tell the kind.
_WORDS: Final[Sequence[tuple[Kind, str]]] = (("fork_shared", "fork"), ("closed_loop", "closed"), ("cross_loop", ""))
_NAMES: Final = ("LoopConflictError(", "loopwatch.errors.LoopConflictError: ")
OWN: Final[Sequence[Pattern]] = [(kind, (name, word)) for kind, word in _WORDS for name in _NAMES]

_MARGIN = re.compile(r"^ *\| ?")
_ESCAPED_NEWLINE = re.compile(r"(?<!\\)\\n")


def search(text: str, patterns: Sequence[Pattern]) -> tuple[Kind, str] | None:
    """The last line of the text that matches a pattern."""
    # Nearly every error is none of ours: one look at the whole text, before it is taken apart.
    candidates = [pattern for pattern in patterns if _holds(text, pattern[1])]
    for line in _messages(text) if candidates else ():
        for kind, fragments in candidates:
            if _holds(line, fragments):
                return kind, line
    return None


def _holds(text: str, fragments: Sequence[str]) -> bool:
    """Whether the fragments occur in this order."""
    position = 0
    for fragment in fragments:
        position = text.find(fragment, position)
        if position < 0:
            return False
        position += len(fragment)
    return True


def _messages(text: str) -> list[str]:
    """The lines that are messages, the last (outermost) first; without source code and what SQLAlchemy quotes.

    A statement's parameters often hold another error's text: the row of a failed task is being written.
    """
    lines = []
    quoting = False
    in_group = "+---------------- 1 ----------------" in text
    for raw in _lines(text.strip()):
        line = _MARGIN.sub("", raw) if in_group else raw
        if line.startswith(("[SQL: ", "[parameters: ")):
            quoting = True
        elif line.startswith("(Background on this error") or "Traceback (most recent call last)" in line:
            quoting = False
        elif line and not quoting and not line[0].isspace() and not line.startswith("DETAIL: "):
            lines.append(line)
    return lines[::-1]


def _lines(text: str) -> list[str]:
    """The lines, of a repr too; what a repr within it quotes (twice escaped) stays in its line."""
    return text.split("\n") if "\n" in text else _ESCAPED_NEWLINE.split(text)
