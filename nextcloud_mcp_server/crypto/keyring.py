"""The key ring: encrypt and decrypt secrets. No I/O.

The keys decrypt both formats of :mod:`.key`. Which of them encrypts, and whether Fernet is still
accepted, is written in the database.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Final, NoReturn

from nextcloud_mcp_server.crypto.key import Decoded, Key, decoded, fernet_token, key_id
from nextcloud_mcp_server.errors import TokenStorageError, invisible
from nextcloud_mcp_server.secret import SecretBytes, hidden

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
    """One or more keys: all of them decrypt.

    Neither ``repr()`` nor ``vars()`` nor pickling shows a key.

    Args:
        keys: one, or several, newest first; each exactly the 44 characters that
            ``Fernet.generate_key()`` returns, as text or as ASCII bytes.
        places: where each of them comes from, for the message; None without a name.
        hint: a sentence for the remedy, about how keys are written there.

    Raises:
        TokenStorageError: ``malformed-key`` if there is no key, or if one is not canonical
            urlsafe base64 of 32 bytes, or is all zero. The message contains its position and
            place, and never the key.

    Attributes:
        keys: the keys, newest first, each once.
        fingerprints: their names, in the same order.
    """

    __slots__ = ("_by_id", "fingerprints", "keys")

    def __init__(
        self,
        keys: str | bytes | Sequence[str | bytes],
        *,
        places: Sequence[str] | None = None,
        hint: str = "",
    ) -> None:
        keys = hidden(keys)
        if isinstance(keys, str | bytes) or not isinstance(keys, Sequence):
            # A text is a sequence of texts: without this, each character would be a key.
            keys = (keys,)
        if not keys:
            _refuse("No encryption key was given.", _GIVE_IT)
        where = [""] * len(keys) if places is None else [f" ({place})" for place in places]
        names = [f"Encryption key {n} of {len(keys)}{one}" for n, one in enumerate(where, 1)]
        try:
            raw = [_raw(key, name) for key, name in zip(keys, names, strict=True)]
        except TokenStorageError as error:
            _refuse(error.message, f"{hint} {error.remedy}" if hint else error.remedy)
        self._take(tuple(map(Key, dict.fromkeys(raw))))

    def _take(self, keys: tuple[Key, ...]) -> None:
        self.keys = keys
        self._by_id = {key.id: key for key in keys}
        self.fingerprints = tuple(key.fingerprint for key in keys)

    def joined(self, others: Keyring) -> Keyring:
        """Return a key ring with these keys, and after them those of ``others``."""
        found = object.__new__(Keyring)
        found._take((*self.keys, *(key for key in others.keys if key.id not in self._by_id)))
        return found

    def get(self, name: str) -> Key | None:
        """Return the key of this id or fingerprint; None if it was not given."""
        found = self._by_id.get(name)
        return found or next((key for key in self.keys if key.fingerprint == name), None)

    def opened(self, ciphertext: bytes | str, associated: bytes) -> tuple[Key, SecretBytes] | None:
        """Return the key that decrypts a text of either format, and the plaintext.

        None if no key does: one answer for every failure that an attacker could cause. Fernet
        binds a text to nothing, so ``associated`` counts for the second format only.
        """
        raw = as_bytes(ciphertext)
        found = decoded(raw)
        if found is None:
            return self.opened_fernet(raw)
        return self.opened_decoded(found, associated)

    def opened_decoded(self, found: Decoded, associated: bytes) -> tuple[Key, SecretBytes] | None:
        """Do the same for what :func:`.decoded` has returned."""
        key = self._by_id.get(found.key_id)
        plaintext = None if key is None else key.open_decoded(found, associated)
        return None if key is None or plaintext is None else (key, plaintext)

    def opened_fernet(self, raw: bytes) -> tuple[Key, SecretBytes] | None:
        """Do the same for what released versions have encrypted."""
        for key in self.keys:
            if (plaintext := key.open_fernet(raw)) is not None:
                return key, plaintext
        return None

    def key_of(self, ciphertext: bytes | str) -> str | None:
        """Return the fingerprint of the key that a text was encrypted with; None for no key here.

        In the second format the text names its key, and what it is bound to is not checked. In the
        other one only its signature is: a start tries every secret before it refuses the keys.
        """
        raw = as_bytes(ciphertext)
        if (name := key_id(raw)) is not None:
            key = self._by_id.get(name)
        else:
            token = fernet_token(raw)
            key = next((key for key in self.keys if token and key.has_signed(token)), None)
        return None if key is None else key.fingerprint

    def can_decrypt(self, ciphertext: bytes | str) -> bool:
        """Check whether the key of a text is one of these."""
        return self.key_of(ciphertext) is not None

    def __repr__(self) -> str:
        # Also if __init__ has failed: a traceback with locals shows what it was called on.
        return f"<Keyring of {len(getattr(self, 'keys', ()))}>"

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
    raw = SecretBytes(base64.urlsafe_b64decode(text))
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


def as_bytes(ciphertext: object) -> bytes:
    """Return a text as it is stored in a BLOB or a TEXT; nothing for any other value."""
    # For text outside ASCII, Fernet raises a plain ValueError; and base64 would skip what an
    # error handler puts in its place.
    if type(ciphertext) is bytes:
        return ciphertext
    if isinstance(ciphertext, str):
        return ciphertext.encode("ascii") if ciphertext.isascii() else b""
    # A number in the row of an operator would be as many bytes.
    return bytes(ciphertext) if isinstance(ciphertext, bytes | bytearray | memoryview) else b""


def _refuse(message: str, remedy: str) -> NoReturn:
    raise TokenStorageError(message, code="malformed-key", remedy=remedy)
