"""`budget`: the guarantee holds for every input, and what cannot be met is refused with the numbers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwatch.connection_budget import Budget, budget
from loopwatch.errors import BudgetError, ConfigurationError

FLEET = {"api": 4, "celery_logs": 4, "celery_content": 6, "celery_workflow": 4}


def test_the_reference_application() -> None:
    plan = budget(200, processes=FLEET)
    assert plan.pool_options() == {"pool_size": 6, "max_overflow": 4}
    assert (plan.processes, plan.reserved, plan.per_process, plan.total) == (18, 20, 10, 180)
    assert str(plan) == (
        "18 processes (api 4, celery_logs 4, celery_content 6, celery_workflow 4) x (pool_size 6 + max_overflow 4) "
        "= 180 of the 180 connections that 200 leave with 20 in reserve"
    )


def test_a_number_of_processes_and_of_reserved_connections() -> None:
    plan = budget(100, processes=3, reserve=3)
    assert (plan.reserved, plan.per_process) == (3, 32)
    assert plan.explain().startswith("3 processes x (pool_size 20 + max_overflow 12) = 96 of the 97")


def test_several_loops_a_process() -> None:
    plan = budget(100, processes=3, loops_per_process=4)
    assert plan.pool_options() == {"pool_size": 5, "max_overflow": 2}
    assert (plan.per_process, plan.total) == (28, 84)
    assert "3 processes x 4 loops x (pool_size 5 + max_overflow 2) = 84" in str(plan)


def test_the_smallest_pool_is_one_connection() -> None:
    assert budget(20, processes=18).pool_options() == {"pool_size": 1, "max_overflow": 0}


def test_a_fraction_is_rounded_up_but_not_by_floating_point() -> None:
    assert budget(15, processes=1).reserved == 2
    assert budget(100, processes=1, reserve=0.07).reserved == 7


def test_what_cannot_be_met_is_refused_with_the_numbers() -> None:
    with pytest.raises(BudgetError) as caught:
        budget(100, processes={"api": 50, "worker": 51})
    assert str(caught.value) == (
        "101 processes x 1 loops need 101 connections at one each, but limit 100 - reserve 10 leaves 90: start fewer "
        "processes, raise the server's limit to at least 111, or put a pooler (pgbouncer) in between"
    )


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 20.0}, "limit"),
        ({"limit": True}, "limit"),
        ({"processes": 0}, "processes"),
        ({"processes": {}}, "processes"),
        ({"processes": {"api": 0}}, "processes"),
        ({"processes": {"api": -1, "worker": 2}}, "processes['api']"),
        ({"processes": {"api": 1.5}}, "processes['api']"),
        ({"reserve": 1.0}, "reserve"),
        ({"reserve": -0.1}, "reserve"),
        ({"reserve": float("nan")}, "reserve"),
        ({"reserve": 200}, "reserve"),
        ({"reserve": -1}, "reserve"),
        ({"loops_per_process": 0}, "loops_per_process"),
    ],
)
def test_a_bad_argument_is_named(changes: dict[str, Any], names: str) -> None:
    limit = changes.pop("limit", 200)
    with pytest.raises(ConfigurationError) as caught:
        budget(limit, **{"processes": 18, **changes})
    assert str(caught.value).startswith(names)
    assert not isinstance(caught.value, BudgetError)


@given(
    limit=st.integers(1, 5000),
    roles=st.dictionaries(st.text(), st.integers(0, 300), min_size=1).filter(lambda roles: sum(roles.values()) > 0),
    reserve=st.one_of(st.floats(0, 0.99), st.just(0)),
    loops=st.integers(1, 8),
)
def test_the_fleet_never_overruns_the_server(limit: int, roles: dict[str, int], reserve: float, loops: int) -> None:
    pools = sum(roles.values()) * loops
    try:
        plan = budget(limit, processes=roles, reserve=reserve, loops_per_process=loops)
    except BudgetError:
        assert pools > limit - limit * reserve - 1
        return
    assert plan.pool_size >= 1
    assert plan.max_overflow >= 0
    assert plan.reserved >= limit * reserve - 1e-6
    assert plan.total == pools * (plan.pool_size + plan.max_overflow) <= limit - plan.reserved
    # Nothing is wasted either: one more connection each would not fit.
    assert plan.total + pools > limit - plan.reserved


def test_a_budget_is_frozen() -> None:
    plan = budget(200, processes=18)
    assert isinstance(plan, Budget)
    with pytest.raises(AttributeError):
        setattr(plan, "pool_size", 99)  # noqa: B010  # mypy refuses the plain assignment
    assert not hasattr(plan.roles, "__setitem__")
