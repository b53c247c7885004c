"""Find out how a database is mounted: on a local file system or not, and with its folder or not."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Final

#: File systems of one machine, on which SQLite's shared memory, and so WAL, works. Every other
#: type counts as remote: new ones are made, and a wrong guess loses writes. The upper layer of
#: an overlay is local, because only one machine can mount it.
_LOCAL: Final = frozenset(
    {
        "bcachefs",
        "btrfs",
        "erofs",
        "exfat",
        "ext2",
        "ext3",
        "ext4",
        "f2fs",
        "fuse.fuse-overlayfs",
        "fuseblk",
        "hfsplus",
        "iso9660",
        "jffs2",
        "jfs",
        "nilfs2",
        "ntfs",
        "ntfs3",
        "overlay",
        "ramfs",
        "reiserfs",
        "rootfs",
        "squashfs",
        "tmpfs",
        "ubifs",
        "udf",
        "vfat",
        "xfs",
        "zfs",
    }
)

_MOUNTS: Final = Path("/proc/self/mountinfo")

#: Where the kernel lists devices, and the mounted devices of these local file systems.
_KERNEL: Final = "/sys"
_LISTED: Final = ("ext4", "xfs", "f2fs")

_OCTAL: Final = r"\\([0-7]{3})"


def lists_types() -> bool:
    """Return whether this operating system lists the types of its file systems."""
    return sys.platform.startswith("linux")


def is_not_local(path: Path, mounts: Path | None = None) -> bool:
    """Return whether ``path`` is not known to lie on a local file system.

    An operating system that lists no types (see :func:`lists_types`) counts as local.
    """
    if not lists_types() or (mounts is None and on_own_device(path)):
        return False
    return type_of(path, mounts) not in _LOCAL


def type_of(path: Path, mounts: Path | None = None) -> str:
    """Return the type of the file system of ``path``; empty if it is unknown."""
    try:
        raw = (mounts or _MOUNTS).read_bytes()
    except OSError:
        return ""
    # Not splitlines(): a name can hold other characters that end a line.
    lines = raw.decode("utf-8", "surrogateescape").split("\n")
    return file_system(os.path.dirname(os.path.realpath(path)), lines)  # noqa: PTH120


def on_own_device(path: Path, kernel: str = _KERNEL) -> bool:
    """Return whether ``path`` certainly lies on a block device with a local file system.

    So a start need not read the list of mounts, which is long if there are many containers.
    """
    try:
        device = os.stat(path).st_dev  # noqa: PTH116 - faster than a Path
        # A file system without a device of its own has the major number 0.
        if not os.major(device):
            return False
        link = os.readlink(f"{kernel}/dev/block/{os.major(device)}:{os.minor(device)}")  # noqa: PTH115
    except OSError:
        return False
    name = link.rpartition("/")[2]
    return any(os.path.exists(f"{kernel}/fs/{kind}/{name}") for kind in _LISTED)  # noqa: PTH110


def is_alone(path: Path) -> bool:
    """Return whether ``path`` is mounted without its folder; False if that is unknown.

    Args:
        path: a file. No link: that of its folder would be compared.
    """
    if not lists_types():
        return False
    try:
        return _mount_of(str(path)) != _mount_of(str(path.parent))
    except OSError:
        return False


def _mount_of(path: str) -> bytes:
    """Return the number of the mount, as in proc(5); empty if it is unknown."""
    # With O_PATH the file is not opened, so that closing it drops no lock of SQLite.
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        information = os.open(f"/proc/self/fdinfo/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(information, 4096)
        finally:
            os.close(information)
    finally:
        os.close(descriptor)
    return text.partition(b"mnt_id:")[2].partition(b"\n")[0]


def file_system(folder: str, mountinfo: list[str]) -> str:
    """Return the type of the file system of ``folder``, from lines as in proc(5)."""
    kind = ""
    for line in mountinfo:
        fields, separator, after = line.partition(" - ")
        mount = (fields.split(" ", 5) + [""] * 5)[4]
        # Only a space, a tab, a line break and a backslash are escaped.
        if "\\" in mount:
            mount = re.sub(_OCTAL, lambda match: chr(int(match[1], 8)), mount)
        inside = folder == mount or folder.startswith(mount.rstrip("/") + "/")
        if separator and mount and inside:
            # In the order of mounting: a later one covers what was mounted below its place.
            kind = after.partition(" ")[0]
    return kind
