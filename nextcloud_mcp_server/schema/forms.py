"""How the values are written that this program encrypts or hashes: data.

Released versions have stored texts of others in the same columns, which may begin alike: a PASETO
token ``v2.public.…``, a state that a client chose. So a form is all of a value.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple


class Form(NamedTuple):
    """A prefix, then urlsafe base64 without padding, and nothing else.

    Attributes:
        prefix: how a value begins.
        least: the least number of digits.
        most: the most; None without a limit.
    """

    prefix: str
    least: int
    most: int | None = None

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
    most = "" if form.most is None else form.most
    return re.compile(f"{re.escape(form.prefix)}[A-Za-z0-9_-]{{{form.least},{most}}}")


#: A text of the second format: at least an id, a nonce and a tag, 48 bytes.
SECOND: Final = Form("v2.", 64)

#: The hash of an id: 32 bytes.
HASH: Final = Form("sha256:", 43, 43)
