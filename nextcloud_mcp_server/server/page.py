"""The page at ``/``: which program runs here, its state, and where its documentation is.

The page is public. It has no script, and its headers allow nothing but its own style.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import Final

from starlette.responses import HTMLResponse

from nextcloud_mcp_server import __version__
from nextcloud_mcp_server.server.health import NO_STORE, Health

_STYLE: Final = """
:root { color-scheme: light dark; }
:root { --back: #ffffff; --text: #1b1f24; --soft: #57606a; --link: #0550ae; }
@media (prefers-color-scheme: dark) {
  :root { --back: #16191d; --text: #e6e9ec; --soft: #a3acb5; --link: #7ab7ff; }
}
body { background: var(--back); color: var(--text); margin: 0; }
body { font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 40rem; margin: 0 auto; padding: 2rem 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.25rem 1rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
a { color: var(--link); }
"""

_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>nextcloud-mcp-server: {status}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>nextcloud-mcp-server</h1>
<p>This server keeps Nextcloud grants in a database that upgrades its own schema.</p>
<dl>
{facts}
</dl>
<h2>Connect Nextcloud</h2>
<p>No Nextcloud is configured. Set <code>NEXTCLOUD_HOST</code> to its address, and
<code>PUBLIC_URL</code> to the address of this server for browsers, then start it again.</p>
<h2>Health checks</h2>
<ul>
<li><a href="health/live">/health/live</a>: the process answers</li>
<li><a href="health/ready">/health/ready</a>: the database is ready</li>
</ul>
<h2>Documentation</h2>
<p>On the machine of the server, type <code>nextcloud-mcp-server --help</code>.
Everything else is in the folder <code>docs/</code> of the project: begin with
<code>docs/index.md</code>.</p>
</main>
</body>
</html>
"""

_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

_HEADERS: Final = {
    **NO_STORE,
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

#: The facts of a check that the page shows, in this order.
_SHOWN: Final = ("status", "reason", "state", "revision", "head", "read_only")


def page(health: Health) -> HTMLResponse:
    """Return the page, with the words and the status code of ``/health/ready``."""
    facts = {"version": __version__, **health.as_dict()}
    rows = [
        f"<dt>{name.replace('_', ' ')}</dt><dd>{escape(_in_words(facts[name]))}</dd>"
        for name in ("version", *_SHOWN)
        if facts.get(name) is not None
    ]
    text = _PAGE.format(status=escape(str(facts["status"])), style=_STYLE, facts="\n".join(rows))
    return HTMLResponse(text, health.status_code, _HEADERS)


def _in_words(fact: object) -> str:
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    return str(fact)
