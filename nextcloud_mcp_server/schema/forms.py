"""How the values are written that this program encrypts or hashes: data.

Released versions have stored texts of others in the same columns, which may begin alike: a PASETO
token ``v2.public.…``, a state that a client chose. So a form is all of a value, and it is the same
in Python and, by :mod:`.conditions`, in SQL.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

#: The digits of urlsafe base64, as part of a class of characters in a pattern.
DIGITS: Final = "A-Za-z0-9_-"


class Form(NamedTuple):
    """A prefix, then urlsafe base64 without padding, and nothing else.

    Attributes:
        prefix: how a value begins: no character has a meaning in a pattern, but a dot.
        least: the least number of digits.
        most: the most; None without a limit.
    """

    prefix: str
    least: int
    most: int | None = None

    @property
    def pattern(self) -> str:
        """The regular expression, for Python and for PostgreSQL."""
        most = "" if self.most is None else self.most
        return f"{self.prefix.replace('.', '[.]')}[{DIGITS}]{{{self.least},{most}}}"

    def matches(self, text: str) -> bool:
        """Return whether a value is of this form."""
        return (
            text.startswith(self.prefix)
            # No number of bytes has so many digits.
            and (len(text) - len(self.prefix)) % 4 != 1
            and _compiled(self).fullmatch(text) is not None
        )


@lru_cache
def _compiled(form: Form) -> re.Pattern[str]:
    return re.compile(form.pattern)


#: A text of the second format: at least an id, a nonce and a tag, 48 bytes.
SECOND: Final = Form("v2.", 64)

#: The hash of an id: 32 bytes.
HASH: Final = Form("sha256:", 43, 43)
