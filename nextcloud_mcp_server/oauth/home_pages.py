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
from nextcloud_mcp_server.oauth import home_forms as forms
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
    form = html(
        forms.SIGN_IN, action=SIGN_IN, csrf=token, more=Html() if link is None else link.fields
    )
    elsewhere = Html() if is_at_home else html(forms.ELSEWHERE, url=settings.public_url)
    nextcloud = urlsplit(settings.browser_url).netloc
    if link is not None and link.scopes:
        body = html(
            forms.ASKED,
            elsewhere=elsewhere,
            name=link.name,
            wanted=_labels(link.scopes),
            nextcloud=nextcloud,
            form=form,
        )
        return page("Sign in to allow more", body)
    body = html(
        forms.WELCOME,
        elsewhere=elsewhere,
        nextcloud=nextcloud,
        address=_address(settings),
        form=form,
    )
    return page(_TITLE, body)


def for_programs(settings: NextcloudSettings) -> HTMLResponse:
    """Return the page for a person who opens the MCP address in a browser."""
    body = html(forms.FOR_PROGRAMS, address=_address(settings))
    return page("This address is for programs", body)


def no_grant(user: str, token: Secret, link: Link) -> HTMLResponse:
    """Return the page for a grant that the person who is signed in does not have."""
    body = html(
        forms.NO_GRANT, user=user, action=SIGN_OUT, csrf=_hidden("csrf", token), fields=link.fields
    )
    return page("This program has no access", body, status=404)


def waiting(url: Secret, session_id: Secret, token: Secret, reason: str) -> HTMLResponse:
    """Return the page that waits until Nextcloud says who the person is."""
    body = html(
        WAITING,
        why=Html(forms.WHO),
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
        forms.HOME,
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
        sign_out=html(forms.SIGN_OUT, action=SIGN_OUT, csrf=csrf),
        disconnect=html(forms.DISCONNECT, action=DISCONNECT, csrf=csrf)
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
        return html(forms.REVOKED, name=one.name) if what == REVOKED else Html()
    text = {ALLOWED: forms.ALLOWED, SAVED: forms.SAVED}.get(what)
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
            forms.BOX,
            scope=scope,
            checked="checked" if scope in one.grant.scopes else "",
            label=scopes.SCOPES[scope],
        )
        for scope in one.offered
    )
    return html(
        forms.PROGRAM,
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
        forms.MORE,
        name=one.name,
        target=one.target,
        more=_labels(added),
        less=html(forms.LESS, less=_labels(lost)) if lost else Html(),
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
        forms.CONFIRM_REVOKE,
        name=one.name,
        action=REVOKE,
        csrf=_hidden("csrf", token),
        id=one.grant.grant_id,
    )
    return page("Revoke access?", body)


def confirm_disconnect(user: str, token: Secret) -> HTMLResponse:
    """Return the page that asks before everything is disconnected."""
    body = html(forms.CONFIRM, user=user, action=DISCONNECT, csrf=_hidden("csrf", token))
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
            sign_out=html(forms.SIGN_OUT, action=SIGN_OUT, csrf=csrf),
            disconnect=html(forms.DISCONNECT, action=DISCONNECT, csrf=csrf),
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
