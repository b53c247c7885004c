"""The forms of stored values, and texts of others that begin alike."""

from __future__ import annotations

from nextcloud_mcp_server.crypto.binding import hashed, is_hashed
from nextcloud_mcp_server.crypto.key import Key, decoded, is_v2, key_id
from nextcloud_mcp_server.schema.forms import HASH, SECOND

KEY = Key(bytes(range(1, 33)))
DIGITS = "Az09-_" * 20

#: Values with the form of the second format, and others that begin alike.
SEALED = [
    *(KEY.seal(b"x" * n, b"row").decode() for n in range(4)),
    # Not ours, but nobody can tell without our keys.
    f"v2.{DIGITS[:64]}",
    f"v2.{DIGITS[:66]}",
    f"v2.{'A' * 65}B",
]
ALIKE = [
    *("", "v2.", "v2.public.eyJzdWIiOiJhbGljZSJ9", f"v2.public.{DIGITS[:64]}", f"v2.{DIGITS[:63]}"),
    *(f"v2.{DIGITS[:65]}", f"v2x{DIGITS[:64]}", f"V2.{DIGITS[:64]}", f" v2.{DIGITS[:64]}"),
    *(f"v2.{DIGITS[:64]}{end}" for end in ("==", "\n", "\n\n", "..", "**", "  ", "ä", "ää", "++")),
    *(
        f"v2.{DIGITS[:32]}{odd}{DIGITS[:32]}"
        for odd in ("..", "\n\n", "//", "öö", "^^", "]]", "``")
    ),
]
HASHES = [hashed("an id"), f"sha256:{DIGITS[:43]}"]
STATES = [
    *("sha256:", "sha256:chosen-by-a-client", f"sha256:{DIGITS[:42]}", f"sha256:{DIGITS[:44]}"),
    *(f"sha256:{DIGITS[:42]}{end}" for end in ("=", "\n", ".", "ä")),
    *(f"SHA256:{DIGITS[:43]}", f"sha256.{DIGITS[:43]}", f"sha256:{DIGITS[:43]}\n"),
]
VALUES = [*SEALED, *ALIKE, *HASHES, *STATES]


def test_the_form_of_the_second_format() -> None:
    """All of a value is of the form, and what is encrypted here always is."""
    assert [value for value in VALUES if is_v2(value.encode())] == SEALED
    assert [value for value in VALUES if SECOND.matches(value)] == SEALED
    # Also with a last digit that is never written, and of a text that was cut off.
    assert all(key_id(value.encode()) is not None for value in SEALED)
    assert key_id(SEALED[0][:20].encode()) == KEY.id
    assert key_id(b"v2.public.eyJzdWIiOiJhbGljZSJ9") is None
    assert all(decoded(value.encode()) is None for value in ALIKE)


def test_the_form_of_a_hash() -> None:
    """A state that a client chose, which begins alike, is no hash."""
    assert [value for value in VALUES if is_hashed(value)] == HASHES
    assert [value for value in VALUES if HASH.matches(value)] == HASHES
