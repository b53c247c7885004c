"""The second format: what it is made of, and that only its own text in its own row opens."""

from __future__ import annotations

import base64
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from nextcloud_mcp_server.auth.audit import AuditEntry, signature
from nextcloud_mcp_server.backends.keys import RegisteredKey
from nextcloud_mcp_server.crypto.binding import hashed, is_hashed
from nextcloud_mcp_server.crypto.key import PREFIX, Key, associated_data, is_v2, key_id
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.crypto.registration import FORMER, PRIMARY, V2, check_value, is_checked
from nextcloud_mcp_server.schema.secrets import SECRETS

#: Made once, and valid for ever: what is stored must be read by every later version.
VECTORS: dict[str, Any] = json.loads(Path(__file__).with_name("vectors.json").read_text("utf-8"))

RAW = bytes(range(1, 33))
KEY = Key(RAW)
ROW = associated_data("refresh_token", "alice", "nextcloud")
TEXT = KEY.seal(b"a secret", ROW)

DIGITS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

values = st.none() | st.text() | st.integers()


@pytest.mark.parametrize("vector", VECTORS["texts"], ids=lambda vector: vector["label"])
def test_the_texts_of_our_vectors(vector: dict[str, Any]) -> None:
    """A key, a label, bound values and a nonce give one text, and it opens."""
    [key] = Keyring([vector["key"]]).keys
    bound = associated_data(vector["label"], *vector["bound"])
    plaintext = vector["plaintext"].encode()
    sealed = key.seal(plaintext, bound, bytes.fromhex(vector["nonce"]))
    assert sealed.decode("ascii") == vector["text"]
    assert key.open(vector["text"].encode(), bound) == plaintext
    opened = Keyring([vector["key"]]).opened(vector["text"], bound)
    assert opened is not None
    assert opened[1] == plaintext


def test_each_secret_has_a_vector() -> None:
    """What a secret is bound to cannot change without a vector that fails."""
    bound = {vector["label"]: len(vector["bound"]) for vector in VECTORS["texts"]}
    assert bound == {secret.label: len(secret.bound) for secret in SECRETS}


@pytest.mark.parametrize("vector", VECTORS["keys"], ids=lambda vector: vector["id"])
def test_the_names_of_our_vectors(vector: dict[str, Any]) -> None:
    """A key keeps its id, its fingerprint, its check, and what it signs as the primary one."""
    [key] = Keyring([vector["key"]]).keys
    assert (key.id, key.fingerprint) == (vector["id"], vector["fingerprint"])
    former = RegisteredKey(key.id, V2, FORMER, vector["check"], key.fingerprint, 1)
    assert is_checked(former, key)
    primary = former._replace(state=PRIMARY, check=vector["primary"])
    others = [RegisteredKey.of(row) for row in vector["others"]]
    assert is_checked(primary, key, [primary, *others])
    assert not is_checked(primary._replace(check=vector["check"]), key, [primary, *others])
    assert key.authenticate(b"message").hex() == vector["code"]


def test_the_hashes_of_our_vectors() -> None:
    """What is stored of an id stays the same."""
    for value, stored in VECTORS["hashes"].items():
        assert hashed(value) == stored
        assert is_hashed(stored)


def test_the_audit_codes_of_our_vectors() -> None:
    """The code of an entry stays the same."""
    for vector in VECTORS["audit"]:
        [key] = Keyring([vector["key"]]).keys
        entry = AuditEntry(**vector["entry"])
        assert signature(entry, key) == vector["mac"]


@given(st.binary(max_size=200), st.text())
def test_the_format(plaintext: bytes, user: str) -> None:
    """``v2.`` and the base64 of the key's id, a nonce, the ciphertext and a tag of 16 bytes."""
    bound = associated_data("refresh_token", user)
    text, again = (KEY.seal(plaintext, bound) for _ in range(2))
    assert text.startswith(b"v2.")
    assert set(text[3:]) <= set(DIGITS)
    raw = base64.urlsafe_b64decode(text[3:] + b"=" * (-len(text[3:]) % 4))
    assert raw[:8].hex() == KEY.id == key_id(text)
    assert len(raw) == 8 + 24 + len(plaintext) + 16
    assert text != again
    assert KEY.open(text, bound) == KEY.open(again, bound) == plaintext
    # Fernet begins with the byte 0x80.
    assert is_v2(text)
    assert not is_v2(KEY.encrypt_fernet(plaintext))
    assert KEY.encrypt_fernet(plaintext).startswith(b"gAAAA")


