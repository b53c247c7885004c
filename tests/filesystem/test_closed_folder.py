"""A path in a folder that this user may not enter."""

from __future__ import annotations

from tests.support.unprivileged import as_nobody, open_folder

_CHECK = """
from nextcloud_mcp_server.filesystem.files import check_path
try:
    check_path(Path(sys.argv[1]))
except TokenStorageError as error:
    print(error.code, error.message, error.remedy, sep="\\n")
"""


def test_the_folder_is_named_with_its_owner_and_mode() -> None:
    """The remedy gives this user the folder, and does not ask for a regular file."""
    with open_folder() as folder:
        closed = folder / "data"
        closed.mkdir(mode=0o700)
        path = closed / "sub" / "tokens.db"
        code, message, remedy = as_nobody(_CHECK, path).splitlines()
    assert code == "bad-path"
    assert f"may not enter {closed} (it belongs to user root, its mode is 0700)" in message
    assert f"chown nobody {closed} " in remedy
    assert "regular file" not in remedy
