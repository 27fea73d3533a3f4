"""How an LLM's answer becomes an outline."""

from __future__ import annotations

import pytest

from app.llm_server import answer
from app.services.outline import OutlineError, parse_outline

PLAIN = '{"title": " Python ", "sections": ["Syntax", "Types"]}'


@pytest.mark.parametrize("text", [PLAIN, f"```json\n{PLAIN}\n```", f"Here you are:\n{PLAIN}\nEnjoy!"])
def test_json_is_found_in_what_models_write(text: str) -> None:
    outline = parse_outline(text)
    assert (outline.title, outline.sections) == ("Python", ["Syntax", "Types"])


@pytest.mark.parametrize(
    "text",
    ["", "no", "{}", '{"title": "x", "sections": []}', '{"title": "", "sections": ["a"]}', "{broken}", "} {"],
)
def test_what_is_no_outline_is_refused(text: str) -> None:
    with pytest.raises(OutlineError, match="is not an outline"):
        parse_outline(text)


@pytest.mark.parametrize("topic", ["Learn Python", "", "x" * 500, "Käse 🧀"])
def test_the_local_server_answers_with_an_outline_and_always_the_same(topic: str) -> None:
    text = answer(topic, as_json=True)
    assert 3 <= len(parse_outline(text).sections) <= 6
    assert text == answer(topic, as_json=True)
    assert topic in answer(topic, as_json=False)
