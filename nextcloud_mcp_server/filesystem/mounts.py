"""Find out whether a database lies on a network file system, where WAL cannot be used."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Final

#: File systems on which SQLite's shared memory, and so WAL, does not work: the beginnings of
#: their types, without a leading ``fuse.``.
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

#: Finds one in mountinfo. Most machines have none.
_ANY_NETWORK: Final = rf" - (?:fuse\.)?(?:{'|'.join(_NETWORK)})".encode("ascii")

_MOUNTS: Final = Path("/proc/self/mountinfo")

#: The folder where the kernel lists file systems, and the network ones that use a block device.
_KERNEL: Final = "/sys/fs"
_CLUSTERS: Final = ("gfs2", "ocfs2")

_OCTAL: Final = r"\\([0-7]{3})"


def tells_network(mounts: Path = _MOUNTS) -> bool:
    """Return whether this machine lists the types of its file systems."""
    return sys.platform.startswith("linux") and os.access(mounts, os.R_OK)


def on_network(path: Path, mounts: Path | None = None) -> bool:
    """Return whether ``path`` lies on a network file system; False if that is unknown."""
    if not sys.platform.startswith("linux") or (mounts is None and on_own_device(path)):
        return False
    try:
        raw = (mounts or _MOUNTS).read_bytes()
    except OSError:
        return False
    if not re.search(_ANY_NETWORK, raw):
        return False
    # Not splitlines(): a name can hold other characters that end a line.
    lines = raw.decode("utf-8", "surrogateescape").split("\n")
    kind = file_system(str(path.resolve().parent), lines)
    return kind.removeprefix("fuse.").startswith(_NETWORK)


def on_own_device(path: Path, kernel: str = _KERNEL) -> bool:
    """Return whether ``path`` certainly lies on a block device of this machine alone.

    So a start need not read the list of mounts, which is long if there are many containers.
    """
    try:
        # A file system without a device of its own has the major number 0.
        if not os.major(path.stat().st_dev):
            return False
        os.stat(kernel)  # noqa: PTH116 - faster than a Path
    except OSError:
        return False
    return not any(os.path.exists(f"{kernel}/{name}") for name in _CLUSTERS)  # noqa: PTH110


def file_system(folder: str, mountinfo: list[str]) -> str:
    """Return the type of the file system of ``folder``, from lines as in proc(5)."""
    best, kind = "", ""
    for line in mountinfo:
        before, _, after = line.partition(" - ")
        fields, types = before.split(" "), after.split(" ")
        if len(fields) < 5 or not types[0]:  # noqa: PLR2004 - the mount point is field 5
            continue
        # Only a space, a tab, a line break and a backslash are escaped.
        mount = re.sub(_OCTAL, lambda match: chr(int(match[1], 8)), fields[4])
        inside = folder == mount or folder.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, types[0]
    return kind
