"""``python -m app.llm_server --port N``: a small OpenAI-compatible server for the demo and the tests.

It answers ``/v1/chat/completions`` as the OpenAI client and LangChain's ``ChatOpenAI`` expect, without a model: the
same question always gets the same answer. A request for a JSON object gets a roadmap's outline, any other one a
section's text. Any real server is a setting away (``LLM_BASE_URL``).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import time
from typing import Any

from aiohttp import web

__all__ = ["answer", "create_app"]

DELAY = web.AppKey("delay", float)
STEPS = (
    "First steps with",
    "The ideas behind",
    "Tools for",
    "A first project with",
    "Mistakes to avoid in",
    "Testing and measuring",
    "Going deeper into",
    "Sharing what you know of",
)


def answer(topic: str, *, as_json: bool) -> str:
    """What the "model" says: an outline of three to six sections as JSON, or a section's text."""
    seed = hashlib.sha256(topic.encode(errors="replace")).digest()[0]
    if not as_json:
        return f"{topic}. Read about it for {10 + seed % 20} minutes, then explain it to somebody in your own words."
    sections = [f"{step} {topic}"[:300] for step in STEPS[: 3 + seed % 4]]
    return json.dumps({"title": f"A roadmap: {topic}"[:300], "sections": sections}, ensure_ascii=False)


def _completion(model: str, messages: list[Any], content: str) -> dict[str, Any]:
    asked, said = len(json.dumps(messages).split()), len(content.split())
    return {
        "id": f"chatcmpl-{hashlib.sha256(content.encode()).hexdigest()[:16]}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said},
    }


async def chat_completions(request: web.Request) -> web.Response:
    """One completion; 400 in OpenAI's form for what it does not offer."""
    try:
        body = await request.json()
        messages = body["messages"]
        topic = str(messages[-1]["content"])
    except (ValueError, LookupError, TypeError):
        return _refusal("the body must be JSON with a list of messages", "messages")
    if body.get("stream"):
        return _refusal("this server does not stream", "stream")
    await asyncio.sleep(request.app[DELAY])
    as_json = (body.get("response_format") or {}).get("type") == "json_object"
    return web.json_response(_completion(str(body.get("model", "local")), messages, answer(topic, as_json=as_json)))


def _refusal(message: str, param: str) -> web.Response:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    return web.json_response({"error": error}, status=400)


async def models(request: web.Request) -> web.Response:
    """The one model that there is."""
    return web.json_response({"object": "list", "data": [{"id": "local", "object": "model", "owned_by": "app"}]})


def create_app(*, delay: float = 0.05) -> web.Application:
    """The server's application; ``delay`` is the seconds that an answer takes."""
    app = web.Application()
    app[DELAY] = delay
    app.router.add_post("/v1/chat/completions", chat_completions)
    app.router.add_get("/v1/models", models)
    return app


def main() -> None:
    """Serves until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m app.llm_server", description=__doc__.partition(": ")[2])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds that an answer takes")
    options = parser.parse_args()
    web.run_app(create_app(delay=options.delay), host=options.host, port=options.port, print=None, shutdown_timeout=1)


if __name__ == "__main__":
    main()
