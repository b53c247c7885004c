"""A file on a file system that has stopped answering (FUSE, over its raw protocol)."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

#: Opcodes of fuse(4).
_LOOKUP: Final = 1
_GETATTR: Final = 3
_OPEN: Final = 14
_READ: Final = 15
_RELEASE: Final = 18
_FLUSH: Final = 25
_INIT: Final = 26

_ENOSYS: Final = 38
_DETACH: Final = 2


@contextmanager
def dead_file(folder: Path) -> Iterator[Path]:
    """Mount a file system on ``folder``, and yield its file; every read of it waits for ever.

    Skips the test if this process cannot mount one.
    """
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
    except OSError:
        pytest.skip("this machine has no FUSE")
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"dead", os.fsencode(folder), b"fuse", 0, options):
        os.close(device)
        pytest.skip("only root can mount a file system")
    server = threading.Thread(target=_serve, args=(device,))
    server.start()
    try:
        yield folder / "key"
    finally:
        # Ends the waiting reads too.
        libc.umount2(os.fsencode(folder), _DETACH | 1)
        server.join()
        os.close(device)


def _serve(device: int) -> None:
    # ENODEV: it was unmounted.
    with suppress(OSError):
        while True:
            request = os.read(device, 1 << 18)
            _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
            if opcode == _READ:
                continue
            answer = _answer(opcode, node)
            error = 0 if answer is not None else -_ENOSYS
            answer = answer or b""
            os.write(device, struct.pack("<IiQ", 16 + len(answer), error, unique) + answer)


def _answer(opcode: int, node: int) -> bytes | None:
    """Return the answer to a request; None if it is not supported."""
    if opcode == _INIT:
        return struct.pack("<IIIIHHIIHHI7I", 7, 31, 0, 0, 1, 1, 4096, 1, 1, 0, 0, *[0] * 7)
    if opcode == _LOOKUP:
        return struct.pack("<QQQQII", 2, 0, 60, 60, 0, 0) + _attributes(2)
    if opcode == _GETATTR:
        return struct.pack("<QII", 60, 0, 0) + _attributes(node)
    if opcode == _OPEN:
        return struct.pack("<QII", 0, 0, 0)
    return b"" if opcode in {_RELEASE, _FLUSH} else None


def _attributes(node: int) -> bytes:
    mode = stat.S_IFDIR | 0o755 if node == 1 else stat.S_IFREG | 0o600
    return struct.pack("<6Q10I", node, 45, 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
