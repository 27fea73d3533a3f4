"""What the API accepts, and the field that it names otherwise."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.requests import BadRequestError, ReviewRequest, RoadmapRequest, parse


def test_a_query_is_stripped() -> None:
    assert parse(RoadmapRequest, b'{"query": "  Learn Python\\n", "other": 1}').query == "Learn Python"


def test_feedback_may_be_missing() -> None:
    assert parse(ReviewRequest, b'{"approved": false}').feedback is None
    assert parse(ReviewRequest, b'{"approved": false, "feedback": null}').feedback is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"\xff", "body"),
        (b"null", "body"),
        (b'"approved"', "body"),
        (b"{}", "approved"),
        (b'{"approved": "yes"}', "approved"),
        (b'{"approved": 1}', "approved"),
        (b'{"approved": true, "feedback": 1}', "feedback"),
        (json.dumps({"approved": True, "feedback": "x" * 2001}).encode(), "feedback"),
    ],
)
def test_the_field_that_is_wrong_is_named(body: bytes, field: str) -> None:
    with pytest.raises(BadRequestError) as raised:
        parse(ReviewRequest, body)
    assert raised.value.field == field
    assert str(raised.value)


@given(
    st.binary()
    | st.recursive(
        st.none() | st.text() | st.integers(),
        lambda children: st.dictionaries(st.sampled_from(["query", "x"]), children),
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_is_sent_is_a_request_or_a_named_error(body: bytes) -> None:
    with suppress(BadRequestError):  # any other error would leave
        query = parse(RoadmapRequest, body).query
        assert 1 <= len(query) <= 500
        assert "\0" not in query
        query.encode()
