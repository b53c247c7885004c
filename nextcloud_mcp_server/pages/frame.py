"""The frame of a page, its style, and the headers that keep it from being framed or extended."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Final

from starlette.responses import HTMLResponse, Response

from nextcloud_mcp_server.pages.html import Html, html

if TYPE_CHECKING:
    from starlette.requests import Request

_STYLE: Final = """
:root { color-scheme: light dark; }
:root { --back: #ffffff; --text: #1b1f24; --soft: #57606a; --link: #0550ae; --on: #ffffff; --ends: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --back: #16191d; --text: #e6e9ec; --soft: #a3acb5; --link: #7ab7ff; --on: #10141a; --ends: #ff8a80; }
}
body { background: var(--back); color: var(--text); margin: 0; }
body { font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
main { max-width: 36rem; margin: 0 auto; padding: 2rem 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; }
h2 { font-size: 1.25rem; margin: 2rem 0 0.5rem; }
h3 { font-size: 1rem; margin: 1rem 0 0.5rem; }
section { border-top: 1px solid var(--soft); }
code { font-size: 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.25rem 1rem; }
dt { color: var(--soft); }
dd { margin: 0; }
a { color: var(--link); }
fieldset { border: 1px solid var(--soft); border-radius: 0.5rem; margin: 1rem 0; padding: 0.5rem 1rem; }
label { display: flex; gap: 0.5rem; padding: 0.5rem 0; }
input[type="checkbox"] { flex: none; width: 1.25rem; height: 1.25rem; margin: 0.125rem 0 0; }
.actions { display: flex; flex-wrap: wrap; gap: 0.75rem; margin: 1.5rem 0; }
.button { border: 2px solid var(--link); border-radius: 0.5rem; padding: 0.625rem 1.25rem; }
.button { background: transparent; color: var(--link); font: inherit; cursor: pointer; }
.button { display: inline-block; text-decoration: none; }
fieldset .button { margin: 0.75rem 0 0.5rem; }
.ends { border-color: var(--ends); color: var(--ends); }
.main { background: var(--link); color: var(--on); }
.button:focus-visible, a:focus-visible, input:focus-visible { outline: 3px solid var(--text); outline-offset: 2px; }
.problem { border-left: 4px solid #cf222e; padding-left: 0.75rem; }
.note { color: var(--soft); }
"""  # noqa: E501 - one rule a line

_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

#: The script of a page that waits. It is the only one, and is served by this server.
WAIT_SCRIPT: Final = "/static/wait.js"

_WAIT: Final = """// Loads the page again as soon as its state is another one.
"use strict";
(function () {
  const before = document.documentElement.dataset.state;
  async function ask() {
    try {
      const answer = await fetch(location.href, {
        headers: { Accept: "application/json" },
        cache: "no-store",
        credentials: "same-origin",
      });
      const state = answer.ok ? (await answer.json()).state : "failed";
      if (state !== before) {
        location.reload();
        return;
      }
    } catch (error) {
      // The connection failed: ask again.
    }
    setTimeout(ask, 2000);
  }
  setTimeout(ask, 2000);
})();
"""

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    "script-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: browsers would send "Origin: null" with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

_FRAME: Final = """<!DOCTYPE html>
<html lang="en" data-state="{state}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
{head}
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""

#: The path of the first page.
FIRST_PAGE: Final = "/"

_PROBLEM: Final = """
<p class="problem">{message}</p>
<p>{remedy}</p>
<p><a class="button" href="{link}">{link_text}</a></p>
"""

_ASKING: Final = """<script src="{script}" defer></script>
<noscript><meta http-equiv="refresh" content="5"></noscript>"""


#: The page of a sign-in that waits for Nextcloud.
WAITING: Final = """
{why}
<p>Open Nextcloud in a second tab, sign in there, and grant access. Then come back to this tab:
it goes on by itself.</p>
<div class="actions">
<a class="button main" href="{url}" target="_blank" rel="noopener noreferrer">Open Nextcloud</a>
</div>
<p role="status">Waiting for you to grant access in Nextcloud.</p>
{problem}
<p class="note">Grant access only in the tab that you open here. Never open such a link that
somebody has sent you: it would {note}.</p>
<form method="post" action="{action}">
<input type="hidden" name="session" value="{session}">
<input type="hidden" name="csrf" value="{csrf}">
<button class="button" name="action" value="refuse">Cancel</button>
</form>
"""


def page(
    title: str,
    body: Html,
    *,
    status: int = 200,
    head: Html = Html(""),  # noqa: B008 - a str
    state: str = "",
    waits: bool = False,
) -> HTMLResponse:
    """Return a page.

    Args:
        title: also the heading.
        body: what follows the heading.
        status: the status of HTTP.
        head: more for the head of the document.
        state: what a page that waits compares: it is loaded again when the JSON answer at its
            address has another ``state``.
        waits: whether it asks every two seconds; every five without JavaScript, by loading.
    """
    waiting = html(_ASKING, script=WAIT_SCRIPT) if waits else Html("")
    text = html(
        _FRAME,
        title=title,
        style=Html(_STYLE),
        head=Html(head + waiting),
        body=body,
        state=state,
    )
    return HTMLResponse(text, status, _HEADERS)


def problem(
    title: str,
    message: str,
    remedy: str,
    *,
    status: int = 400,
    link: str = FIRST_PAGE,
    link_text: str = "First page of this server",
) -> HTMLResponse:
    """Return a page about an error: what happened, what to do, and a link to go on.

    Args:
        title: also the heading.
        message: what happened.
        remedy: what to do.
        status: the status of HTTP.
        link: a path or an address of this server; empty for the page itself.
        link_text: what is shown for it.
    """
    body = html(_PROBLEM, message=message, remedy=remedy, link=link, link_text=link_text)
    return page(title, body, status=status)


def told(reason: str) -> Html:
    """Return the element for a problem on a page; empty if there is none."""
    return html('<p class="problem" role="alert">{reason}</p>', reason=reason) if reason else Html()


def moving_on(url: str) -> Html:
    """Return the element of a head that leads a browser to ``url``, which was checked before.

    Not a redirect: after a form, browsers apply ``form-action`` to the target of one.
    """
    return html('<meta http-equiv="refresh" content="1;url={url}">', url=url)


async def wait_script(request: Request) -> Response:
    """Return the script of a page that waits."""
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "max-age=3600"}
    return Response(_WAIT, headers=headers, media_type="text/javascript")
