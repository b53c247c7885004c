"""The key ring."""

from __future__ import annotations

import base64
import copy
import pickle
import re
import subprocess
import sys
import traceback
from functools import partial
from typing import Any

import pytest
from cryptography.fernet import Fernet, InvalidToken
from hypothesis import given
from hypothesis import strategies as st

from nextcloud_mcp_server.crypto.key import associated_data
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.errors import TokenStorageError
from tests.support.errors import refused, refuses

#: A public key, for tests only.
KEY = "bm1jcC1jb3JwdXMtZml4ZWQta2V5LTAxMjM0NTY3ODk="
SPEC_KEY = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="
SPEC_TOKEN = (
    "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64j"
    "VmpU4IwqDA=="
)

#: Written by v0.176.0 with KEY. `tests/history` reads the databases of every release.
RELEASED = {
    "v0.176.0, a token": (
        (
            "gAAAAABrAuA199HVz0FDO9HtwHii7esvIKhPCqTXw7acLkt51-KbwL_kJcLiagNasENHGk-7Dnd3e-PFMQXTcp3l"
            "RAlQXoljYw=="
        ),
        "rt-alice-0001",
    ),
    "v0.176.0, outside ASCII": (
        (
            "gAAAAABrAuA1DO8Rs57ZVLq8Ua1zARf8W9236C8PD0cgU5qYtDFXpYNVVernp4BOKvL_3O1BDrSmvVF2pkj9SgXq"
            "4bSmvz1CP1ZMLOsF6_Soyk66eX4HjKo="
        ),
        "tök€n-🔑-0003",
    ),
}

MALFORMED = {
    "empty": "",
    "two keys with a comma, which plain Fernet takes for the first": f"{KEY},{SPEC_KEY}",
    "two keys with a semicolon": f"{KEY};{SPEC_KEY}",
    "junk behind the padding": f"{KEY}junk",
    "a newline behind the padding": f"{KEY}\n",
    "no padding": KEY[:-1],
    "double padding": KEY[:-2] + "==",
    "a password": "correct horse battery staple",
    "32 bytes in hex": "00ff" * 16,
    "31 bytes": base64.urlsafe_b64encode(b"k" * 31).decode(),
    "33 bytes": base64.urlsafe_b64encode(b"k" * 33).decode(),
    "bits behind the last byte": KEY[:-2] + "l=",
    "all zero": base64.urlsafe_b64encode(bytes(32)).decode(),
    "44 characters outside ASCII": "é" * 44,
    "encoded twice": base64.b64encode(KEY.encode()).decode(),
    "plain base64": base64.b64encode(b"\xfb\xff" * 16).decode(),
}


#: What the texts of the second format are bound to in these tests.
ROW = associated_data("refresh_token", "alice", "nextcloud")


def opened(keyring: Keyring, ciphertext: Any) -> str | None:
    """Return the plaintext of a text of either format; None if no key decrypts it."""
    found = keyring.opened(ciphertext, ROW)
    return None if found is None else found[1].decode()


@pytest.mark.parametrize(("ciphertext", "secret"), RELEASED.values(), ids=RELEASED)
def test_secrets_of_releases_are_decrypted(ciphertext: str, secret: str) -> None:
    """Secrets of a release are decrypted, from BLOB and from TEXT."""
    keyring = Keyring([KEY])
    assert opened(keyring, ciphertext.encode()) == secret
    assert opened(keyring, ciphertext) == secret


def test_the_vector_of_the_specification() -> None:
    """The token of the Fernet specification is decrypted, whatever its age."""
    assert opened(Keyring([SPEC_KEY]), SPEC_TOKEN) == "hello"


@given(st.text(), st.booleans())
def test_encrypted_text_is_decrypted(secret: str, released: bool) -> None:
    """Any text can be encrypted in either format, and plain Fernet decrypts the released one."""
    [key] = Keyring([KEY]).keys
    if released:
        encrypted = key.encrypt_fernet(secret.encode())
        assert Fernet(KEY).decrypt(encrypted).decode() == secret
    else:
        encrypted = key.seal(secret.encode(), ROW)
    assert opened(Keyring([KEY]), encrypted) == secret
    assert opened(Keyring([KEY]), encrypted.decode("ascii")) == secret


def test_the_key_that_decrypts_is_returned() -> None:
    """Each key decrypts its texts of both formats, and the caller learns which one did."""
    both = Keyring([KEY, SPEC_KEY])
    for key in both.keys:
        for text in (key.seal(b"secret", ROW), key.encrypt_fernet(b"secret")):
            assert both.opened(text, ROW) == (key, b"secret")
    [old] = Keyring([SPEC_KEY]).keys
    assert opened(Keyring([KEY]), old.seal(b"secret", ROW)) is None
    assert opened(Keyring([KEY]), old.encrypt_fernet(b"secret")) is None


