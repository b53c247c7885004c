"""XAES-256-GCM (c2sp.org/XAES-256-GCM): AES-256-GCM with random nonces of 24 bytes. No I/O.

A random nonce of 12 bytes, as AES-GCM has it, may repeat after 2^32 texts, and then the key can
be attacked. Here the first half of the nonce derives a key of its own for each text (NIST SP
800-108r1, CMAC in counter mode), so that one key lasts for 2^80 texts.
"""

from __future__ import annotations

import os
import threading
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB

#: The length of a nonce in bytes.
NONCE: Final = 24

_BLOCK: Final = 16
_HALF: Final = NONCE // 2


class XAES:
    """Encrypts and decrypts with one key of 32 bytes. Threads may share it."""

    __slots__ = ("_cipher", "_each_thread", "_masked")

    def __init__(self, key: bytes) -> None:
        self._cipher = Cipher(AES256(key), ECB())  # noqa: S305 - CMAC is made of single blocks
        self._each_thread = threading.local()
        # The subkey K1 of CMAC: the encrypted zero block, doubled in GF(2^128).
        block = int.from_bytes(self._blocks(bytes(_BLOCK)))
        doubled = block << 1
        if doubled >> 128:
            doubled ^= (1 << 128) | 0x87
        # Both blocks but for the nonce: a counter, the label X and a zero byte, masked with K1.
        first, second = (int.from_bytes(b"\x00%cX\x00" % n) << 8 * _HALF for n in (1, 2))
        self._masked = (first ^ doubled) << 128 | second ^ doubled

    def seal(self, plaintext: bytes, associated: bytes, nonce: bytes | None = None) -> bytes:
        """Return a nonce, the ciphertext and its tag.

        Args:
            plaintext: what is encrypted.
            associated: what is authenticated with it, and must be given again to open it.
            nonce: 24 bytes that are never used twice; None for random ones.
        """
        nonce = os.urandom(NONCE) if nonce is None else nonce
        sealed = self._derived(nonce).encrypt(nonce[_HALF:], plaintext, associated)
        return nonce + sealed

    def open(self, sealed: bytes, associated: bytes) -> bytes:
        """Return the plaintext of what :meth:`seal` has returned.

        Raises:
            cryptography.exceptions.InvalidTag: another key, another row, or changed bytes.
        """
        nonce, ciphertext = sealed[:NONCE], sealed[NONCE:]
        return self._derived(nonce).decrypt(nonce[_HALF:], ciphertext, associated)

    def _derived(self, nonce: bytes) -> AESGCM:
        half = int.from_bytes(nonce[:_HALF])
        blocks = (half << 128 | half) ^ self._masked
        return AESGCM(self._blocks(blocks.to_bytes(2 * _BLOCK)))

    def _blocks(self, blocks: bytes) -> bytes:
        # Threads cannot share one, and to make one for each text takes as long as all the rest.
        encryptor = getattr(self._each_thread, "encryptor", None)
        if encryptor is None:
            encryptor = self._each_thread.encryptor = self._cipher.encryptor()
        result: bytes = encryptor.update(blocks)
        return result
