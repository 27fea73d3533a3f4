"""What counts as bad: each limit once, for the alert that fires at it and the panel that turns red there."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["THRESHOLDS", "Thresholds"]


@dataclass(frozen=True)
class Thresholds:
    """The limits. Seconds, shares from 0 to 1, or plain numbers, as each says."""

    conflict_recent_seconds: float = 600
    """A loop conflict younger than this is an alarm."""
    conflict_share: float = 0.01
    """Of the tasks of a queue, those that may meet a conflict."""
    conflict_count: float = 5
    """In five minutes, so that one conflict among three tasks is not "burning"."""
    orphaned_engines: float = 1
    """In a process: one may wait for the next look-up, which sweeps it."""
    utilization_warning: float = 0.7
    utilization: float = 0.9
    """Of the connections that a process's pool may hold."""
    wait_warning_seconds: float = 0.1
    wait_seconds: float = 0.5
    """For a connection, 95th percentile."""
    connect_warning_seconds: float = 0.25
    connect_seconds: float = 1
    """To open a connection, 95th percentile."""
    wait_rate: float = 0.1
    """Connections that a queue takes a second, so that one slow one in two minutes is not a percentile."""
    checkout_seconds: float = 900
    """How long one connection may be held."""
    database_warning: float = 0.8
    database: float = 0.9
    """Of the connections that the database takes."""
    notification_share: float = 0.05
    notification_count: float = 5
    """In five minutes."""
    failure_warning: float = 0.05
    failure_share: float = 0.1
    """Of a task's runs."""
    failure_count: float = 5
    """In five minutes."""
    drain_warning_seconds: float = 60
    drain_seconds: float = 600
    """How long a queue may take to empty at the rate at which its tasks are started."""
    oldest_task_warning_seconds: float = 60
    oldest_task_seconds: float = 300
    """How long a task may wait in its queue."""
    backlog: float = 10
    """Tasks that wait while nothing is started."""
    snapshot_warning_seconds: float = 15
    snapshot_seconds: float = 60
    """Age of a live worker's last snapshot (one comes each 5 s)."""
    monitor_lag_warning_seconds: float = 1
    monitor_lag_seconds: float = 10
    scrape_warning_seconds: float = 1
    """How long Prometheus may take to read the monitor's page."""
    running_seconds: float = 3600
    """How long a task may run."""
    beyond_buckets: float = 0.05
    """Of a task's runs, those longer than the last bucket: with more, its quantiles are not true."""
    slots: float = 0.9
    """Of a worker's slots, those in use."""
    loop_lag_warning_seconds: float = 0.1
    loop_lag_seconds: float = 0.5
    """How late an event loop runs what is due, 99th percentile."""
    stall_count: float = 5
    """Of a worker's loops, in ten minutes."""
    poll_seconds: float = 300
    """Age of the broker's or the workers' last answer."""
    monitor_memory_bytes: float = 256e6
    """Half of what docker-compose.yml gives it; with few workers it takes about 70 MB."""
    monitor_table_share: float = 0.9


THRESHOLDS = Thresholds()
"""Those that the shipped rules and dashboards are made with."""
