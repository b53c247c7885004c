"""Check where a file can lie, read small files, and write private ones.

Never open a database file here while SQLite has it open: closing any descriptor of a file
drops all POSIX locks that this process holds on it.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.errors import naming
from nextcloud_mcp_server.filesystem.mounts import is_alone
from nextcloud_mcp_server.filesystem.permissions import closed_by, enter

#: A file beside a database can have a name up to 80 bytes longer than the database: for
#: example SQLite's journal of an unfinished backup. File systems allow 255 bytes.
_LONGEST_NAME: Final = 175

#: Create a file that did not exist, and do not follow a link.
NEW: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW

#: Read a file that may be anything: do not wait for a pipe, do not become its terminal.
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_KINDS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}

#: Seconds since its last change until a temporary file counts as abandoned.
ABANDONED_AFTER: Final = 3600.0

#: The files that SQLite can create beside a database.
COMPANIONS: Final = ("-wal", "-shm", "-journal")

#: The lock files beside a database.
LOCKS: Final = (".lock", ".inuse")

#: The database itself, what SQLite creates beside it, and the lock files.
BESIDE: Final = ("", *COMPANIONS, *LOCKS)


def check_path(path: Path, longest: int = _LONGEST_NAME) -> None:
    """Check that ``path`` can be a database file. Changes nothing.

    Raises:
        TokenStorageError: ``bad-path`` if it is not a regular file, its folder is not a
            folder, or its name is too long.
    """
    if len(os.fsencode(path.name)) > longest:
        raise _bad(f"The name of {path} is longer than {longest} bytes.")
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - faster than a Path, as each start comes here
    except FileNotFoundError:
        if path.is_symlink():
            raise _bad(f"{path} is a link to a file that is not there.") from None
        for folder in path.parents:
            if folder.is_dir():
                break
            if folder.exists() or folder.is_symlink():
                raise _bad(f"{folder} is not a folder.") from None
        return
    except OSError as error:
        raise _inaccessible(path, error) from error
    if kind := _other_kind(mode):
        raise _bad(f"{path} is {kind}, not a file.")


def _inaccessible(path: Path, error: OSError) -> TokenStorageError:
    if isinstance(error, PermissionError) and (closed := closed_by(path)):
        message = f"{path} cannot be accessed ({error.strerror}): {closed}."
        return TokenStorageError(message, code="bad-path", remedy=enter(path))
    return _bad(f"{path} cannot be accessed ({error.strerror}).")


def find_database(path: Path) -> Path:
    """Check ``path`` as :func:`check_path`; return the file itself, which has its folder around it.

    Raises:
        TokenStorageError: ``bad-path``, also for a file that is mounted without its folder:
            what others write beside it would not be seen here.
    """
    check_path(path)
    path = follow(path)
    require_folder(path)
    return path


def require_folder(path: Path) -> None:
    """Check that ``path``, which is no link, is not mounted without its folder.

    Raises:
        TokenStorageError: ``bad-path``.
    """
    if is_alone(path):
        raise TokenStorageError(
            f"{path} is mounted without its folder, so its -wal and its locks would be in "
            f"{path.parent}, where other containers and the host do not see them.",
            code="bad-path",
            remedy="Stop what uses the file, then mount the folder that contains it: with Docker "
            f"-v ./data:{path.parent} instead of -v ./data/{path.name}:{path}, in Kubernetes "
            "without subPath.",
        )


def _other_kind(mode: int) -> str:
    """Return what a file is if it is not a regular one; empty if it is."""
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "something else")


def read_small(
    path: Path,
    longest: int,
    *,
    check: Callable[[os.stat_result], object] = lambda _: None,
    link: bool = True,
) -> bytes:
    """Read a small regular file, such as a key or a manifest that anybody may have put there.

    Args:
        path: the file.
        longest: the most bytes that it may have.
        check: called with the status of the open file before it is read.
        link: whether ``path`` may be a link.

    Raises:
        OSError: it cannot be read, is not a regular file (nothing waits for a pipe or opens a
            device), or is longer than ``longest`` bytes.
    """
    _require_regular(path.stat().st_mode)
    descriptor = os.open(path, _READ if link else _READ | os.O_NOFOLLOW)
    with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - opened above
        status = os.fstat(descriptor)
        _require_regular(status.st_mode)
        check(status)
        content = b""
        while len(content) <= longest and (piece := file.read(longest + 1 - len(content))):
            content += piece
    if len(content) > longest:
        raise OSError(errno.EFBIG, f"it is longer than {longest} bytes")
    return content


def _require_regular(mode: int) -> None:
    if kind := _other_kind(mode):
        raise OSError(errno.EINVAL, f"it is {kind}, not a file")


def follow(path: Path) -> Path:
    """Return the path of the file itself, through every link, its folders included.

    SQLite puts its journal beside the file and not beside the link. The lock, the key and
    the backups must do the same, so that two names of one file share them, and so that all
    stay where they are if a link to the folder is changed.
    """
    # Not resolve(), which raises an unnamed error for a loop of links.
    return Path(os.path.realpath(path))


def names_of(path: Path) -> int:
    """Return the number of names of a file (hard links); each has its own lock and journal.

    Those that a killed process of this program left beside it are not counted.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - as above
        if found.st_nlink == 1:
            return 1
        beside = re.compile(
            rf"\.{re.escape(path.name)}\..*\.partial|{re.escape(path.name)}\.damaged-.+"
        )
        ours = [
            other
            for other in path.parent.iterdir()
            if beside.fullmatch(other.name) and os.path.samestat(other.lstat(), found)
        ]
    except OSError:
        return 1
    return found.st_nlink - len(ours)


