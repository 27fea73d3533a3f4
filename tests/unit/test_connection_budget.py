"""`budget`: the guarantee holds for every input, and what cannot be met is refused with the numbers."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopwatch.connection_budget import Budget, budget
from loopwatch.errors import BudgetError, ConfigurationError

FLEET = {"api": 4, "celery_logs": 4, "celery_content": 6, "celery_workflow": 4}


def test_the_reference_application() -> None:
    plan = budget(200, processes=FLEET)
    assert plan.pool_options() == plan.pool_options("api") == {"pool_size": 6, "max_overflow": 4, "budget": plan}
    assert (plan.processes, plan.reserved, plan.total) == (18, 20, 180)
    assert str(plan).startswith("api: 4 processes x (pool_size 6 + max_overflow 4) = 40; celery_logs: 4 processes x ")
    assert str(plan).endswith("; 180 of the 180 connections that 200 leave with 20 in reserve")


def test_a_number_of_processes_and_of_reserved_connections() -> None:
    plan = budget(100, processes=3, reserve=3)
    assert (plan.reserved, plan.share().connections) == (3, 32)
    assert plan.explain().startswith("3 processes x (pool_size 20 + max_overflow 12) = 96 of the 97")


def test_several_loops_a_process() -> None:
    plan = budget(100, processes=3, loops_per_process=4)
    assert (plan.pool_size, plan.max_overflow, plan.total) == (5, 2, 84)
    assert "3 processes x 4 loops x (pool_size 5 + max_overflow 2) = 84" in str(plan)


def test_the_smallest_pool_is_one_connection() -> None:
    plan = budget(20, processes=18)
    assert (plan.pool_size, plan.max_overflow) == (1, 0)


def test_a_role_of_weight_2_gets_twice_as_much_a_process() -> None:
    plan = budget(200, processes={"api": 4, "worker": 14}, weights={"api": 2}, reserve=0)
    api, worker = plan.share("api"), plan.share("worker")
    assert (api.connections, worker.connections) == (18, 9)
    assert plan.pool_options("api") == {"pool_size": 11, "max_overflow": 7, "budget": plan}
    assert plan.total == 4 * 18 + 14 * 9 == 198


def test_a_light_role_gets_one_connection_and_the_others_what_is_left() -> None:
    plan = budget(100, processes={"api": 2, "beat": 10}, weights={"beat": 0.01}, reserve=0)
    assert (plan.share("api").connections, plan.share("beat").connections) == (45, 1)


def test_what_rounding_leaves_goes_to_those_whose_turn_it_is() -> None:
    plan = budget(101, processes={"api": 10, "worker": 1}, weights={"api": 1}, reserve=0)
    assert (plan.share("api").connections, plan.share("worker").connections) == (9, 10)


def test_the_guarantee_holds_during_a_rolling_deploy() -> None:
    plan = budget(200, processes={"api": 4, "worker": 15}, surge=1.5)
    assert [share.at_once for share in plan.roles.values()] == [6, 23]
    assert (plan.processes, plan.pool_size + plan.max_overflow, plan.total) == (19, 6, 174)
    by_role = budget(200, processes={"api": 4, "worker": 15}, surge={"api": 2.0})
    assert [share.at_once for share in by_role.roles.values()] == [8, 15]
    assert budget(200, processes=10, surge=1.1).roles[""].at_once == 11  # 1.1 x 10 is 11.000000000000002


def test_where_the_roles_differ_one_is_to_be_named() -> None:
    plan = budget(200, processes={"api": 4, "worker": 14}, weights={"api": 2})
    with pytest.raises(ConfigurationError, match=r"name one of 'api', 'worker'"):
        plan.pool_options()
    with pytest.raises(ConfigurationError, match=r"no role 'beat': write one of 'api', 'worker'"):
        plan.pool_options("beat")


def test_a_fraction_is_rounded_up_but_not_by_floating_point() -> None:
    assert budget(15, processes=1).reserved == 2
    assert budget(100, processes=1, reserve=0.07).reserved == 7


def test_what_cannot_be_met_is_refused_with_the_numbers() -> None:
    with pytest.raises(BudgetError) as caught:
        budget(100, processes={"api": 50, "worker": 51})
    assert str(caught.value) == (
        "101 processes x 1 loops need 101 connections at one each, but limit 100 - reserve 10 leaves 90: start fewer "
        "processes (or a smaller surge), raise the server's limit to at least 111, or put a pooler (pgbouncer) in "
        "between"
    )
    with pytest.raises(BudgetError, match="100 processes x 2 loops need 200 connections at one each"):
        budget(200, processes=50, surge=2.0, loops_per_process=2)


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
        ({"surge": 0.5}, "surge"),
        ({"surge": float("inf")}, "surge"),
        ({"surge": {"api": 2}}, "surge has a role that processes has not: 'api'"),
        ({"weights": {"api": 2}}, "weights has a role that processes has not: 'api'"),
        ({"processes": {"api": 1}, "weights": {"api": 0}}, "weights"),
        ({"processes": {"api": 1}, "weights": {"api": float("nan")}}, "weights"),
        ({"processes": {"api": 1}, "weights": {"api": True}}, "weights"),
    ],
)
def test_a_bad_argument_is_named(changes: dict[str, Any], names: str) -> None:
    limit = changes.pop("limit", 200)
    with pytest.raises(ConfigurationError) as caught:
        budget(limit, **{"processes": 18, **changes})
    assert str(caught.value).startswith(names)
    assert not isinstance(caught.value, BudgetError)


ROLES = st.dictionaries(
    st.text(max_size=5),
    st.tuples(st.integers(0, 300), st.floats(0.01, 100), st.floats(1, 5)),  # processes, weight, surge
    min_size=1,
    max_size=6,
).filter(lambda roles: any(count for count, _, _ in roles.values()))


@given(
    limit=st.integers(1, 20_000),
    roles=ROLES,
    weighted=st.booleans(),
    reserve=st.one_of(st.floats(0, 0.99), st.just(0)),
    loops=st.integers(1, 4),
)
@settings(deadline=None)
def test_the_fleet_never_overruns_the_server_and_wastes_nothing(
    limit: int, roles: dict[str, tuple[int, float, float]], weighted: bool, reserve: float, loops: int
) -> None:
    weights = {role: weight for role, (_, weight, _) in roles.items()}
    at_once = {role: math.ceil(round(count * surge, 9)) for role, (count, _, surge) in roles.items()}
    pools = sum(at_once.values()) * loops
    try:
        plan = budget(
            limit,
            processes={role: count for role, (count, _, _) in roles.items()},
            reserve=reserve,
            loops_per_process=loops,
            weights=weights if weighted else None,
            surge={role: surge for role, (_, _, surge) in roles.items()},
        )
    except BudgetError:
        assert pools > limit - limit * reserve - 1
        return
    room = limit - plan.reserved
    assert plan.reserved >= limit * reserve - 1e-6
    held = 0
    for role, share in plan.roles.items():
        assert share.pool_size >= 1
        assert share.max_overflow >= 0
        assert share.at_once == at_once[role] >= share.processes
        held += at_once[role] * loops * (share.pool_size + share.max_overflow)
    assert plan.total == held <= room
    sizes = {role: share.connections for role, share in plan.roles.items()}
    if not weighted:
        assert len(set(sizes.values())) == 1
        assert held + pools > room  # one more each would not fit
        return
    present = [role for role in roles if at_once[role]]
    # No role misses a connection a process that all roles of its level and above could have had: at the level of the
    # next step of the role that is furthest below its due, the fleet would not fit.
    level = min(Fraction(sizes[role] + 1) / Fraction(weights[role]) for role in present)
    due = {role: max(1, math.floor(Fraction(weights[role]) * level)) for role in present}
    assert sum(at_once[role] * loops * max(due[role], sizes[role]) for role in present) > room
    # And the shares follow the weights, give or take one connection (and those who have just the one).
    for one in present:
        for other in present:
            if sizes[other] > 1:
                ratio = Fraction(weights[one]) / Fraction(weights[other])
                assert sizes[one] >= ratio * (sizes[other] - 1) - 2 - ratio


def test_a_role_may_have_two_turns_before_another_has_one() -> None:
    plan = budget(59, processes={"api": 1, "worker": 1}, reserve=0, weights={"worker": 11}, surge={"api": 2})
    assert {role: share.connections for role, share in plan.roles.items()} == {"api": 4, "worker": 51}
    assert plan.total == 59


def test_a_budget_is_frozen() -> None:
    plan = budget(200, processes=18)
    assert isinstance(plan, Budget)
    with pytest.raises(AttributeError):
        setattr(plan, "limit", 99)  # noqa: B010  # mypy refuses the plain assignment
    assert not hasattr(plan.roles, "__setitem__")
