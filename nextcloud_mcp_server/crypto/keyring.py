"""The key ring: encrypt and decrypt secrets. No I/O.

The format is Fernet (AES-128-CBC with HMAC-SHA256, github.com/fernet/spec). The first of
several keys encrypts, and all of them decrypt. Every release stores its secrets in this format.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NoReturn

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from nextcloud_mcp_server.errors import TokenStorageError, invisible

_KEY: Final = re.compile(r"[A-Za-z0-9_-]{43}=")
# A correct key in quotes, or without its end, may be the only one that can decrypt the
# secrets. So the first advice is never to make a new key.
_CHECK_IT: Final = (
    "Check it for quotes, commas and a missing end; only for a new database, make one with: "
    "nextcloud-mcp-server keys generate"
)
_GIVE_IT: Final = (
    "Give the key that the secrets were encrypted with; only for a new database, make one with: "
    "nextcloud-mcp-server keys generate"
)
_ALONE: Final = (
    "Give the 44 characters of the key alone: Docker's --env-file, Compose and systemd do not "
    "read a value as a shell does."
)

#: Patterns for what is in place of a key or around it.
_MISTAKES: Final = (
    (r"^[\"'`\u2018\u201c]|[\"'`\u2019\u201d]$", "is in quotation marks"),
    (r"^\$|^%\w+%$|\{\{|^<.*>$", "is a variable or a placeholder that nothing has replaced"),
    # No key: that has 43 characters before its sign.
    (
        r"^(?:export\s+)?[A-Za-z_]\w{0,39}(?:\s*=\s*[^=\s]|:\s)",
        "has the name of a variable before it",
    ),
    (r"^base64:", "begins with base64:, which is no part of a key"),
)


class Keyring:
    """One or more Fernet keys: the first encrypts, all of them decrypt.

    Neither ``repr()`` nor ``vars()`` nor pickling shows a key.

    Args:
        keys: one, or several, newest first; each exactly the 44 characters that
            ``Fernet.generate_key()`` returns, as text or as ASCII bytes.

    Raises:
        TokenStorageError: ``malformed-key`` if there is no key, or if one is not canonical
            urlsafe base64 of 32 bytes, or is all zero. The message contains its position
            and never the key.
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

    def encrypt(self, secret: str) -> bytes:
        """Encrypt text with the newest key."""
        # Not raised inside ``except``, here and below: the error of a codec contains the
        # complete text, and would become the context of the error raised there.
        with suppress(UnicodeEncodeError):
            return self._fernets.encrypt(secret.encode("utf-8"))
        raise TokenStorageError(
            "A secret is not valid Unicode text.",
            code="bad-input",
            remedy="Pass text without lone surrogates; nothing was written.",
        )

    def decrypt(self, ciphertext: bytes | str, of: str = "A stored secret") -> str:
        """Decrypt a Fernet token with any of the keys.

        The message of an error contains ``of``: the table, column and row.

        Raises:
            TokenStorageError: ``undecryptable`` if no key decrypts it (one error for every
                failure that an attacker could cause), ``unreadable`` if the plaintext is
                not text.
        """
        with suppress(InvalidToken):
            plaintext = self._fernets.decrypt(_bytes(ciphertext))
            with suppress(UnicodeDecodeError):
                return plaintext.decode("utf-8")
            raise TokenStorageError(
                f"{of} can be decrypted, but its plaintext is not text.",
                code="unreadable",
                remedy="Delete the row, or restore it from a backup.",
            )
        raise TokenStorageError(
            f"{of} cannot be decrypted with any of the given keys.",
            code="undecryptable",
            remedy="Add the key it was encrypted with to TOKEN_ENCRYPTION_KEY, after the newest, "
            "or delete the row and ask the user to consent again.",
        )

    def can_decrypt(self, ciphertext: bytes | str) -> bool:
        """Check whether one of the keys decrypts it."""
        return self.key_of(ciphertext) is not None

    def key_of(self, ciphertext: bytes | str) -> str | None:
        """Return the fingerprint of the first key that decrypts it; None if none does."""
        for fernet, fingerprint in zip(self._each, self.fingerprints, strict=True):
            with suppress(InvalidToken):
                fernet.decrypt(_bytes(ciphertext))
                return fingerprint
        return None

    def rotate(self, ciphertext: bytes | str) -> bytes:
        """Return the same secret, encrypted with the newest key; it keeps its timestamp.

        The plaintext is not checked, so every secret that a key decrypts can be rotated.

        Raises:
            cryptography.fernet.InvalidToken: no key decrypts it; see :meth:`key_of`.
        """
        return self._fernets.rotate(_bytes(ciphertext))

    def __repr__(self) -> str:
        # Also if __init__ has failed: a traceback with locals shows what it was called on.
        return f"<Keyring of {len(getattr(self, 'fingerprints', ()))}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Keyring is not pickled or copied: that would expose its keys")


def _raw(key: object, name: str) -> bytes:
    text = key.decode("latin-1") if isinstance(key, bytes) else key
    if not isinstance(text, str):
        _refuse(f"{name} is not text.", _CHECK_IT)
    if not _KEY.fullmatch(text):
        if _KEY.fullmatch(text.replace("+", "-").replace("/", "_")):
            # Plain base64 of the same bytes. Older releases accepted it, so it may be in use.
            _refuse(
                f"{name} is base64, not urlsafe base64.", "Write - for each + and _ for each /."
            )
        legible = key.decode("utf-8", "replace") if isinstance(key, bytes) else text
        if character := invisible(legible):
            _refuse(
                f"{name} contains the invisible character {character}.", "Remove that character."
            )
        if ";" in text:
            _refuse(f"{name} contains several keys.", "Pass a list of keys, newest first.")
        _refuse_mistake(text, name)
        _refuse(f"{name} is not 44 characters of urlsafe base64.", _CHECK_IT)
    raw = base64.urlsafe_b64decode(text)
    if base64.urlsafe_b64encode(raw) != text.encode("ascii"):
        _refuse(f"{name} is not the base64 of exactly 32 bytes.", _CHECK_IT)
    if not any(raw):
        _refuse(f"{name} is all zero.", _GIVE_IT)
    return raw


def _refuse_mistake(text: str, name: str) -> None:
    """Name what is probably there in place of a key. Base64 has no dot, no ~ and no quotes."""
    if re.match(r"~|\.{0,2}/|file:", text) or ("/" in text and "." in text):
        _refuse(
            f"{name} is a path, not a key.",
            "Set TOKEN_ENCRYPTION_KEY_FILE to the path of a file with the key, and unset "
            "TOKEN_ENCRYPTION_KEY.",
        )
    for pattern, what in _MISTAKES:
        if re.search(pattern, text):
            _refuse(f"{name} {what}.", _ALONE)


def _bytes(ciphertext: object) -> bytes:
    # For text outside ASCII, Fernet raises a plain ValueError; and base64 would skip what an
    # error handler puts in its place.
    if isinstance(ciphertext, str):
        return ciphertext.encode("ascii") if ciphertext.isascii() else b""
    # A number in the row of an operator would be as many bytes.
    return bytes(ciphertext) if isinstance(ciphertext, bytes | bytearray | memoryview) else b""


def _refuse(message: str, remedy: str) -> NoReturn:
    raise TokenStorageError(message, code="malformed-key", remedy=remedy)
