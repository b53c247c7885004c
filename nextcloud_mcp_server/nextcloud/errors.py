"""The errors of the client: each is a function that returns one, for a status or a situation."""

from __future__ import annotations

from typing import Final

from nextcloud_mcp_server.errors import TokenStorageError

_NOT_YOURS: Final = "Try again later. If it stays so, tell the operator of this server."


class NextcloudError(TokenStorageError):
    """An error of Nextcloud, or on the way to it; the remedy is written for the person.

    It has the parts of :class:`~nextcloud_mcp_server.errors.TokenStorageError`: ``message``,
    ``code`` and ``remedy``. No part has a password, a token or the content of a file.
    """

    def again(self) -> NextcloudError:
        """Return the same error without a traceback, to be raised by another call."""
        return type(self)(self.message, code=self.code, remedy=self.remedy)


def bad_input(what: str, remedy: str) -> NextcloudError:
    """Return the error for a value that is refused before any request."""
    return NextcloudError(what, code="bad-input", remedy=remedy)


def reconnect() -> NextcloudError:
    """Return the error for an app password that Nextcloud has refused."""
    return NextcloudError(
        "Nextcloud refused the app password of this account.",
        code="reconnect",
        remedy="Connect the account again. The refused password is not tried again, because "
        "Nextcloud locks out an address after ten wrong logins.",
    )


def disconnected() -> NextcloudError:
    """Return the error for an app password that this client has deleted."""
    return NextcloudError(
        "The app password of this account was deleted.",
        code="reconnect",
        remedy="Connect the account again.",
    )


def account_disabled() -> NextcloudError:
    """Return the error for a disabled user."""
    return NextcloudError(
        "This account is disabled in Nextcloud.",
        code="account-disabled",
        remedy="Ask the administrator of Nextcloud to enable the account.",
    )


def maintenance() -> NextcloudError:
    """Return the error for the maintenance mode."""
    return NextcloudError(
        "Nextcloud is in maintenance mode.",
        code="maintenance",
        remedy="Try again in some minutes. An administrator ends it with "
        "`occ maintenance:mode --off`.",
    )


def throttled() -> NextcloudError:
    """Return the error for the status 429."""
    return NextcloudError(
        "Nextcloud refuses requests from this server: too many wrong logins or requests.",
        code="throttled",
        remedy="Wait 30 minutes. The administrator of Nextcloud should add the address of this "
        "server to the allowed addresses of the app Brute-force settings.",
    )


def app_missing(app: str) -> NextcloudError:
    """Return the error for an app that the capabilities do not name."""
    return NextcloudError(
        f"The app {app} is not enabled in this Nextcloud, or not for this account.",
        code="app-missing",
        remedy=f"Ask the administrator of Nextcloud to enable {app}.",
    )


def moved(target: str) -> NextcloudError:
    """Return the error for a redirect, which is never followed: it would carry the password."""
    return NextcloudError(
        f"Nextcloud redirects to {target or 'another address'}, and redirects are not followed.",
        code="moved",
        remedy="Set NEXTCLOUD_HOST to the address that Nextcloud has now, then connect again.",
    )


def not_found(what: str) -> NextcloudError:
    """Return the error for the status 404."""
    return NextcloudError(
        f"Nextcloud has no {what}.",
        code="not-found",
        remedy="List or search first, and use a name or id from the result.",
    )


def changed(what: str) -> NextcloudError:
    """Return the error for an etag that is not the current one."""
    return NextcloudError(
        f"Somebody changed the {what} since it was read; nothing was written.",
        code="changed",
        remedy="Read it again, apply the change to the new content, and write with the new etag.",
    )


def exists(what: str) -> NextcloudError:
    """Return the error for a name that is in use."""
    return NextcloudError(
        f"There is already a {what}; nothing was written.",
        code="exists",
        remedy="Choose another name, or read it and pass its etag to overwrite it.",
    )


def over_quota() -> NextcloudError:
    """Return the error for the status 507."""
    return NextcloudError(
        "The account has no space left in Nextcloud; nothing was written.",
        code="over-quota",
        remedy="Delete files and empty the trash bin, or ask the administrator for more space.",
    )


def no_connection(origin: str, reason: str) -> NextcloudError:
    """Return the error for a connection that cannot be made or that broke."""
    return NextcloudError(
        f"No connection to Nextcloud at {origin}: {reason}.",
        code="no-connection",
        remedy="Check that Nextcloud runs, and that NEXTCLOUD_HOST is its address as seen from "
        "this server.",
    )


