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

#: What was done to a grant, as home is told in its address.
ALLOWED: Final = "allowed"
SAVED: Final = "saved"
REVOKED: Final = "revoked"

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
{elsewhere}
<p>This server connects AI assistants (MCP clients) to the Nextcloud at
<strong>{nextcloud}</strong>. Each person decides what a program may do there.</p>
<h2>Connect a program</h2>
<p>Add this address in your MCP client, and follow what it shows:</p>
<p><code>{address}</code></p>
<h2>See or end what is connected</h2>
<p>Sign in with your Nextcloud account. This server never sees your password.</p>
{form}
"""

_ASKED: Final = """
{elsewhere}
<p><strong>{name}</strong> asks for more. It would like to:</p>
<ul>
{wanted}
</ul>
<p>Sign in to allow it: only the person can do so whose account at <strong>{nextcloud}</strong>
{name} uses. Nothing changes yet, because the next page asks you. This server never sees your
password.</p>
{form}
"""

#: Not a warning: a proxy in front of the server may have sent another name.
_ELSEWHERE: Final = """
<p class="note">If your browser shows another address, open <a href="{url}/">{url}</a>: you can sign
in only there.</p>
"""

_SIGN_IN: Final = """
<form method="post" action="{action}">
<input type="hidden" name="csrf" value="{csrf}">
{more}
<div class="actions">
<button class="button main">Sign in with Nextcloud</button>
</div>
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
{less}
<p>Continue only if you want that now. Nextcloud itself knows no such limits: this server keeps to
what you choose here.</p>
<form method="post" action="{action}">{csrf}
<input type="hidden" name="grant" value="{id}">
{chosen}
{confirmed}
<div class="actions">
<button class="button main">{button}</button>
<a class="button" href="/">Change nothing</a>
</div>
</form>
"""

_LESS: Final = """
<p>It would then no longer be allowed to:</p>
<ul>
{less}
</ul>
"""

_WHO: Final = """
<p>Nextcloud calls this "Grant access". This server only asks who you are. For that Nextcloud
creates a new app password, and this server deletes it as soon as it knows who you are. Only if the
app password that connects your account has stopped working, the new one replaces it.</p>
"""

_ALLOWED: Final = """
<div role="status">
<p>{name} may now:</p>
<ul>
{scopes}
</ul>
<p>Go back to {name}, and let it try again.</p>
</div>
"""

_SAVED: Final = """
<div role="status">
<p>Saved. {name} may now:</p>
<ul>
{scopes}
</ul>
</div>
"""

_REVOKED: Final = '<p role="status">{name} has no access any more.</p>'

_CONFIRM_REVOKE: Final = """
<p>{name} loses its access at once. To use it again, you connect it again. Other programs and your
files stay.</p>
<form method="post" action="{action}">{csrf}
<input type="hidden" name="grant" value="{id}">
<input type="hidden" name="confirmed" value="yes">
<div class="actions">
<button class="button ends">Revoke access</button>
<a class="button" href="/">Change nothing</a>
</div>
</form>
"""

_FOR_PROGRAMS: Final = """
<p>Add it in your MCP client, such as Claude or Visual Studio Code, and follow what it shows:</p>
<p><code>{address}</code></p>
<p>In a browser, the first page shows what is connected, and changes or ends it.</p>
<p><a class="button main" href="/">First page of this server</a></p>
"""

_NO_GRANT: Final = """
<p class="problem">You are signed in here as <strong>{user}</strong>, and no such program has access
to your Nextcloud: its access was ended, or another person has granted it.</p>
<p>If the link is for another account, sign out here, then sign in with that one.</p>
<div class="actions">
<a class="button" href="/">Your programs</a>
<form method="post" action="{action}">{csrf}
{fields}
<button class="button">Sign out</button>
</form>
</div>
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


@dataclass(frozen=True)
class Link:
    """What the link of a tool asks for: more scopes for a grant, whose client has this name."""

    grant_id: str
    scopes: Sequence[str]
    name: str = "A program"

    @property
    def fields(self) -> Html:
        """The hidden fields that keep it in a form."""
        fields = [("grant", self.grant_id), *(("scope", scope) for scope in self.scopes)]
        return joined(_hidden(name, value) for name, value in fields)


