"""The texts and forms of home."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from nextcloud_mcp_server.auth import mcp_grants as grants_of
from nextcloud_mcp_server.auth.app_passwords import AppPassword
from nextcloud_mcp_server.auth.mcp_grants import McpGrant
from nextcloud_mcp_server.oauth import scopes
from nextcloud_mcp_server.pages.frame import WAITING, page, told
from nextcloud_mcp_server.pages.html import Html, html, joined
from nextcloud_mcp_server.secret import Secret
from nextcloud_mcp_server.settings.nextcloud import NextcloudSettings

if TYPE_CHECKING:
    from starlette.responses import HTMLResponse

SIGN_IN: Final = "/home/sign-in"
SCOPES: Final = "/home/scopes"
REVOKE: Final = "/home/revoke"
DISCONNECT: Final = "/home/disconnect"
SIGN_OUT: Final = "/home/sign-out"

_TITLE: Final = "Your Nextcloud for assistants"

#: What a person is told about a grant that has ended.
_WHY: Final = {
    grants_of.BY_USER: "You revoked it here.",
    grants_of.BY_CLIENT: "The program signed out.",
    grants_of.DISCONNECTED: "You disconnected your account.",
    grants_of.REUSED_CODE: "Its sign-in code was used twice. Somebody may have copied the code, so "
    "the access was ended. Connect the program again.",
    grants_of.REUSED_TOKEN: "An old token of it was used again. Somebody may have copied its "
    "tokens, so the access was ended. Connect the program again; if this repeats, check the "
    "computer that it runs on.",
}
_ALARMS: Final = frozenset({grants_of.REUSED_CODE, grants_of.REUSED_TOKEN})

_WELCOME: Final = """
<p>This server connects AI assistants (MCP clients) to the Nextcloud at
<strong>{nextcloud}</strong>. Each person decides what a program may do there.</p>
<h2>Connect a program</h2>
<p>Add this address in your MCP client, and follow what it shows:</p>
<p><code>{address}</code></p>
<h2>See or end what is connected</h2>
<p>Sign in with your Nextcloud account. This server never sees your password.</p>
<form method="post" action="{action}">
<input type="hidden" name="csrf" value="{csrf}">
{more}
<button class="button main">Sign in with Nextcloud</button>
</form>
"""

_HOME: Final = """
{notice}
<h2>Account</h2>
<dl>
<dt>Nextcloud</dt><dd>{nextcloud}</dd>
<dt>User</dt><dd>{user}</dd>
<dt>Connected</dt><dd>{since}</dd>
<dt>MCP address</dt><dd><code>{address}</code></dd>
</dl>
<h2>Programs with access</h2>
{programs}
{ended}
<h2>Leave</h2>
<div class="actions">
{sign_out}
{disconnect}
</div>
"""

_SIGN_OUT: Final = """
<form method="post" action="{action}">{csrf}<button class="button">Sign out</button></form>
"""

_DISCONNECT: Final = """
<form method="post" action="{action}">{csrf}
<button class="button ends">Disconnect Nextcloud</button>
</form>
"""

_PROGRAM: Final = """
<section aria-labelledby="name-{id}">
<h3 id="name-{id}">{name}</h3>
<dl>
<dt>Leads back to</dt><dd>{target}</dd>
<dt>Since</dt><dd>{since}</dd>
<dt>Last used</dt><dd>{used}</dd>
</dl>
<form method="post" action="{scopes}">{csrf}
<input type="hidden" name="grant" value="{id}">
<fieldset>
<legend>{name} may</legend>
{boxes}
<button class="button">Save</button>
</fieldset>
</form>
<form method="post" action="{revoke}">{csrf}
<input type="hidden" name="grant" value="{id}">
<button class="button ends" aria-describedby="name-{id}">Revoke access</button>
</form>
</section>
"""

_BOX: Final = '<label><input type="checkbox" name="scope" value="{scope}" {checked}>{label}</label>'

_MORE: Final = """
<p><strong>{name}</strong> (leads back to: {target}) would then also be allowed to:</p>
<ul>
{more}
</ul>
<p>Continue only if you want that now. Nextcloud itself knows no such limits: this server keeps to
what you choose here.</p>
<form method="post" action="{action}">{csrf}
<input type="hidden" name="grant" value="{id}">
{chosen}
{confirmed}
<div class="actions">
<button class="button main">Allow this too</button>
<a class="button" href="/">Change nothing</a>
</div>
</form>
"""

_WHO: Final = """
<p>Nextcloud calls this "Grant access". This server only asks who you are, and deletes the app
password that it gets at once. It keeps it only if the one that connects your account does not work
any more.</p>
"""

_ALLOWED: Final = """
<p role="status">{name} may now:</p>
<ul>
{scopes}
</ul>
<p>Go back to {name}, and let it try again.</p>
"""

_CONFIRM: Final = """
<p>Every program of {user} loses its access at once. The app password of this server is deleted in
Nextcloud and here. Your files and everything else in Nextcloud stay.</p>
<form method="post" action="{action}">{csrf}
<input type="hidden" name="confirmed" value="yes">
<div class="actions">
<button class="button ends">Disconnect</button>
<a class="button" href="/">Change nothing</a>
</div>
</form>
"""


@dataclass(frozen=True)
class Shown:
    """A grant with what a person is told about its client; ``offered`` are its check boxes."""

    grant: McpGrant
    name: str
    target: str
    used_at: int | None
    offered: Sequence[str]


def welcome(
    settings: NextcloudSettings, token: Secret, grant_id: str, wanted: Sequence[str]
) -> HTMLResponse:
    """Return the page for a person who is not signed in.

    With ``grant_id``, signing in leads to the page that asks for the ``wanted`` scopes.
    """
    fields = [
        ("grant", grant_id),
        *(("scope", scope) for scope in wanted if scope in scopes.SCOPES),
    ]
    body = html(
        _WELCOME,
        nextcloud=urlsplit(settings.browser_url).netloc,
        address=f"{settings.public_url}/mcp",
        action=SIGN_IN,
        csrf=token,
        more=joined(_hidden(name, value) for name, value in fields if grant_id),
    )
    return page(_TITLE, body)


def waiting(url: Secret, session_id: Secret, token: Secret, reason: str) -> HTMLResponse:
    """Return the page that waits until Nextcloud says who the person is."""
    body = html(
        WAITING,
        why=Html(_WHO),
        url=url,
        problem=told(reason),
        action=SIGN_IN,
        session=session_id,
        csrf=token,
        note="sign that person in here as you",
    )
    return page("Confirm in Nextcloud who you are", body, state="waiting", waits=True)


def home(
    settings: NextcloudSettings,
    user: str,
    password: AppPassword | None,
    *,
    works: bool,
    grants: Sequence[Shown],
    token: Secret,
    allowed: str = "",
) -> HTMLResponse:
    """Return what is connected, with the forms that change it.

    ``allowed`` is the id of a grant that has just got more scopes.
    """
    csrf = _hidden("csrf", token)
    running = [one for one in grants if one.grant.revoked_at is None]
    ended = [one for one in grants if one.grant.revoked_at is not None]
    body = html(
        _HOME,
        notice=joined(
            [
                _notice(settings, password, works=works),
                *(_allowed(one) for one in running if one.grant.grant_id == allowed),
            ]
        ),
        nextcloud=settings.browser_url,
        user=user,
        since="no" if password is None else _time(password.created_at),
        address=f"{settings.public_url}/mcp",
        programs=joined(_program(one, csrf) for one in running)
        or Html("<p>None. Add the MCP address in a program to connect it.</p>"),
        ended=_ended(ended),
        sign_out=html(_SIGN_OUT, action=SIGN_OUT, csrf=csrf),
        disconnect=html(_DISCONNECT, action=DISCONNECT, csrf=csrf)
        if password is not None or running
        else Html(),
    )
    return page(_TITLE, body)


def _notice(settings: NextcloudSettings, password: AppPassword | None, *, works: bool) -> Html:
    """Return what is wrong with the connection."""
    if password is None or works:
        return Html()
    again = "Sign out here and sign in again: that connects your account again."
    if password.refused_at is None:
        return told(f"Your account is connected to another Nextcloud than {settings.host}. {again}")
    when = _plain_time(password.refused_at)
    return told(f"Nextcloud has refused the app password since {when}. {again}")


def _allowed(one: Shown) -> Html:
    """Return what a program may do now, for a person who comes from it."""
    labels = (scopes.SCOPES[scope] for scope in scopes.SCOPES if scope in one.grant.scopes)
    items = joined(html("<li>{label}</li>", label=label) for label in labels)
    return html(_ALLOWED, name=one.name, scopes=items)


def _program(one: Shown, csrf: Html) -> Html:
    boxes = (
        html(
            _BOX,
            scope=scope,
            checked="checked" if scope in one.grant.scopes else "",
            label=scopes.SCOPES[scope],
        )
        for scope in one.offered
    )
    return html(
        _PROGRAM,
        id=one.grant.grant_id,
        name=one.name,
        target=one.target,
        since=_time(one.grant.created_at),
        used="never" if one.used_at is None else _time(one.used_at),
        scopes=SCOPES,
        revoke=REVOKE,
        csrf=csrf,
        boxes=joined(boxes),
    )


def _ended(ended: Sequence[Shown]) -> Html:
    """Return the list of grants that were revoked lately, newest first, with the reasons."""
    if not ended:
        return Html()
    items = (
        html(
            "<li {look}><strong>{name}</strong>, {when}: {why}</li>",
            look=Html('class="problem"' if one.grant.revoked_why in _ALARMS else ""),
            name=one.name,
            when=_time(one.grant.revoked_at or 0),
            why=_WHY.get(one.grant.revoked_why or "", "It was revoked."),
        )
        for one in sorted(ended, key=lambda one: one.grant.revoked_at or 0, reverse=True)
    )
    return html("<h2>Ended in the last 30 days</h2>\n<ul>\n{items}\n</ul>", items=joined(items))


def more(one: Shown, chosen: Sequence[str], added: Sequence[str], token: Secret) -> HTMLResponse:
    """Return the page that asks before a grant gets more scopes."""
    body = html(
        _MORE,
        name=one.name,
        target=one.target,
        more=joined(html("<li>{label}</li>", label=scopes.SCOPES[scope]) for scope in added),
        action=SCOPES,
        csrf=_hidden("csrf", token),
        id=one.grant.grant_id,
        chosen=joined(_hidden("scope", scope) for scope in chosen),
        confirmed=joined(_hidden("confirmed", scope) for scope in added),
    )
    return page("Allow more?", body)


def confirm_disconnect(user: str, token: Secret) -> HTMLResponse:
    """Return the page that asks before everything is disconnected."""
    body = html(_CONFIRM, user=user, action=DISCONNECT, csrf=_hidden("csrf", token))
    return page("Disconnect Nextcloud?", body)


def disconnected(left: str) -> HTMLResponse:
    """Return the page for an app password that could not be deleted in Nextcloud."""
    body = html(
        '<p role="status">Every program has lost its access, and this server has forgotten the '
        "app password.</p>\n"
        '<p class="problem">Nextcloud may still have it: delete "{left}" there yourself, in the '
        'settings under Security.</p>\n<p><a class="button" href="/">Go on</a></p>',
        left=left,
    )
    return page("Disconnected", body)


def unreadable(token: Secret) -> HTMLResponse:
    """Return the page for an app password that cannot be decrypted."""
    csrf = _hidden("csrf", token)
    body = html(
        "{told}{form}",
        told=told(
            "The stored app password cannot be read. Sign out here and sign in again: that "
            "connects your account again."
        ),
        form=html(
            '<div class="actions">{sign_out}{disconnect}</div>',
            sign_out=html(_SIGN_OUT, action=SIGN_OUT, csrf=csrf),
            disconnect=html(_DISCONNECT, action=DISCONNECT, csrf=csrf),
        ),
    )
    return page(_TITLE, body, status=500)


def _hidden(name: str, value: str) -> Html:
    return html('<input type="hidden" name="{name}" value="{value}">', name=name, value=value)


def _plain_time(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _time(seconds: int) -> Html:
    moment = datetime.fromtimestamp(seconds, UTC)
    return html(
        '<time datetime="{machine}">{people}</time>',
        machine=moment.isoformat(),
        people=_plain_time(seconds),
    )