def test_every_changed_character_is_refused() -> None:
    """Of each place of a text, each other digit, and nothing, is refused."""
    for place in range(len(TEXT)):
        assert KEY.open(TEXT[:place], ROW) is None
        assert KEY.open(TEXT[:place] + TEXT[place + 1 :], ROW) is None
        for digit in set(DIGITS + b"+/=.\n \x00\xff") - {TEXT[place]}:
            changed = TEXT[:place] + bytes([digit]) + TEXT[place + 1 :]
            assert KEY.open(changed, ROW) is None, changed


@given(st.data())
def test_every_flipped_bit_is_refused(data: st.DataObject) -> None:
    """Any bit of the id, the nonce, the ciphertext or the tag."""
    plaintext = data.draw(st.binary(max_size=40))
    text = KEY.seal(plaintext, ROW)
    raw = bytearray(base64.urlsafe_b64decode(text[3:] + b"=="))
    place = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[place // 8] ^= 1 << place % 8
    assert KEY.open(PREFIX + base64.urlsafe_b64encode(raw).rstrip(b"="), ROW) is None


@pytest.mark.parametrize("length", range(6))
def test_only_the_written_form_is_accepted(length: int) -> None:
    """No padding, no other alphabet, no white space, no bits behind the last byte."""
    text = KEY.seal(b"x" * length, ROW)
    assert KEY.open(text, ROW) == b"x" * length
    forms = [text + tail for tail in (b"=", b"==", b"===", b"\n", b" ", b"A", b".", b"\x00")]
    forms += [b" " + text, b"\n" + text, text.upper(), b"V2." + text[3:], text[3:], b"v2." + text]
    forms += [text[:9] + b"\n" + text[9:], b"v2." + base64.b64encode(text), text.replace(b".", b"")]
    # Each last digit that decodes to the same bytes.
    forms += [text[:-1] + bytes([digit]) for digit in DIGITS if digit != text[-1]]
    for form in forms:
        assert KEY.open(form, ROW) is None, form
    with_both = next(t for t in iter(lambda: KEY.seal(b"x", ROW), b"") if b"-" in t and b"_" in t)
    for ours, others in ((b"-", b"+"), (b"_", b"/")):
        assert KEY.open(with_both.replace(ours, others), ROW) is None


@given(st.binary(max_size=80))
def test_neither_format_opens_as_the_other(plaintext: bytes) -> None:
    """The text of a Fernet key never opens as v2, and v2 never as Fernet, with the same bytes."""
    released = Fernet(base64.urlsafe_b64encode(RAW)).encrypt(plaintext)
    assert KEY.open_fernet(released) == plaintext
    sealed = KEY.seal(plaintext, ROW)
    for form in (released, PREFIX + released, PREFIX + released.rstrip(b"=")):
        assert KEY.open(form, ROW) is None
    for form in (sealed, sealed[3:], base64.urlsafe_b64encode(sealed)):
        assert KEY.open_fernet(form) is None


@given(st.tuples(st.text(), st.lists(values)), st.tuples(st.text(), st.lists(values)))
def test_associated_data_is_injective(
    one: tuple[str, list[Any]], two: tuple[str, list[Any]]
) -> None:
    """Two different lists never give the same bytes; a number is its digits."""

    def written(label: str, bound: list[Any]) -> list[str | None]:
        return [label, *(None if value is None else str(value) for value in bound)]

    same = associated_data(one[0], *one[1]) == associated_data(two[0], *two[1])
    assert same == (written(*one) == written(*two))


def test_a_boundary_cannot_be_moved() -> None:
    """The same characters in other parts are other bytes, and nothing is not an empty text."""
    lists: list[tuple[str | None, ...]] = [("ab",), ("a", "b"), ("ab", None), ("ab", ""), ()]
    lists += [(None, "ab"), ("", "ab"), (None,), ("",), ("None",)]
    assert len({associated_data("label", *bound) for bound in lists}) == len(lists)


def test_another_key_is_another_id_and_no_derived_key_is_the_given_one() -> None:
    """The id is not a part of the key, and neither is the key of the audit log."""
    other = Key(bytes(range(2, 34)))
    assert len({KEY.id, other.id}) == 2
    assert bytes.fromhex(KEY.id) not in RAW
    assert KEY.authenticate(b"x") != hmac.digest(RAW, b"x", "sha256")
    assert other.open(TEXT, ROW) is None
    check = check_value(KEY, V2)
    row = RegisteredKey(KEY.id, V2, FORMER, check, KEY.fingerprint, 0)
    assert is_checked(row, KEY)
    assert not is_checked(row, other)
    # Even if it had signed that row, it is another key.
    forged = row._replace(check=check_value(other, V2))
    assert not is_checked(forged, KEY)
    assert not is_checked(forged, other)
