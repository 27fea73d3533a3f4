"""What the monitor costs, loses and keeps: `benchmarks.intake`, `.loss`, `.churn` and `.scrape` as comparisons of `make
bench`.

Rates are told as seconds an event, as everything here is: an event that takes 0.25 x EventReceiver's time is read at
four times its rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from benchmarks import churn, intake, loss, scrape
from benchmarks.harness import Comparison, Target, summarise

__all__ = ["comparisons"]

OURS = "loopwatch"
MEGABYTE = 1e6


def comparisons(directory: Path) -> Iterator[Comparison]:
    """Each measured when it is asked for. Servers keep their data beneath ``directory``.

    Raises:
        ServerMissingError: there is no Redis or no RabbitMQ.
    """
    yield _drained("Redis", intake.rates_on_redis(directory / "redis"), limit=1 / 3.5)
    yield _drained("RabbitMQ", intake.rates_on_rabbitmq(directory / "rabbitmq"), limit=1 / 1.15)
    yield _burst(directory / "burst")
    yield _burst_while_scraped(directory / "scraped")
    yield _flow("Redis", loss.steady(directory / "steady"))
    yield _flow("RabbitMQ", loss.on_rabbitmq(directory / "flow"))
    yield _in_flight(directory / "in-flight")
    yield _churn()
    yield _hundred_thousand_series(scrape.Fleet(20, 8, 3, every_queue=True))
    yield _small_fleets()
    yield _large_fleet(scrape.LARGE)


def _drained(broker: str, rates: intake.Rates, *, limit: float) -> Comparison:
    found = summarise(
        f"Processor time of an event, held back in {broker} and then drained",
        {name: [1 / rate for rate in rates[name]] for name in sorted(rates, key="EventReceiver".__ne__)},
    )
    target = Target(f"an event from {broker}, to EventReceiver's", found.ratios[OURS], limit, "x")
    return replace(found, targets=(target,))


def _burst(directory: Path) -> Comparison:
    flow = loss.burst(directory)
    found = summarise(
        f"A burst of {flow.sent:,} events at Redis' own buffer limits, an event",
        {"sent, wall-clock time": [flow.seconds / flow.sent], "taken in, processor time": [1 / flow.consumed.rate]},
    )
    return replace(
        found,
        targets=(
            Target(f"events lost of {flow.sent:,} in a burst", flow.lost, 0, ""),
            Target("the monitor's resident memory after it", flow.consumed.end_bytes, 60 * MEGABYTE, "bytes"),
        ),
    )


def _burst_while_scraped(directory: Path) -> Comparison:
    flow = loss.burst_while_scraped(directory)
    found = summarise(
        f"The same while a page of {flow.page_bytes / MEGABYTE:.0f} MB is scraped without pause",
        {"sent, wall-clock time of an event": [flow.seconds / flow.sent]},
    )
    return replace(
        found,
        targets=(
            Target("events lost of it while a large page is scraped", flow.lost, 0, ""),
            Target("the longest scrape meanwhile (Prometheus waits 10 seconds)", flow.longest_scrape * 1e6, 10e6, "us"),
        ),
    )


def _flow(broker: str, flows: Mapping[str, loss.Flow]) -> Comparison:
    ours = flows[OURS]
    found = summarise(
        f"{ours.sent:,} events at {ours.sent / ours.seconds:,.0f} a second from {broker}, processor time of an event",
        {name: [1 / flow.consumed.rate] for name, flow in flows.items()},
    )
    return replace(
        found,
        lost={name: flow.lost for name, flow in flows.items()},
        targets=(Target(f"events lost of {ours.sent:,} in a steady flow from {broker}", ours.lost, 0, ""),),
    )


def _in_flight(directory: Path) -> Comparison:
    tasks = 30_000
    wrong = loss.wrong_in_flight(directory, tasks=tasks)
    what = f"tasks of {tasks:,} in flight whose name or queue is wrong"
    return Comparison("Tasks in flight", {}, {}, (Target(what, wrong, 0, ""),))


def _churn() -> Comparison:
    found, events = churn.apart(**churn.SMALL), churn.SMALL["events"]
    half, end = found.tenths[4], found.tenths[-1]
    return Comparison(
        "Memory under churn",
        {},
        {},
        (
            Target(f"resident memory after half of {events:,} events of churn", half, 60 * MEGABYTE, "bytes"),
            Target("resident memory after all of them", end, 60 * MEGABYTE, "bytes"),
            Target("the one to the other", end / half, 1.05, "x"),
        ),
    )


def _hundred_thousand_series(fleet: scrape.Fleet) -> Comparison:
    page = scrape.measure(fleet)
    ours = page.seconds / page.series * 100_000
    found = summarise(
        "Render 100,000 series, processor time",
        {"prometheus_client": [scrape.prometheus_client_seconds()], OURS: [ours]},
    )
    return replace(found, targets=(Target("render 100,000 series", ours * 1e6, 80_000, "us"),))


def _small_fleets() -> Comparison:
    pages = {name: scrape.measure_under_load(fleet) for name, fleet in scrape.SMALL.items()}
    found = summarise(
        "A scrape of a small fleet while 10,000 events a second flow",
        {
            f"{name}, {which}": [seconds]
            for name, page in pages.items()
            for which, seconds in (("p50", page.p50), ("p99", page.p99))
        },
    )
    targets = (
        Target(f"a scrape under load, p99: {name}", page.p99 * 1e6, 20_000, "us") for name, page in pages.items()
    )
    return replace(found, targets=(*targets,))


def _large_fleet(fleet: scrape.Fleet) -> Comparison:
    page = scrape.measure(fleet)
    # The claim is for 600,000 series; each of ours has all its buckets.
    share = 600_000 / page.series
    found = summarise(
        f"The page of 500 tasks x 50 workers, {page.series:,} series, processor time",
        {"rendered": [page.seconds], "rendered and compressed": [page.gzip_seconds]},
    )
    return replace(
        found,
        targets=(
            Target("600,000 series rendered and compressed", page.gzip_seconds * share * 1e6, 400_000, "us"),
            Target("their page, compressed", page.gzip_bytes * share, 5 * MEGABYTE, "bytes"),
        ),
    )