def welcome(
    settings: NextcloudSettings, token: Secret, link: Link | None, *, is_at_home: bool
) -> HTMLResponse:
    """Return the page for a person who is not signed in.

    Args:
        settings: of Nextcloud.
        token: of the form.
        link: to which signing in leads; None for home.
        is_at_home: whether the request was sent to the host of PUBLIC_URL.
    """
    form = html(_SIGN_IN, action=SIGN_IN, csrf=token, more=Html() if link is None else link.fields)
    elsewhere = Html() if is_at_home else html(_ELSEWHERE, url=settings.public_url)
    nextcloud = urlsplit(settings.browser_url).netloc
    if link is not None and link.scopes:
        body = html(
            _ASKED,
            elsewhere=elsewhere,
            name=link.name,
            wanted=_labels(link.scopes),
            nextcloud=nextcloud,
            form=form,
        )
        return page("Sign in to allow more", body)
    body = html(
        _WELCOME, elsewhere=elsewhere, nextcloud=nextcloud, address=_address(settings), form=form
    )
    return page(_TITLE, body)


def for_programs(settings: NextcloudSettings) -> HTMLResponse:
    """Return the page for a person who opens the MCP address in a browser."""
    body = html(_FOR_PROGRAMS, address=_address(settings))
    return page("This address is for programs", body)


def no_grant(user: str, token: Secret, link: Link) -> HTMLResponse:
    """Return the page for a grant that the person who is signed in does not have."""
    body = html(
        _NO_GRANT, user=user, action=SIGN_OUT, csrf=_hidden("csrf", token), fields=link.fields
    )
    return page("This program has no access", body, status=404)


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
    changed: tuple[str, str] = ("", ""),
) -> HTMLResponse:
    """Return what is connected, with the forms that change it.

    ``changed`` is what was done to a grant, one of the constants below, and the id of the grant.
    """
    csrf = _hidden("csrf", token)
    running = [one for one in grants if one.grant.revoked_at is None]
    ended = [one for one in grants if one.grant.revoked_at is not None]
    body = html(
        _HOME,
        notice=joined(
            [
                _notice(settings, password, works=works),
                *(_told(one, changed[0]) for one in grants if one.grant.grant_id == changed[1]),
            ]
        ),
        nextcloud=settings.browser_url,
        user=user,
        since="no" if password is None else _time(password.created_at),
        address=_address(settings),
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


def _told(one: Shown, what: str) -> Html:
    """Return what was done to a grant, if it was: the address of the page only says so."""
    if one.grant.revoked_at is not None:
        return html(_REVOKED, name=one.name) if what == REVOKED else Html()
    text = {ALLOWED: _ALLOWED, SAVED: _SAVED}.get(what)
    return Html() if text is None else html(text, name=one.name, scopes=_labels(one.grant.scopes))


def _labels(wanted: Sequence[str]) -> Html:
    """Return the items of a list of scopes."""
    labels = (scopes.SCOPES[scope] for scope in scopes.SCOPES if scope in wanted)
    return joined(html("<li>{label}</li>", label=label) for label in labels)


def _address(settings: NextcloudSettings) -> Html:
    """Return the MCP address, which a narrow page breaks before the last part only."""
    return html("{url}<wbr>/mcp", url=settings.public_url)


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
    """Return the page that asks before a grant gets more scopes, and says what it loses."""
    lost = [scope for scope in one.grant.scopes if scope not in chosen]
    body = html(
        _MORE,
        name=one.name,
        target=one.target,
        more=_labels(added),
        less=html(_LESS, less=_labels(lost)) if lost else Html(),
        button="Change it" if lost else "Allow this too",
        action=SCOPES,
        csrf=_hidden("csrf", token),
        id=one.grant.grant_id,
        chosen=joined(_hidden("scope", scope) for scope in chosen),
        confirmed=joined(_hidden("confirmed", scope) for scope in added),
    )
    return page("Allow more?", body)


def confirm_revoke(one: Shown, token: Secret) -> HTMLResponse:
    """Return the page that asks before a grant is revoked."""
    body = html(
        _CONFIRM_REVOKE,
        name=one.name,
        action=REVOKE,
        csrf=_hidden("csrf", token),
        id=one.grant.grant_id,
    )
    return page("Revoke access?", body)


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