def test_keys_are_text_or_bytes() -> None:
    """A key may be ASCII bytes, and a single key needs no list."""
    [key] = Keyring(KEY).keys
    assert opened(Keyring([KEY.encode()]), key.seal(b"x", ROW)) == "x"


def test_a_key_is_found_by_either_name() -> None:
    """By its id, as a text has it, or by its fingerprint, as a person has it."""
    ring = Keyring([KEY, SPEC_KEY, KEY])
    assert len(ring.keys) == 2
    for key in ring.keys:
        assert ring.get(key.id) is ring.get(key.fingerprint) is key
    assert ring.get("") is None
    assert Keyring([KEY]).get(ring.keys[1].id) is None


@pytest.mark.parametrize(
    ("form", "character"),
    [
        ("\ufeff{}", "U+FEFF"),
        ("{}\u200b", "U+200B"),
        ("\u00a0{}", "U+00A0"),
        ("{}\r", "U+000D"),
        ("\u200e{}", "U+200E"),
    ],
    ids=ascii,
)
def test_an_invisible_character_in_a_key_is_named(form: str, character: str) -> None:
    """The error has its code point, and the remedy removes it."""
    key = form.format(KEY)
    for given_as in (key, key.encode()):
        with refuses("malformed-key", f"contains the invisible character {re.escape(character)}"):
            Keyring([given_as])