def _bad(message: str) -> TokenStorageError:
    return TokenStorageError(
        message,
        code="bad-path",
        remedy="Give the path of a regular file, in a folder that is there or can be made, "
        "in TOKEN_STORAGE_DB or -d.",
    )


def make_folder(path: Path) -> None:
    """Create the folder of ``path``, private to this user, if it does not exist."""
    if os.path.isdir(path.parent):  # noqa: PTH112 - as above
        return
    with naming(path):
        # With parents=True, mkdir would make the folders above with the umask alone.
        for folder in (*reversed(path.parent.parents), path.parent):
            if not folder.is_dir():
                try:
                    folder.mkdir(mode=0o700, exist_ok=True)
                except OSError as error:
                    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
                        raise _unmakeable(path, folder, error) from error
                    raise


def _unmakeable(path: Path, folder: Path, error: OSError) -> TokenStorageError:
    return TokenStorageError(
        f"{path} has to be created, and the folder {folder} cannot be created in "
        f"{folder.parent} ({error.strerror}).",
        code="read-only",
        remedy=f"Give this user write access to {folder.parent}, or choose another path in "
        "TOKEN_STORAGE_DB or -d.",
    )


def create_private(path: Path) -> None:
    """Create an empty file that only this user can read, unless a file exists there.

    SQLite gives ``-wal``, ``-shm`` and ``-journal`` the mode of the database: a later chmod
    would leave them readable during the first migration.
    """
    with naming(path), suppress(FileExistsError):
        os.close(os.open(path, NEW, 0o600))


@contextmanager
def private_file(target: Path, owner: Path, middle: str = "") -> Iterator[Path]:
    """Create an empty private file under a temporary name beside ``target``.

    When the body ends, the temporary name is removed, with what SQLite created beside it. So
    the body must call :func:`publish` if the file is complete.

    Args:
        target: the later name of the file.
        owner: the database; if root creates the file, it gets the owner of the database.
        middle: a part of the temporary name.

    Raises:
        OSError: the file cannot be created.
    """
    partial = target.with_name(f".{target.name}{middle}.{os.urandom(3).hex()}.partial")
    descriptor = os.open(partial, NEW, 0o600)
    try:
        try:
            # A file system can have no owners.
            with suppress(OSError):
                hand_over(descriptor, owner)
        finally:
            os.close(descriptor)
        yield partial
    finally:
        # If the disk fails here too, a later start or repair removes the file.
        for suffix in ("", *COMPANIONS):
            with suppress(OSError):
                partial.with_name(partial.name + suffix).unlink(missing_ok=True)


def abandoned_files(target: Path, middle: str) -> list[Path]:
    """Return what killed processes left of :func:`private_file`, an hour ago or earlier.

    A file that is more than an hour from the future is of a process with another clock.

    Raises:
        OSError: the folder cannot be read.
    """
    name = re.compile(re.escape(f".{target.name}{middle}") + r".+\.partial(-journal|-wal|-shm)?")
    now, found = time.time(), []
    if not target.parent.exists():
        return []
    for path in target.parent.iterdir():
        # A file that is in progress can be renamed at any moment.
        with suppress(FileNotFoundError):
            if name.fullmatch(path.name) and abs(now - path.lstat().st_mtime) > ABANDONED_AFTER:
                found.append(path)
    return sorted(found)


def publish(partial: Path, target: Path, *, overwrite: bool = False) -> None:
    """Sync a complete file and give it its name.

    Raises:
        FileExistsError: ``target`` exists, and ``overwrite`` is false.
        OSError: the file cannot be synced or renamed. ``target`` can be there already.
    """
    sync(partial)
    if overwrite:
        partial.rename(target)
    else:
        try:
            # A rename would overwrite a file that another process created meanwhile.
            os.link(partial, target)
        except FileExistsError:
            raise
        except OSError:
            # A file system without hard links.
            partial.rename(target)
    sync_folder(target.parent)


def write_private(target: Path, content: bytes, owner: Path, *, overwrite: bool = False) -> None:
    """Write a private file: all of ``content``, or no file.

    Raises:
        FileExistsError: ``target`` exists, and ``overwrite`` is false.
        OSError: the file cannot be written.
    """
    with private_file(target, owner) as partial:
        partial.write_bytes(content)
        publish(partial, target, overwrite=overwrite)


def hand_over(descriptor: int, owner: Path) -> None:
    """Give a file that root has just created to the owner of ``owner``.

    A command that root runs must not lock the server's user out of its own database. Use it
    only for a file that this process created: an old file can be a second name of another.

    Raises:
        OSError: the file system has no owners.
    """
    if os.geteuid() == 0:
        with suppress(FileNotFoundError):
            status = owner.stat()
            if (status.st_uid, status.st_gid) != (0, 0):
                os.fchown(descriptor, status.st_uid, status.st_gid)


def sync(path: Path) -> None:
    """Write the content of a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut."""
    sync(folder)
