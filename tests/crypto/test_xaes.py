"""XAES-256-GCM, held by the vectors of its specification (c2sp.org/XAES-256-GCM)."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.exceptions import InvalidTag

from nextcloud_mcp_server.crypto.xaes import NONCE, XAES

#: Key, associated data and ciphertext; the most significant bit of the subkey is 0 and 1.
PUBLISHED = {
    "no doubling carry": (
        bytes([1] * 32),
        b"",
        "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271",
    ),
    "doubling carry": (
        bytes([3] * 32),
        b"c2sp.org/XAES-256-GCM",
        "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
    ),
}
#: The SHAKE128 of the ciphertexts of 10,000 random inputs.
ACCUMULATED = "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939"


@pytest.mark.parametrize(("key", "associated", "expected"), PUBLISHED.values(), ids=PUBLISHED)
def test_the_published_vectors(key: bytes, associated: bytes, expected: str) -> None:
    """The nonce and the published ciphertext are returned, and decrypted again."""
    nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX"
    sealed = XAES(key).seal(b"XAES-256-GCM", associated, nonce)
    assert sealed == nonce + bytes.fromhex(expected)
    assert XAES(key).open(sealed, associated) == b"XAES-256-GCM"
    with pytest.raises(InvalidTag):
        XAES(key).open(sealed, associated + b"x")


def test_the_accumulated_vector() -> None:
    """Ten thousand random keys, nonces, texts and associated data give the published hash."""
    rounds = 10_000
    stream = memoryview(hashlib.shake_128(b"").digest(rounds * (32 + NONCE + 2 * 256)))
    taken = 0

    def read(length: int) -> bytes:
        nonlocal taken
        taken += length
        return bytes(stream[taken - length : taken])

    accumulated = hashlib.shake_128()
    for _ in range(rounds):
        xaes, nonce = XAES(read(32)), read(NONCE)
        plaintext = read(read(1)[0])
        associated = read(read(1)[0])
        sealed = xaes.seal(plaintext, associated, nonce)
        accumulated.update(sealed[NONCE:])
        assert xaes.open(sealed, associated) == plaintext
    assert accumulated.hexdigest(32) == ACCUMULATED


def test_threads_share_a_key() -> None:
    """Eight threads encrypt and decrypt with one object, and no nonce stands twice."""
    xaes = XAES(bytes(range(32)))

    def work(number: int) -> list[bytes]:
        texts = []
        for turn in range(300):
            plaintext, associated = b"%d" % turn, b"%d" % number
            texts.append(xaes.seal(plaintext, associated))
            assert xaes.open(texts[-1], associated) == plaintext
        return texts

    with ThreadPoolExecutor(8) as pool:
        sealed = [text for texts in pool.map(work, range(8)) for text in texts]
    assert len({text[:NONCE] for text in sealed}) == len(sealed) == 2_400