def for_person(error: NextcloudError, place: str) -> NextcloudError:
    """Return what somebody is told who is not the operator: nothing that only he can use.

    Args:
        error: what happened.
        place: the address of Nextcloud in a browser.
    """
    if error.code == "no-connection":
        return not_answering(place)
    if error.code == "timeout":
        return timed_out(place)
    if error.code in {"moved", "not-nextcloud"}:
        return not_usable(place)
    return error.again()


def not_answering(place: str) -> NextcloudError:
    """Return what somebody is told who is not the operator, if there is no connection."""
    return NextcloudError(
        f"Nextcloud at {place} does not answer.",
        code="no-connection",
        remedy=_NOT_YOURS,
    )


def not_usable(place: str) -> NextcloudError:
    """Return what somebody is told who is not the operator, if Nextcloud's answer is wrong."""
    return NextcloudError(
        f"{place} does not answer as Nextcloud does.",
        code="not-nextcloud",
        remedy=_NOT_YOURS,
    )


def timed_out(origin: str) -> NextcloudError:
    """Return the error for an answer that did not come in time."""
    return NextcloudError(
        f"Nextcloud at {origin} did not answer in time.",
        code="timeout",
        remedy="Look whether the change was made before you repeat it; then try again.",
    )


def too_large(what: str, limit: int) -> NextcloudError:
    """Return the error for a body over the limit, in bytes."""
    return NextcloudError(
        f"The {what} is larger than {limit // 1024} KiB.",
        code="too-large",
        remedy="Choose a smaller folder or range, or open it in Nextcloud.",
    )


def not_nextcloud(origin: str, reason: str) -> NextcloudError:
    """Return the error for an answer that Nextcloud does not give."""
    return NextcloudError(
        f"{origin} does not answer as Nextcloud does: {reason}.",
        code="not-nextcloud",
        remedy="Set NEXTCLOUD_HOST to the address of Nextcloud, with its folder if it has one. If "
        "Nextcloud reports an untrusted domain, add the host to its `trusted_domains`.",
    )


def forbidden(what: str, reason: str) -> NextcloudError:
    """Return the error for the statuses 403, 405, 409, 413, 415 and 423."""
    return NextcloudError(
        f"Nextcloud does not allow this with the {what}{reason and f': {reason}'}.",
        code="forbidden",
        remedy="It may be read-only, locked, or not shared for this. Check it in Nextcloud.",
    )


def name_refused(reason: str) -> NextcloudError:
    """Return the error for a name that Nextcloud does not allow for a file or a folder."""
    return NextcloudError(
        f"Nextcloud does not allow this name{reason and f': {reason}'}; nothing was written.",
        code="bad-input",
        remedy="Choose another name.",
    )


def too_many() -> NextcloudError:
    """Return the error for a series with more occurrences in a range than Nextcloud lists."""
    return NextcloudError(
        "An event recurs more often in this range than Nextcloud lists.",
        code="bad-input",
        remedy="Give a shorter range.",
    )


def not_text(what: str) -> NextcloudError:
    """Return the error for a binary file."""
    return NextcloudError(
        f"The {what} is not text in UTF-8.",
        code="not-text",
        remedy="Only text can be read and written here. Open the file in Nextcloud.",
    )


def unreadable(what: str) -> NextcloudError:
    """Return the error for an object of a calendar that another program has stored."""
    return NextcloudError(
        f"The {what} has a value that cannot be read here; nothing was written.",
        code="bad-input",
        remedy="Open it in Nextcloud.",
    )


def no_trash() -> NextcloudError:
    """Return the error for a deletion that could not be undone."""
    return NextcloudError(
        "The trash bin of Nextcloud is not enabled; nothing was deleted.",
        code="no-trash",
        remedy="Delete the file in Nextcloud, or ask the administrator to enable Deleted files.",
    )


def no_calendar_trash() -> NextcloudError:
    """Return the error for an event that would be lost."""
    return NextcloudError(
        "The calendars of this Nextcloud have no trash bin; nothing was deleted.",
        code="no-trash",
        remedy="Delete the event in Nextcloud. Calendars have a trash bin from Nextcloud 22 on, "
        "unless the administrator has switched it off (calendarRetentionObligation).",
    )


def note_without_etag() -> NextcloudError:
    """Return the error for a note whose version cannot be told."""
    return NextcloudError(
        "This version of the app Notes gives no etag, so a note cannot be changed safely; nothing "
        "was written.",
        code="bad-input",
        remedy="Ask the administrator of Nextcloud to update the app Notes, or create a new note.",
    )


def failed(status: int, reason: str) -> NextcloudError:
    """Return the error for any other status."""
    return NextcloudError(
        f"Nextcloud answered with status {status}{reason and f': {reason}'}.",
        code="nextcloud-failed",
        remedy="Try again later. The log of Nextcloud has the reason.",
    )
