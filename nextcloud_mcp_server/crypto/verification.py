"""Verify the encryption keys against the stored secrets, before anything is written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.base import SAMPLE_SIZE
from nextcloud_mcp_server.backends.keys import RegisteredKey
from nextcloud_mcp_server.crypto.keyfile import (
    Place,
    available_keyring,
    key_path,
    keyring_beside,
    make_key,
)
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.crypto.registration import PRIMARY, RETIRED, given_primary, wrong_key
from nextcloud_mcp_server.errors import TokenStorageError, for_shell, printable
from nextcloud_mcp_server.settings import Settings

logger = logging.getLogger(__name__)

#: The secrets that a start tries before it warns: a million would take it half a minute.
_MOST_COUNTED: Final = 10_000


#: Returns some encrypted values, at most this many of each column (None: all of them).
Samples = Callable[[int | None], Iterable[bytes]]


class KeyVerifier:
    """Verifies the available keys of a database that is migrated and not opened.

    A migration needs no key, so calling it returns None without one. It raises ``wrong-key``
    for a wrong one, as the next start of the server would, and returns the fingerprints of
    the others.

    Attributes:
        keyring: the keys, unverified; None without one.
        unopened: how many of the secrets that were tried no key opens.

    Raises:
        TokenStorageError: as :func:`available_keyring`.
    """

    def __init__(self, settings: Settings) -> None:
        self.keyring: Final = available_keyring(settings)
        self._database = settings.database
        self.unopened = 0

    def __call__(self, samples: Samples, known: Sequence[RegisteredKey]) -> Sequence[str] | None:
        """Verify them."""
        if self.keyring is None:
            return None
        note = partial(setattr, self, "unopened")
        keyring = verified_keyring(self.keyring, samples, self._database, known, unopened=note)
        return keyring.fingerprints


def verified_keyring(
    keyring: Keyring | None,
    samples: Samples,
    database: Place,
    known: Sequence[RegisteredKey] = (),
    *,
    unopened: Callable[[int], object] = lambda _: None,
) -> Keyring:
    """Return the keyring for ``database``, verified against its secrets. Only under the lock.

    Args:
        keyring: the result of :func:`given_keyring`.
        samples: returns some of its secrets.
        database: its place.
        known: its registered keys.
        unopened: called with the number of secrets that no key opens, if there are any.

    Raises:
        TokenStorageError: ``key-missing`` if there are encrypted values and no key,
            ``wrong-key`` if no key opens any of them, ``malformed-key`` for the content of the
            file beside the database. Nothing has been written then.
    """
    if keyring is not None:
        try:
            return _verified(keyring, samples, database, known, unopened)
        except TokenStorageError as error:
            raise naming_key_beside(error, samples, database, known) from error.__cause__
    keyring = keyring_beside(database)
    if keyring is None:
        values = list(samples(SAMPLE_SIZE))
        if values or known:
            raise TokenStorageError(
                f"{database} holds encrypted values, and no key was given{_expected(known)}.",
                code="key-missing",
                remedy="Set TOKEN_ENCRYPTION_KEY or TOKEN_ENCRYPTION_KEY_FILE to the key that they "
                f"were written with{_or_beside(database)}; nothing was changed.",
            )
        return make_key(database)
    return _verified(keyring, samples, database, known, unopened)


def naming_key_beside(
    error: TokenStorageError, samples: Samples, database: Place, known: Sequence[RegisteredKey]
) -> TokenStorageError:
    """Return an error; if it is ``wrong-key``, with the key file that has the right key.

    The arguments are those of :func:`verified_keyring`.
    """
    if error.code == "wrong-key" and _right_beside(samples, database, known):
        return _another_beside(error, database)
    return error


def _right_beside(samples: Samples, database: Place, known: Sequence[RegisteredKey]) -> bool:
    """Return whether the key file beside the database has the key that its secrets need."""
    with suppress(TokenStorageError):
        if keyring := keyring_beside(database):
            if known:
                given_primary(known, keyring, str(database))
                return True
            return any(map(keyring.can_decrypt, samples(SAMPLE_SIZE)))
    return False


def _another_beside(error: TokenStorageError, database: Place) -> TokenStorageError:
    """Return the error for a wrong key if the right one is beside the database."""
    path = key_path(Path(str(database)))
    return TokenStorageError(
        error.message,
        code="wrong-key",
        remedy=f"{path} has the right key. Unset TOKEN_ENCRYPTION_KEY and "
        "TOKEN_ENCRYPTION_KEY_FILE, or set TOKEN_ENCRYPTION_KEY_FILE to it.",
    )


def _verified(
    keyring: Keyring,
    samples: Samples,
    database: Place,
    known: Sequence[RegisteredKey],
    unopened: Callable[[int], object],
) -> Keyring:
    values = list(samples(SAMPLE_SIZE))
    if known:
        given_primary(known, keyring, str(database))
        _warn_of_missing(known, keyring, database)
    if all(map(keyring.can_decrypt, values)):
        return keyring
    opened, read = _count(keyring, samples(None))
    if not opened and not known:
        raise wrong_key((), keyring, str(database))
    if opened < read:
        unopened(read - opened)
        logger.warning(
            "No given key opens %d of the %s that a start tries in %s: their users must log in "
            "again. Add the key that they were written with; to see all of them: "
            "nextcloud-mcp-server db doctor %s",
            read - opened,
            f"{read} secrets" if read < _MOST_COUNTED else f"first {read} secrets",
            printable(str(database)),
            printable(_option(database)),
        )
    return keyring


def _expected(known: Sequence[RegisteredKey]) -> str:
    names = [row.fingerprint for row in known if row.state == PRIMARY]
    return f" (they need key {names[0]})" if names else ""


def _warn_of_missing(known: Sequence[RegisteredKey], keyring: Keyring, database: Place) -> None:
    needed = dict.fromkeys(row.fingerprint for row in known if row.state != RETIRED)
    if missing := [name for name in needed if keyring.get(name) is None]:
        logger.warning(
            "Key %s of %s was not given: what is encrypted with it cannot be opened. Add it. To "
            "see what needs it: nextcloud-mcp-server keys list %s",
            " and ".join(missing),
            printable(str(database)),
            printable(_option(database)),
        )


def _count(keyring: Keyring, values: Iterable[bytes]) -> tuple[int, int]:
    """Return how many of ``values`` a key opens, and how many were tried."""
    opened = tried = 0
    for value in values:
        tried += 1
        opened += keyring.can_decrypt(value)
        if opened and tried == _MOST_COUNTED:
            break
    return opened, tried


def _option(database: Place) -> str:
    return f"-d {for_shell(database)}" if isinstance(database, Path) else database.option


def _or_beside(database: Place) -> str:
    return f", or put it back at {key_path(database)}" if isinstance(database, Path) else ""
