"""The key ring: how secrets are sealed, opened and moved to a newer key. No I/O.

The recipe is Fernet (AES-128-CBC with HMAC-SHA256, github.com/fernet/spec), and the first
of several keys seals while all of them open. Every released version wrote its secrets so.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import Final, NoReturn

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from nextcloud_mcp_server.errors import TokenStorageError

_KEY: Final = re.compile(r"[A-Za-z0-9_-]{43}=")
# A good key in quotes, or without its end, may be the only one that opens what is stored, so
# a new one is never the first advice.
_CHECK_IT: Final = (
    "Check it for quotes, commas and a missing end; only for a new database, make one with: "
    'python3 -c "import base64, os; print(base64.urlsafe_b64encode(os.urandom(32)).decode())"'
)
_GIVE_IT: Final = (
    "Give the key that the secrets were sealed with; only for a new database, make one with: "
    'python3 -c "import base64, os; print(base64.urlsafe_b64encode(os.urandom(32)).decode())"'
)


class Keyring:
    """One or more Fernet keys: the first seals, all of them open.

    Neither ``repr()`` nor ``vars()`` nor pickling gives a key away.

    Args:
        keys: one, or several, newest first; each exactly the 44 characters that
            ``Fernet.generate_key()`` makes, as text or as ASCII bytes.

    Raises:
        TokenStorageError: ``malformed-key`` when there is no key, or when one is not
            canonical urlsafe base64 of 32 bytes, or is all zero. The message names its
            position and never the key.
    """

    __slots__ = ("_each", "_fernets", "fingerprints")

    def __init__(self, keys: str | bytes | Sequence[str | bytes]) -> None:
        if isinstance(keys, str | bytes) or not isinstance(keys, Sequence):
            # A text is a sequence of texts: without this, each character would be a key.
            keys = (keys,)
        if not keys:
            _refuse("No encryption key was given.", _GIVE_IT)
        raw = [_raw(key, f"Encryption key {n} of {len(keys)}") for n, key in enumerate(keys, 1)]
        self._each = [Fernet(base64.urlsafe_b64encode(key)) for key in raw]
        self._fernets = MultiFernet(self._each)
        self.fingerprints: Final = tuple(hashlib.sha256(key).hexdigest()[:8] for key in raw)

    def seal(self, secret: str) -> bytes:
        """Encrypt text with the newest key, into the form every release wrote."""
        plaintext = _utf8(secret)
        if plaintext is None:
            raise TokenStorageError(
                "A secret is not valid Unicode text.",
                code="bad-input",
                remedy="Pass text without lone surrogates; nothing was written.",
            )
        return self._fernets.encrypt(plaintext)

    def open(self, ciphertext: bytes | str, of: str = "A stored secret") -> str:
        """Decrypt what any of the keys sealed, read from a BLOB or from a TEXT value.

        Args:
            ciphertext: the Fernet token.
            of: what it is, for the message: table, column and row.

        Raises:
            TokenStorageError: ``undecryptable`` when no key opens it (one error for every
                failure that an attacker could cause), ``unreadable`` when what was sealed
                is not text.
        """
        plaintext = self._decrypted(ciphertext)
        if plaintext is None:
            _undecryptable(of)
        secret = _text(plaintext)
        if secret is None:
            raise TokenStorageError(
                f"{of} was sealed with one of the given keys and is not text.",
                code="unreadable",
                remedy="Delete the row, or restore it from a backup.",
            )
        return secret

    def opens(self, ciphertext: bytes | str) -> bool:
        """Whether one of the keys sealed this."""
        return self._decrypted(ciphertext) is not None

    def opened_by(self, ciphertext: bytes | str) -> str | None:
        """The fingerprint of the first key that opens this; None where none does."""
        for fernet, fingerprint in zip(self._each, self.fingerprints, strict=True):
            try:
                fernet.decrypt(_bytes(ciphertext))
            except InvalidToken:
                continue
            return fingerprint
        return None

    def rotate(self, ciphertext: bytes | str, of: str = "A stored secret") -> bytes:
        """Seal again with the newest key, keeping the time at which it was first sealed.

        Raises:
            TokenStorageError: ``undecryptable`` when no key opens it.
        """
        try:
            return self._fernets.rotate(_bytes(ciphertext))
        except InvalidToken:
            pass
        return _undecryptable(of)

    def _decrypted(self, ciphertext: bytes | str) -> bytes | None:
        try:
            return self._fernets.decrypt(_bytes(ciphertext))
        except InvalidToken:
            return None

    def __repr__(self) -> str:
        return f"<Keyring of {len(self.fingerprints)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Keyring is not pickled or copied: that would write its keys out")


def _raw(key: object, name: str) -> bytes:
    text = key.decode("latin-1") if isinstance(key, bytes) else key
    if not isinstance(text, str):
        _refuse(f"{name} is not text.", _CHECK_IT)
    if not _KEY.fullmatch(text):
        if _KEY.fullmatch(text.replace("+", "-").replace("/", "_")):
            # Plain base64 of the same bytes; older releases took it, so it may be in use.
            _refuse(
                f"{name} is base64, not urlsafe base64.", "Write - for each + and _ for each /."
            )
        if ";" in text:
            _refuse(f"{name} is several keys in one text.", "Pass a list of keys, newest first.")
        _refuse(f"{name} is not 44 characters of urlsafe base64.", _CHECK_IT)
    raw = base64.urlsafe_b64decode(text)
    if base64.urlsafe_b64encode(raw) != text.encode("ascii"):
        _refuse(f"{name} does not end as base64 of 32 bytes ends.", _CHECK_IT)
    if not any(raw):
        _refuse(f"{name} is all zero.", _GIVE_IT)
    return raw


def _bytes(ciphertext: bytes | str) -> bytes:
    # Fernet meets text outside ASCII with a bare ValueError.
    if isinstance(ciphertext, str):
        return ciphertext.encode("ascii", "replace")
    return bytes(ciphertext)


# These two answer None instead of raising inside ``except``: the error of a codec carries
# the whole text, and the error raised there would carry it along as its context.
def _utf8(text: str) -> bytes | None:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return None


def _text(plaintext: bytes) -> str | None:
    try:
        return plaintext.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _refuse(message: str, remedy: str) -> NoReturn:
    raise TokenStorageError(message, code="malformed-key", remedy=remedy)


def _undecryptable(of: str) -> NoReturn:
    raise TokenStorageError(
        f"{of} cannot be opened with any of the given keys.",
        code="undecryptable",
        remedy="Add the key it was sealed with to TOKEN_ENCRYPTION_KEY, after the newest, "
        "or delete the row and ask the user to consent again.",
    )