@pytest.mark.parametrize("key", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_key_is_refused(key: str) -> None:
    """The error for a malformed key has its position and never the key."""
    for form in (key, key.encode()):
        error = refused(partial(Keyring, [KEY, form]), "malformed-key")
        text = "".join(traceback.format_exception(error)) + error.remedy
        assert "key 2 of 2" in text
        assert KEY[:20] not in text
        assert not key or key not in text


def test_a_new_key_is_never_the_first_advice() -> None:
    """The remedy is first to check the key; its command creates a valid one."""
    assert "keys generate" not in refused(partial(Keyring, [f'"{KEY}"'])).remedy
    for key in (f"{KEY},", KEY[:-1], KEY[:40]):
        error = refused(partial(Keyring, [key]))
        remedy = error.remedy
        assert remedy.startswith("Check it for quotes, commas and a missing end; ")
        assert remedy.index("only for a new database") < remedy.index("make one")
        command = remedy.partition("make one with: nextcloud-mcp-server ")[2].split()
        module = [sys.executable, "-m", "nextcloud_mcp_server", *command]
        made = subprocess.run(module, capture_output=True, check=True)
        assert Keyring([made.stdout.strip()]).fingerprints


@pytest.mark.parametrize("given", [5, 0, None, {KEY}, [5], [KEY, None], []], ids=str)
def test_a_key_must_be_text(given: Any) -> None:
    """A number or a set is refused, and so is an empty list."""
    with refuses("malformed-key", match=r"is not text|No encryption key"):
        Keyring(given)


def test_a_key_in_plain_base64_can_be_rewritten() -> None:
    """Older releases accepted a key with + and /; the remedy shows how to keep using it."""
    plain = base64.b64encode(b"\xfb\xff" * 16).decode()
    with pytest.raises(TokenStorageError, match="not urlsafe") as caught:
        Keyring([plain])
    assert caught.value.remedy == "Write - for each + and _ for each /."
    rewritten = plain.replace("+", "-").replace("/", "_")
    assert Keyring([rewritten]).can_decrypt(Fernet(plain).encrypt(b"x"))


@pytest.mark.parametrize(
    "ciphertext",
    [
        b"",
        b"gAAAA",
        b"plaintext",
        b"\x00\xff",
        "nicht-ascii-ä",
        "\ud800",
        SPEC_TOKEN,
        Fernet(KEY).encrypt(b"x").decode() + "\udcff",
        RELEASED["v0.176.0, a token"][0][:-4] + "AAA=",
        RELEASED["v0.176.0, a token"][0][:50],
    ],
)
def test_other_ciphertexts_have_one_result(ciphertext: bytes | str) -> None:
    """For a ciphertext that is changed, cut or of another key the result is the same."""
    keyring = Keyring([KEY])
    assert not keyring.can_decrypt(ciphertext)
    assert keyring.opened(ciphertext, ROW) is None


@pytest.mark.parametrize("stored", [5, -1, 2**62, 1.5, None], ids=repr)
def test_a_number_is_no_ciphertext(stored: Any) -> None:
    """What an operator wrote into the column has the same answer."""
    keyring = Keyring([KEY])
    assert not keyring.can_decrypt(stored)
    assert keyring.opened(stored, ROW) is None


@given(st.binary(), st.booleans())
def test_arbitrary_bytes_are_not_decrypted(ciphertext: bytes, prefixed: bool) -> None:
    """Arbitrary bytes have this answer and raise nothing."""
    text = b"v2." + ciphertext if prefixed else ciphertext
    assert Keyring([KEY]).opened(text, ROW) is None
    assert Keyring([KEY]).key_of(text) is None


_CHANGE = st.tuples(st.integers(0, 10_000), st.binary(max_size=3), st.integers(0, 3))


@given(st.binary(max_size=300), st.integers(0, 10_000), st.integers(0, 7))
def test_every_flipped_bit_is_noticed(secret: bytes, place: int, bit: int) -> None:
    """A text of which any bit was changed before its encoding has no key."""
    raw = bytearray(base64.urlsafe_b64decode(Fernet(KEY).encrypt(secret)))
    raw[place % len(raw)] ^= 1 << bit
    assert not Keyring([KEY]).can_decrypt(base64.urlsafe_b64encode(raw))


@given(st.binary(max_size=300), st.lists(_CHANGE, max_size=3), st.booleans())
def test_the_signature_tells_what_fernet_opens(
    secret: bytes, changes: list[tuple[int, bytes, int]], wrong: bool
) -> None:
    """A text has a key if plain Fernet opens it, and none after a change that Fernet notices."""
    text = Fernet(SPEC_KEY if wrong else KEY).encrypt(secret)
    for place, inserted, removed in changes:
        at = place % max(len(text), 1)
        text = text[:at] + inserted + text[at + removed :]
    try:
        expected = Fernet(KEY).decrypt(text) == secret
    except InvalidToken:
        expected = False
    assert Keyring([KEY]).can_decrypt(text) is expected
    assert (Keyring([KEY]).opened(text, b"") is not None) is expected


@pytest.mark.parametrize("released", [False, True], ids=["v2", "fernet"])
def test_encrypted_bytes_that_are_not_text_raise(released: bool) -> None:
    """A plaintext that is not UTF-8 was decrypted, which the caller tells apart."""
    keyring = Keyring([KEY])
    [key] = keyring.keys
    encrypted = key.encrypt_fernet(b"\xff\xfe") if released else key.seal(b"\xff\xfe", ROW)
    assert keyring.can_decrypt(encrypted)
    with pytest.raises(UnicodeDecodeError):
        opened(keyring, encrypted)


def test_fingerprints_differ() -> None:
    """Each key has a short, stable fingerprint that is not a part of it."""
    first, second = Keyring([KEY, SPEC_KEY]).fingerprints
    assert (first,) == Keyring([KEY]).fingerprints
    assert first != second
    assert len(first) == 8
    assert first not in KEY


def test_joined_keys_are_newest_first_and_each_once() -> None:
    """Those of the changed file come first, and after them the others that were there before."""
    before, after = Keyring([KEY, SPEC_KEY]), Keyring([Fernet.generate_key(), SPEC_KEY])
    joined = after.joined(before)
    assert joined.fingerprints == (*after.fingerprints, before.fingerprints[0])
    assert [key.fingerprint for key in joined.keys] == [*joined.fingerprints]
    assert joined.get(before.keys[0].id) is before.keys[0]


def test_a_key_ring_shows_no_key() -> None:
    """repr() and str() show no key, and vars(), pickling and copying fail."""
    keyring = Keyring([KEY, SPEC_KEY])
    assert repr(keyring) == str(keyring) == "<Keyring of 2>"
    with pytest.raises(TypeError):
        vars(keyring)
    for key in keyring.keys:
        assert repr(key) == str(key) == f"<Key {key.fingerprint}>"
        with pytest.raises(TypeError):
            vars(key)
    for write_out in (pickle.dumps, copy.copy, copy.deepcopy):
        for holder in (keyring, *keyring.keys):
            with pytest.raises(TypeError, match="not pickled or copied"):
                write_out(holder)


def test_the_key_of_a_secret() -> None:
    """The fingerprint is that of the key that decrypts the secret, or None."""
    one, other, third = (Fernet.generate_key() for _ in range(3))
    ring = Keyring([one, other])
    assert ring.key_of(Fernet(one).encrypt(b"s")) == ring.fingerprints[0]
    assert ring.key_of(Fernet(other).encrypt(b"s").decode()) == ring.fingerprints[1]
    assert ring.key_of(Fernet(third).encrypt(b"s")) is None
    assert ring.key_of(ring.keys[1].seal(b"s", ROW)) == ring.fingerprints[1]
    assert ring.key_of(Keyring([third]).keys[0].seal(b"s", ROW)) is None
    assert ring.key_of(b"") is None
    assert ring.key_of("\ud83d") is None


def test_a_key_ring_that_was_refused_has_a_repr() -> None:
    """A traceback with locals shows it too, and must not fail for it."""
    with pytest.raises(TokenStorageError) as caught:
        Keyring("no key")
    traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert repr(Keyring.__new__(Keyring)) == "<Keyring of 0>"
