"""The file system of a database: whether it lies on a network, where WAL cannot be used."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Final

#: File systems on which SQLite's shared memory, and so WAL, cannot be trusted, by how the
#: name of their type begins (behind ``fuse.``, where that is before it).
_NETWORK: Final = (
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "gfs2",
    "gluster",
    "lustre",
    "nfs",
    "ocfs2",
    "rclone",
    "s3fs",
    "smb",
    "sshfs",
)

#: Whether there is one at all, in mountinfo: most machines have none.
_ANY_NETWORK: Final = rf" - (?:fuse\.)?(?:{'|'.join(_NETWORK)})".encode("ascii")

_MOUNTS: Final = Path("/proc/self/mountinfo")

#: Where the kernel shows the file systems that it knows, and those of a network among them that
#: lie on a block device nevertheless.
_KERNEL: Final = "/sys/fs"
_CLUSTERS: Final = ("gfs2", "ocfs2")

_OCTAL: Final = r"\\([0-7]{3})"


def tells_network(mounts: Path = _MOUNTS) -> bool:
    """Whether this machine says which of its file systems are network ones."""
    return sys.platform.startswith("linux") and os.access(mounts, os.R_OK)


def on_network(path: Path, mounts: Path | None = None) -> bool:
    """Whether ``path`` lies on a network file system; False where nobody can tell.

    Args:
        path: a file.
        mounts: what is mounted, as in proc(5) (default: what the kernel says).
    """
    if not sys.platform.startswith("linux") or (mounts is None and on_own_device(path)):
        return False
    try:
        raw = (mounts or _MOUNTS).read_bytes()
    except OSError:
        return False
    if not re.search(_ANY_NETWORK, raw):
        return False
    # Not splitlines(): a name may hold what it counts as the end of a line.
    lines = raw.decode("utf-8", "surrogateescape").split("\n")
    kind = file_system(str(path.resolve().parent), lines)
    return kind.removeprefix("fuse.").startswith(_NETWORK)


def on_own_device(path: Path, kernel: str = _KERNEL) -> bool:
    """Whether ``path`` lies on a block device that no other machine writes to, for certain.

    It spares a start the list of all mounts, which is long where there are many containers.
    """
    try:
        # The kernel numbers a file system without a device of its own among those of major 0.
        if not os.major(path.stat().st_dev):
            return False
        os.stat(kernel)  # noqa: PTH116 - a Path costs as much as the question
    except OSError:
        return False
    return not any(os.path.exists(f"{kernel}/{name}") for name in _CLUSTERS)  # noqa: PTH110


def file_system(folder: str, mountinfo: list[str]) -> str:
    """The type of the file system that holds ``folder``, from lines as in proc(5)."""
    best, kind = "", ""
    for line in mountinfo:
        before, _, after = line.partition(" - ")
        fields, types = before.split(" "), after.split(" ")
        if len(fields) < 5 or not types[0]:  # noqa: PLR2004 - the mount point is field 5
            continue
        # A space, a tab, a line break and a backslash are escaped, and nothing else is.
        mount = re.sub(_OCTAL, lambda found: chr(int(found[1], 8)), fields[4])
        inside = folder == mount or folder.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, types[0]
    return kind
