"""Which file systems are local, and which files are mounted without their folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextcloud_mcp_server.filesystem import mounts


def _escaped(text: str) -> str:
    for character in "\\ \t\n":
        text = text.replace(character, f"\\{ord(character):03o}")
    return text


def _line(mount: str, kind: str) -> str:
    return f"36 35 98:0 /root {_escaped(mount)} rw,noatime master:1 - {kind} /dev/x rw"


folder_names = st.text(st.characters(exclude_characters="/\0"), min_size=1).filter(
    lambda name: name not in {".", ".."}
)


@given(folder_names, st.sampled_from(["nfs4", "ext4", "fuse.sshfs"]))
def test_every_mount_point_is_recognised(name: str, kind: str) -> None:
    """White space, backslashes, other alphabets and bytes that are no text are names."""
    lines = [_line("/", "overlay"), _line(f"/mnt/{name}", kind), _line("/mnt/other", "xfs")]
    expected = "xfs" if name == "other" else kind
    assert mounts.file_system(f"/mnt/{name}", lines) == expected
    assert mounts.file_system(f"/mnt/{name}/deeper", lines) == expected
    assert mounts.file_system(f"/mnt/{name}x", lines) in {"overlay", "xfs"}


@given(st.lists(st.text(max_size=40)), st.text())
def test_no_line_is_too_odd_to_be_read(lines: list[str], folder: str) -> None:
    """Whatever stands in the list of mounts, the result is a text."""
    assert isinstance(mounts.file_system(folder, lines), str)


def test_the_innermost_and_newest_mount_counts() -> None:
    """A mount on a mount hides it."""
    lines = [
        _line("/", "ext4"),
        _line("/data", "nfs"),
        _line("/data", "tmpfs"),
        _line("/data/in", "9p"),
    ]
    assert mounts.file_system("/data", lines) == "tmpfs"
    assert mounts.file_system("/data/in/side", lines) == "9p"
    assert mounts.file_system("/database", lines) == "ext4"


def test_a_later_mount_covers_what_was_mounted_below_its_place() -> None:
    """The deeper mount is still in the list, and is not reached any more."""
    lines = [_line("/", "ext4"), _line("/x/y", "tmpfs"), _line("/x", "virtiofs")]
    assert mounts.file_system("/x/y", lines) == "virtiofs"
    assert mounts.file_system("/x/y", [*lines, _line("/x/y", "xfs")]) == "xfs"


#: The names that the kernel and FUSE programs give; "" if the list has no line for the folder.
REMOTE = (
    "",
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "drvfs",
    "fakeowner",
    "fuse",
    "fuse.blobfuse2",
    "fuse.gcsfuse",
    "fuse.glusterfs",
    "fuse.grpcfuse",
    "fuse.juicefs",
    "fuse.mergerfs",
    "fuse.mountpoint-s3",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.sshfs",
    "fuse.vmhgfs-fuse",
    "gfs2",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "ocfs2",
    "prl_fs",
    "smb3",
    "vboxsf",
    "virtiofs",
    "vmhgfs",
    "xfs_of_next_year",
)
LOCAL = ("bcachefs", "btrfs", "ext4", "f2fs", "fuseblk", "overlay", "tmpfs", "xfs", "zfs")


@pytest.mark.skipif(not mounts.lists_types(), reason="no list of mounts")
@pytest.mark.parametrize("kind", REMOTE + LOCAL)
def test_what_is_not_known_to_be_local_is_remote(kind: str, tmp_path: Path) -> None:
    """A type that no list names counts as remote, and so does a folder without a type."""
    told = tmp_path / "mountinfo"
    told.write_text(_line(str(tmp_path), kind) + "\n" if kind else "")
    assert mounts.type_of(tmp_path / "tokens.db", told) == kind
    assert mounts.is_not_local(tmp_path / "tokens.db", told) == (kind in REMOTE)
    assert mounts.is_not_local(tmp_path / "tokens.db", tmp_path / "gone"), "without a list"


def test_an_operating_system_without_types_counts_as_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On macOS, nothing is known and nothing is warned of."""
    monkeypatch.setattr("sys.platform", "darwin")
    assert not mounts.is_not_local(tmp_path / "tokens.db")
    assert not mounts.is_alone(tmp_path / "tokens.db")


def test_a_name_that_looks_like_several_lines_is_one(tmp_path: Path) -> None:
    """Only the line break that the kernel escapes ends a line."""
    folder = tmp_path / "a\x0cb\u2028c d"
    folder.mkdir()
    told = tmp_path / "mountinfo"
    told.write_text(f"{_line('/', 'ext4')}\n{_line(str(folder), 'nfs')}\n")
    assert mounts.is_not_local(folder / "tokens.db", told)


def test_a_mount_that_is_no_text_stops_nobody(tmp_path: Path) -> None:
    """One odd mount somewhere on the machine is no reason not to start."""
    told = tmp_path / "mountinfo"
    told.write_bytes(b"1 0 0:1 / /mnt/\xff\xfe rw - nfs x rw\n2 0 0:2 / / rw - ext4 x rw\n")
    assert not mounts.is_not_local(tmp_path / "tokens.db", told)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "f2fs"])
def test_a_device_with_a_local_file_system_needs_no_list(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device decides only if the kernel names its file system: a cluster can share one."""
    file, kernel = tmp_path / "tokens.db", tmp_path / "sys"
    file.touch()
    monkeypatch.setattr(os, "major", lambda _: 8)
    monkeypatch.setattr(os, "minor", lambda _: 1)
    assert not mounts.on_own_device(file, str(kernel)), "no device is listed"
    (kernel / "dev" / "block").mkdir(parents=True)
    (kernel / "dev" / "block" / "8:1").symlink_to("../../devices/pci0000:00/block/sda/sda1")
    (kernel / "fs" / "gfs2" / "sda1").mkdir(parents=True)
    (kernel / "fs" / kind / "sda2").mkdir(parents=True)
    assert not mounts.on_own_device(file, str(kernel)), "another device"
    (kernel / "fs" / kind / "sda1").mkdir()
    assert mounts.on_own_device(file, str(kernel))
    assert not mounts.on_own_device(tmp_path / "gone", str(kernel))
    monkeypatch.setattr(os, "major", lambda _: 0)
    assert not mounts.on_own_device(file, str(kernel)), "it may come over a network"


@pytest.mark.skipif(not mounts.lists_types(), reason="no list of mounts")
def test_no_mount_of_this_machine_is_misjudged() -> None:
    """The device and the list of mounts give the same result for every mount that is here."""
    lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").split("\n")
    places = [Path(line.split(" ")[4]) for line in lines if line]
    own = [place for place in places if mounts.on_own_device(place)]
    kinds = {mounts.file_system(str(place), lines) for place in own}
    assert kinds <= {"ext4", "ext3", "ext2", "xfs", "f2fs"}


def test_a_start_does_not_read_what_it_need_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of mounts is read only if the device does not decide."""
    told = tmp_path / "mountinfo"
    told.write_text(_line(str(tmp_path), "nfs") + "\n")
    monkeypatch.setattr(mounts, "_MOUNTS", told)
    monkeypatch.setattr(mounts, "on_own_device", lambda _: False)
    assert mounts.is_not_local(tmp_path / "tokens.db")
    monkeypatch.setattr(mounts, "on_own_device", lambda _: True)
    assert not mounts.is_not_local(tmp_path / "tokens.db")
