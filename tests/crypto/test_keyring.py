"""The key ring."""

from __future__ import annotations

import base64
import copy
import pickle
import subprocess
import sys
import traceback
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.errors import TokenStorageError

#: A key that protects nothing: it is printed in public.
KEY = "bm1jcC1jb3JwdXMtZml4ZWQta2V5LTAxMjM0NTY3ODk="
SPEC_KEY = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="
SPEC_TOKEN = (
    "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64j"
    "VmpU4IwqDA=="
)

#: Written by the release named, with KEY.
RELEASED = {
    "f34366a2, before v0.23.0": (
        (
            "gAAAAABrAuAIbvbaQhG3iL3FrGJ17FBLYQVahdtUrp3dSkF9g0dq3I86IxPyugD_XAlhwhPotsXsEjM1MIJlu9LC"
            "Q1UyCgguXg=="
        ),
        "rt-bob-0002",
    ),
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
    "v0.176.0, a client secret": (
        (
            "gAAAAABrAuA14SCBGFZItc1dLfLWCMcYjxiE87yp8v163QGwiVVOw5hZGosRTfqiM9ZbhXDx4MZSmOyLXCjUsREa"
            "CBlNKx75xGZEN_kYRi-SVkaOOOL5zYw="
        ),
        "client-s3cr3t-ÄÖÜ",
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


@pytest.mark.parametrize(("ciphertext", "secret"), RELEASED.values(), ids=RELEASED)
def test_what_releases_wrote_opens(ciphertext: str, secret: str) -> None:
    """Every secret that a released version sealed opens, from BLOB and from TEXT."""
    keyring = Keyring([KEY])
    assert keyring.decrypt(ciphertext.encode()) == secret
    assert keyring.decrypt(ciphertext) == secret


def test_the_vector_of_the_specification_opens() -> None:
    """The token of the Fernet specification opens, 40 years old as it is."""
    assert Keyring([SPEC_KEY]).decrypt(SPEC_TOKEN) == "hello"


@given(st.text())
def test_what_is_sealed_opens(secret: str) -> None:
    """Any text survives, and plain Fernet, as releases use it, opens it too."""
    sealed = Keyring([KEY]).encrypt(secret)
    assert Keyring([KEY]).decrypt(sealed) == secret
    assert Fernet(KEY).decrypt(sealed).decode() == secret
    assert sealed.startswith(b"gAAAA")


def test_the_first_key_seals_and_all_open() -> None:
    """After a new key is put in front, it seals, and what the old one sealed still opens."""
    old = Keyring([SPEC_KEY]).encrypt("secret")
    both = Keyring([KEY, SPEC_KEY])
    assert both.decrypt(old) == "secret"
    assert Keyring([KEY]).decrypt(both.encrypt("new")) == "new"


def test_rotation_moves_to_the_first_key_and_keeps_the_time() -> None:
    """A rotated secret opens with the new key alone and says when it was first sealed."""
    rotated = Keyring([KEY, SPEC_KEY]).rotate(SPEC_TOKEN)
    assert Keyring([KEY]).decrypt(rotated) == "hello"
    assert Fernet(KEY).extract_timestamp(rotated) == Fernet(SPEC_KEY).extract_timestamp(SPEC_TOKEN)


def test_keys_are_taken_as_text_or_bytes() -> None:
    """A key may come as ASCII bytes, and one key need not stand in a list."""
    assert Keyring([KEY.encode()]).decrypt(Keyring(KEY).encrypt("x")) == "x"


@pytest.mark.parametrize("key", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_key_is_refused(key: str) -> None:
    """Whatever is not exactly a Fernet key is refused by its position, and never printed."""
    for form in (key, key.encode()):
        with pytest.raises(TokenStorageError) as caught:
            Keyring([KEY, form])
        assert caught.value.code == "malformed-key"
        told = "".join(traceback.format_exception(caught.value)) + caught.value.remedy
        assert "key 2 of 2" in told
        assert KEY[:20] not in told
        assert not key or key not in told


def test_a_new_key_is_never_the_first_advice() -> None:
    """A good key that was quoted or cut off is looked for first; the command makes a good one."""
    for key in (f'"{KEY}"', f"{KEY},", KEY[:-1], KEY[:40]):
        with pytest.raises(TokenStorageError) as caught:
            Keyring([key])
        remedy = caught.value.remedy
        assert remedy.startswith("Check it for quotes, commas and a missing end; ")
        assert remedy.index("only for a new database") < remedy.index("make one")
        code = remedy.partition('-c "')[2].removesuffix('"')
        made = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        assert Keyring([made.stdout.strip()]).fingerprints


def test_no_key_is_refused() -> None:
    """A ring without a key could open nothing: it is refused."""
    with pytest.raises(TokenStorageError) as caught:
        Keyring([])
    assert caught.value.code == "malformed-key"


@pytest.mark.parametrize("given", [5, 0, None, {KEY}, [5], [KEY, None]], ids=str)
def test_what_is_no_text_is_no_key(given: Any) -> None:
    """Neither a number, nor a set, which has no newest one, is a key ring."""
    with pytest.raises(TokenStorageError, match="is not text") as caught:
        Keyring(given)
    assert caught.value.code == "malformed-key"


def test_a_key_in_plain_base64_is_told_how_to_be_written() -> None:
    """Older releases took a key with + and /; the remedy says how to keep using it."""
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
        RELEASED["v0.176.0, a token"][0][:-4] + "AAA=",
        RELEASED["v0.176.0, a token"][0][:50],
    ],
)
def test_what_does_not_open_raises_one_error(ciphertext: bytes | str) -> None:
    """Tampered, cut or somebody else's: the error is the same and names what it was."""
    keyring = Keyring([KEY])
    assert not keyring.can_decrypt(ciphertext)
    for attempt in (keyring.decrypt, keyring.rotate):
        with pytest.raises(TokenStorageError) as caught:
            attempt(ciphertext, "refresh_tokens.encrypted_token of user 'alice'")
        assert caught.value.code == "undecryptable"
        assert str(caught.value) == (
            "refresh_tokens.encrypted_token of user 'alice' "
            "cannot be decrypted with any of the given keys."
        )


@given(st.binary())
def test_no_bytes_open_by_chance(ciphertext: bytes) -> None:
    """Arbitrary bytes raise the named error and no other."""
    with pytest.raises(TokenStorageError) as caught:
        Keyring([KEY]).decrypt(ciphertext)
    assert caught.value.code == "undecryptable"


def test_sealed_bytes_that_are_no_text_raise() -> None:
    """What a key of ours sealed and is not UTF-8 is unreadable; no error carries it along."""
    sealed = Fernet(KEY).encrypt(b"\xff\xfe")
    keyring = Keyring([KEY])
    assert keyring.can_decrypt(sealed)
    with pytest.raises(TokenStorageError) as caught:
        keyring.decrypt(sealed)
    assert caught.value.code == "unreadable"
    assert caught.value.__context__ is None


def test_text_that_utf8_cannot_write_is_refused() -> None:
    """A lone surrogate is refused before it is sealed, and not carried along."""
    with pytest.raises(TokenStorageError) as caught:
        Keyring([KEY]).encrypt("secret\ud800")
    assert caught.value.code == "bad-input"
    assert caught.value.__context__ is None


def test_fingerprints_tell_keys_apart() -> None:
    """Each key has a short name, the same every time, that does not give it away."""
    first, second = Keyring([KEY, SPEC_KEY]).fingerprints
    assert (first,) == Keyring([KEY]).fingerprints
    assert first != second
    assert len(first) == 8
    assert first not in KEY


def test_a_key_ring_shows_no_key() -> None:
    """No key is in repr() or str(), there is no vars(), and it is not pickled or copied."""
    keyring = Keyring([KEY, SPEC_KEY])
    assert repr(keyring) == str(keyring) == "<Keyring of 2>"
    with pytest.raises(TypeError):
        vars(keyring)
    for write_out in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled or copied"):
            write_out(keyring)


def test_a_secret_is_told_with_the_key_that_opens_it() -> None:
    """Each key is known by its fingerprint; what none of them opens has none."""
    one, other, third = (Fernet.generate_key() for _ in range(3))
    ring = Keyring([one, other])
    assert ring.key_of(Fernet(one).encrypt(b"s")) == ring.fingerprints[0]
    assert ring.key_of(Fernet(other).encrypt(b"s").decode()) == ring.fingerprints[1]
    assert ring.key_of(Fernet(third).encrypt(b"s")) is None
    assert ring.key_of(b"") is None
    assert ring.key_of("\ud83d") is None
