"""The page at `/`: what this is, its version, and where the others are. No script, no image, nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from html import escape

__all__ = ["CONTENT_SECURITY_POLICY", "landing_page"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5c6675; --line: #dde2ea; --back: #f6f7f9; --card: #fff;
  --accent: #1f6f8b }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #99a3b3; --line: #2c3442; --back: #12161d; --card: #1a202a; --accent: #6cc3dd } }
* { box-sizing: border-box }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 2rem 1rem; background: var(--back);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main { width: 100%; max-width: 36rem; background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  overflow: hidden }
header { padding: 1.75rem 2rem 1.5rem; border-top: 4px solid var(--accent) }
h1 { margin: 0; font-size: 1.5rem; letter-spacing: -.01em }
h1 small { margin-left: .5rem; font-size: .8125rem; font-weight: 500; color: var(--soft); letter-spacing: 0 }
p { margin: .5rem 0 0; color: var(--soft) }
ul { list-style: none; margin: 0; padding: 0 }
a { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem 1rem; padding: .875rem 2rem;
  border-top: 1px solid var(--line); color: inherit; text-decoration: none }
a:hover, a:focus-visible { background: var(--back); outline: none }
code { min-width: 6rem; font: 600 .9375rem ui-monospace, monospace; color: var(--accent) }
span { color: var(--soft) }
"""
_PAGES = {
    "metrics": "tasks, workers, loops, pools, conflicts",
    "health": "the broker answers (it is asked)",
    "ready": "connected to the broker, and not behind",
    "live": "this process works",
}
_LINKS = "\n".join(
    f'<li><a href="{name}"><code>/{name}</code><span>{text}</span></a></li>' for name, text in _PAGES.items()
)
_digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def landing_page(version: str) -> str:
    """The HTML; links are relative, so that it works under any prefix of a reverse proxy."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>loopwatch monitor</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<header>
<h1>loopwatch monitor <small>{escape(version)}</small></h1>
<p>Celery tasks, workers, event loops, pools and loop conflicts, for Prometheus.</p>
</header>
<ul>
{_LINKS}
</ul>
</main>
</body>
</html>
"""
