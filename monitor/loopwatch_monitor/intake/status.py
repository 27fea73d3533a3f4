"""What an intake tells of its connection to the broker."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BrokerStatus"]


@dataclass(slots=True)
class BrokerStatus:
    """Written by the intake's thread alone, read by anyone. ``lost``: connections that were lost since the start."""

    up: bool = False
    lost: int = 0
