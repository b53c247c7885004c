"""One encryption key: the formats in which it encrypts. No I/O.

``fernet`` (AES-128-CBC with HMAC-SHA256, github.com/fernet/spec) is what released versions
wrote. ``v2`` is ``v2.`` and the urlsafe base64 of the key's id (8 bytes), a nonce (24 bytes), the
ciphertext and a tag (16 bytes): see :mod:`.xaes`. It is text, so that a BLOB, a TEXT or a dump
holds it, and no Fernet token begins like it. A text of somebody else may: see
:mod:`~nextcloud_mcp_server.schema.forms`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import struct
from contextlib import suppress
from functools import lru_cache
from typing import Final, NamedTuple, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from nextcloud_mcp_server.crypto.xaes import NONCE, XAES
from nextcloud_mcp_server.schema.forms import SECOND
from nextcloud_mcp_server.secret import SecretBytes

#: How a text of the second format begins.
PREFIX: Final = SECOND.prefix.encode("ascii")

_ID: Final = 8
#: The digits that hold the id, and some bits of the nonce.
_BEGINNING: Final = re.compile(rb"v2[.]([A-Za-z0-9_-]{12})")
_TAG: Final = 16
#: Plain base64 decodes in C; its own two digits and padding become what is not of the alphabet.
_FROM_URLSAFE: Final = bytes.maketrans(b"-_+/=", b"+/***")
#: Fernet takes both alphabets.
_FROM_EITHER: Final = bytes.maketrans(b"-_", b"+/")
_FERNET_VERSION: Final = b"\x80"
_FERNET_MAC: Final = 32
#: The last digits of a text, by the number that is missing at its end: their unused bits are zero.
#: Another one may decode to the same bytes, but is never written.
_LAST_DIGITS: Final = (b"", b"AEIMQUYcgkosw048", b"AQgw")
_length: Final = struct.Struct(">I").pack
_HEADER: Final = b"nextcloud-mcp-server v2"
_ABSENT: Final = b"\xff\xff\xff\xff"


def associated_data(label: str, *bound: str | int | None) -> bytes:
    """Return what a text is bound to: a header, its label and the values of its row.

    Each part has its length (4 bytes, big-endian) in front, so that no two lists are alike.

    Args:
        label: what the secret is. Not the name of a column, which a migration may change.
        bound: the key of the row, and values that must not be exchanged beside the secret.
    """
    return _heading(label) + b"".join(map(_prefixed, bound))


@lru_cache
def _heading(label: str) -> bytes:
    return _prefixed(_HEADER) + _prefixed(label)


def _prefixed(part: str | bytes | int | None) -> bytes:
    if part is None:
        return _ABSENT
    if not isinstance(part, bytes):
        # Not str() of a text: that of a hidden one is another.
        part = (part if isinstance(part, str) else str(part)).encode("utf-8", "surrogatepass")
    return _length(len(part)) + part


class Key:
    """A key of 32 bytes. Neither ``repr()`` nor ``vars()`` nor pickling shows it.

    Attributes:
        fingerprint: its name for people: the first 8 digits of its SHA-256.
        id: its name in a text of the second format, as 16 digits.
    """

    __slots__ = ("_audit", "_fernet", "_fernet_mac", "_raw_id", "_xaes", "fingerprint", "id")

    def __init__(self, raw: bytes) -> None:
        self._fernet = Fernet(SecretBytes(base64.urlsafe_b64encode(raw)))
        # The first half of a Fernet key signs.
        self._fernet_mac = HMAC(raw[:16], SHA256())
        self._xaes = XAES(_derived(raw, "seal"))
        self._audit = _derived(raw, "audit")
        self._raw_id = _derived(raw, "id", _ID)
        self.id: Final = self._raw_id.hex()
        self.fingerprint: Final = hashlib.sha256(raw).hexdigest()[:8]

    def seal(self, plaintext: bytes, associated: bytes, nonce: bytes | None = None) -> bytes:
        """Encrypt in the second format, bound to ``associated``; see :func:`associated_data`."""
        sealed = self._raw_id + self._xaes.seal(plaintext, associated, nonce)
        return PREFIX + base64.urlsafe_b64encode(sealed).rstrip(b"=")

    def open(self, ciphertext: bytes, associated: bytes) -> SecretBytes | None:
        """Decrypt the second format; None if the key, the row or a byte is another one."""
        found = decoded(ciphertext)
        return None if found is None else self.open_decoded(found, associated)

    def open_decoded(self, found: Decoded, associated: bytes) -> SecretBytes | None:
        """Do the same as :meth:`open` with what :func:`decoded` has returned."""
        if found.key_id != self.id:
            return None
        try:
            return SecretBytes(self._xaes.open(found.sealed, associated))
        except InvalidTag:
            return None

    def encrypt_fernet(self, plaintext: bytes) -> bytes:
        """Encrypt in the format of released versions, which a downgrade goes back to."""
        return self._fernet.encrypt(plaintext)

    def open_fernet(self, ciphertext: bytes) -> SecretBytes | None:
        """Decrypt the format of released versions; None if the key or a byte is another one."""
        with suppress(InvalidToken):
            return SecretBytes(self._fernet.decrypt(ciphertext))
        return None

    def authenticate(self, message: bytes) -> bytes:
        """Return the HMAC-SHA256 of a message, with a key of its own."""
        return hmac.digest(self._audit, message, "sha256")

    def __repr__(self) -> str:
        return f"<Key {self.fingerprint}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Key is not pickled or copied: that would expose it")

    def has_signed(self, token: bytes) -> bool:
        """Return whether this key has made a :func:`fernet_token`; nothing is decrypted."""
        mac = self._fernet_mac.copy()
        mac.update(token[:-_FERNET_MAC])
        return hmac.compare_digest(mac.finalize(), token[-_FERNET_MAC:])


def is_v2(ciphertext: bytes) -> bool:
    """Return whether a text has the form of the second format.

    So has the token of a provider that writes it alike: see :meth:`.Reading.secret`.
    """
    return ciphertext.startswith(PREFIX) and SECOND.matches(ciphertext.decode("latin-1"))


class Decoded(NamedTuple):
    """A text of the second format: the id of its key, and what :class:`.XAES` has returned."""

    key_id: str
    sealed: bytes


def key_id(ciphertext: bytes) -> str | None:
    """Return the id of the key that a text begins with, also if it was cut off; None for none."""
    found = _BEGINNING.match(ciphertext)
    return None if found is None else base64.urlsafe_b64decode(found[1])[:_ID].hex()


def decoded(ciphertext: bytes) -> Decoded | None:
    """Return the parts of a text of the second format; None if it is none.

    Nor are there any if :func:`is_v2` is true and the last digit is one that is never written.
    """
    if not ciphertext.startswith(PREFIX):
        return None
    text = ciphertext[len(PREFIX) :].translate(_FROM_URLSAFE)
    missing = -len(text) % 4
    try:
        raw = binascii.a2b_base64(text + b"=" * missing, strict_mode=True)
    except binascii.Error:
        return None
    if len(raw) < _ID + NONCE + _TAG or (missing and text[-1] not in _LAST_DIGITS[missing]):
        return None
    return Decoded(raw[:_ID].hex(), raw[_ID:])


def fernet_token(ciphertext: bytes) -> bytes | None:
    """Return the bytes of a text of the format of released versions; None if it is none."""
    try:
        raw = binascii.a2b_base64(ciphertext.translate(_FROM_EITHER))
    except binascii.Error:
        return None
    return raw if raw[:1] == _FERNET_VERSION else None


def _derived(raw: bytes, info: str, length: int = 32) -> bytes:
    name = f"nextcloud-mcp-server v2 {info}".encode("ascii")
    return SecretBytes(HKDF(SHA256(), length, salt=None, info=name).derive(raw))
