"""Which file systems are those of a network."""

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


NETWORK = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "9p",
    "fuse.sshfs",
    "fuse.glusterfs",
    "fuse.rclone",
    "ceph",
)
LOCAL = ("ext4", "overlay", "fuseblk", "fuse.portal", "virtiofs", "tmpfs", "")


@pytest.mark.parametrize("kind", NETWORK + LOCAL)
def test_network_file_systems_are_recognised(kind: str, tmp_path: Path) -> None:
    """File systems without working shared memory are recognized."""
    told = tmp_path / "mountinfo"
    told.write_text(_line(str(tmp_path), kind) + "\n" if kind else "")
    assert mounts.on_network(tmp_path / "tokens.db", told) == (kind in NETWORK)
    assert not mounts.on_network(tmp_path / "tokens.db", tmp_path / "gone")


def test_a_name_that_looks_like_several_lines_is_one(tmp_path: Path) -> None:
    """Only the line break that the kernel escapes ends a line."""
    folder = tmp_path / "a\x0cb\u2028c d"
    folder.mkdir()
    told = tmp_path / "mountinfo"
    told.write_text(f"{_line('/', 'ext4')}\n{_line(str(folder), 'nfs')}\n")
    assert mounts.on_network(folder / "tokens.db", told)


def test_a_mount_that_is_no_text_stops_nobody(tmp_path: Path) -> None:
    """One odd mount somewhere on the machine is no reason not to start."""
    told = tmp_path / "mountinfo"
    told.write_bytes(b"1 0 0:1 / /mnt/\xff\xfe rw - nfs x rw\n")
    assert not mounts.on_network(tmp_path / "tokens.db", told)


def test_a_device_of_this_machine_is_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has a device of its own is asked for no list of mounts, unless a cluster shares it."""
    file, kernel = tmp_path / "tokens.db", tmp_path / "fs"
    file.touch()
    monkeypatch.setattr(os, "major", lambda _: 8)
    assert not mounts.on_own_device(file, str(kernel)), "nobody could tell of a cluster"
    kernel.mkdir()
    assert mounts.on_own_device(file, str(kernel))
    assert not mounts.on_own_device(tmp_path / "gone", str(kernel))
    (kernel / "ocfs2").mkdir()
    assert not mounts.on_own_device(file, str(kernel))
    monkeypatch.setattr(os, "major", lambda _: 0)
    (kernel / "ocfs2").rmdir()
    assert not mounts.on_own_device(file, str(kernel)), "it may come over a network"


@pytest.mark.skipif(not mounts.tells_network(), reason="no list of mounts")
def test_no_mount_of_this_machine_is_misjudged() -> None:
    """A file on a device of its own is on no network file system by the list of mounts."""
    lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").split("\n")
    places = [Path(line.split(" ")[4]) for line in lines if line]
    own = [place for place in places if mounts.on_own_device(place)]
    kinds = {mounts.file_system(str(place), lines) for place in own}
    assert not {kind for kind in kinds if kind in {"nfs", "nfs4", "cifs", "9p", "ceph", "gfs2"}}


def test_a_start_does_not_read_what_it_need_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of mounts is read only if the device does not decide."""
    told = tmp_path / "mountinfo"
    told.write_text(_line(str(tmp_path), "nfs") + "\n")
    monkeypatch.setattr(mounts, "_MOUNTS", told)
    monkeypatch.setattr(mounts, "on_own_device", lambda _: False)
    assert mounts.on_network(tmp_path / "tokens.db")
    monkeypatch.setattr(mounts, "on_own_device", lambda _: True)
    assert not mounts.on_network(tmp_path / "tokens.db")
