"""The LLM: one client a configuration, safe on every loop, and what we ask it.

LangChain keeps its default asynchronous HTTP client for the whole process, so even a new ``ChatOpenAI`` a loop shares
connections between loops. What must be per loop is the HTTP transport: `loopwatch.http_client` sees to that.
"""

from __future__ import annotations

from functools import partial

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI

import loopwatch
from app.core.config import Settings, get_settings
from app.services.outline import Outline, parse_outline

__all__ = ["generate_outline", "write_section"]

OUTLINE_PROMPT = (
    "You plan learning roadmaps. Answer with a JSON object alone: "
    '{"title": "...", "sections": ["...", ...]}, three to eight sections, in the order in which to learn them.'
)
SECTION_PROMPT = "You write one section of a learning roadmap: what to learn, why, and one exercise. Plain text."


def _make_llm(settings: Settings) -> ChatOpenAI:
    llm = partial(
        ChatOpenAI,
        base_url=settings.llm_base_url,
        api_key=settings.llm_api_key,
        model=settings.llm_model,
        timeout=settings.llm_timeout,
    )
    if settings.app_resources == "loop_aware":
        return llm(http_async_client=loopwatch.http_client(name="llm"))
    return llm()


_llm = _make_llm(get_settings())
_json_llm = _llm.bind(response_format={"type": "json_object"})


async def generate_outline(query: str) -> Outline:
    """A roadmap for what somebody wants to learn; raises `OutlineError` and openai's errors."""
    answer = await _json_llm.ainvoke([SystemMessage(OUTLINE_PROMPT), HumanMessage(query)])
    return parse_outline(str(answer.text))


async def write_section(query: str, title: str) -> str:
    """The text of one section; raises openai's errors."""
    answer = await _llm.ainvoke([SystemMessage(SECTION_PROMPT), HumanMessage(f"{query}: {title}")])
    return str(answer.text)
