"""A roadmap's outline, and how it is read from what an LLM answers. Pure."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints, ValidationError

__all__ = ["Outline", "OutlineError", "parse_outline"]

Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=300)]


class OutlineError(Exception):
    """The LLM answered with something that is no outline."""


class Outline(BaseModel):
    """A roadmap before its content is written."""

    title: Title
    sections: list[Title] = Field(min_length=1, max_length=20)


def parse_outline(answer: str) -> Outline:
    """Reads an outline; models like to wrap their JSON in a Markdown fence or a sentence.

    Raises:
        OutlineError: there is no outline in it.
    """
    found = re.search(r"\{.*\}", answer, re.DOTALL)
    try:
        return Outline.model_validate_json(found.group() if found else answer)
    except ValidationError as error:
        reason = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise OutlineError(f"the LLM's answer is not an outline: {reason}") from None
