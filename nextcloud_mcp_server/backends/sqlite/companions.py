"""Compare a database with the ``-wal`` and the ``-journal`` beside it. Changes nothing.

SQLite trusts the files beside a database. It deletes the ``-wal`` of a file that is gone, at the
first write to a new one, and applies that of another file, even to a file in DELETE mode.
The formats are those of https://sqlite.org/fileformat2.html. What cannot be compared is
taken to belong: a ``-wal`` of an earlier state of the same file, if no transaction since has
changed the number of pages or the schema.
"""

from __future__ import annotations

import os
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from nextcloud_mcp_server.backends.sqlite.header import HEADER, MARK, header_of
from nextcloud_mcp_server.backends.sqlite.in_use import in_use
from nextcloud_mcp_server.backends.sqlite.wal import WAL_HEADER, WAL_MAGIC, checksum, is_wal_header

_JOURNAL_MAGIC: Final = bytes.fromhex("d9d505f920a163d7")

#: Seconds for which a difference must stay.
_STEADY: Final = 0.05

_FRAME_HEADER: Final = 24

#: The format in byte 18 of a database in WAL mode.
_WAL: Final = 2

#: Frames of a ``-wal`` in which a page 1 is searched for.
_SEARCHED: Final = 256

#: An SQLite file begins with a page of a power of two in this range.
_SMALLEST, _LARGEST = 512, 65536

#: The part of a companion that is searched for content if its header is not SQLite's.
_SAMPLE: Final = 65536


#: Compares the header of a database with a companion.
_Comparison = Callable[[bytes, str], str]


class Misplaced(NamedTuple):
    """A companion that does not belong to the file beside it.

    Attributes:
        path: the companion.
        reason: one line.
    """

    path: str
    reason: str


def find_misplaced(path: Path, size: int | None) -> Misplaced | None:
    """Return a companion that SQLite would destroy or apply to the wrong file; else None.

    Args:
        path: the database file.
        size: its size in bytes; None if there is no file.

    Raises:
        OSError: a file cannot be read.
    """
    for suffix, has_content, differs in (
        ("-wal", _wal_has_content, _wal_differs),
        ("-journal", _journal_has_content, _journal_differs),
        ("-shm", None, None),
    ):
        companion = f"{path}{suffix}"
        try:
            found = os.lstat(companion)
        except OSError:
            continue
        if not stat.S_ISREG(found.st_mode):
            # SQLite follows no link, and would wait for what a pipe has to say.
            kind = "a link" if stat.S_ISLNK(found.st_mode) else "not a regular file"
            return Misplaced(companion, f"{path.name}{suffix} is {kind}")
        length = found.st_size
        if not length or has_content is None or differs is None:
            continue
        name = f"{path.name}{suffix} ({length} bytes)"
        if not size:
            if has_content(companion):
                state = "is not there" if size is None else "is empty"
                return Misplaced(companion, f"{name} is there, and the file it belongs to {state}")
        elif reason := _unless_open(path, companion, differs):
            return Misplaced(companion, f"{name} belongs to another file: {reason}")
    return None


def _unless_open(path: Path, companion: str, differs: _Comparison) -> str:
    """Compare, unless a store is open, whose companions are in use; in WAL mode it has no journal.

    Another program can write meanwhile: a difference counts only if it stays.
    """
    if in_use(path):
        if not companion.endswith("-journal"):
            return ""
        differs = _needless
    before = _states(path, companion)
    header = header_of(path)
    if not header or not differs(header, companion):
        return ""
    time.sleep(_STEADY)
    header = header_of(path)
    reason = differs(header, companion) if header else ""
    return reason if _states(path, companion) == before else ""


def _needless(header: bytes, _companion: str) -> str:
    """Return that an open database is in WAL mode, as text; empty if it is not."""
    return "this one is open, and in WAL mode, which has no journal" if header[18] == _WAL else ""


def _states(*paths: Path | str) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    for path in paths:
        try:
            seen = os.stat(path)  # noqa: PTH116
        except FileNotFoundError:
            found.append((0, 0, 0))
        else:
            found.append((seen.st_ino, seen.st_size, seen.st_mtime_ns))
    return found


def _number(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "big")


def _page_size(header: bytes) -> int:
    size = int.from_bytes(header[16:18], "big")
    return _LARGEST if size == 1 else size


def _pages(header: bytes) -> int:
    """Return the number of pages in the header of a database; 0 if it is out of date."""
    return _number(header, 28) if header[24:28] == header[92:96] else 0


def _is_page_size(size: int) -> bool:
    return _SMALLEST <= size <= _LARGEST and not size & (size - 1)


def _start(companion: str) -> bytes:
    with open(companion, "rb") as file:  # noqa: PTH123
        return file.read(_SAMPLE)


def _contradicts(old: bytes, new: bytes) -> bool:
    """Return whether no transaction makes the header ``old`` into ``new``."""
    # A file without a table has no encoding yet.
    encodes = any(old[56:60])
    return (encodes and old[56:60] != new[56:60]) or _number(old, 40) > _number(new, 40)


def _wal_has_content(companion: str) -> bool:
    return any(_start(companion))


def _journal_has_content(companion: str) -> bool:
    """Return whether a journal has pages of a file; the one of a new file has none."""
    start = _start(companion)
    if start.startswith(_JOURNAL_MAGIC) and not _number(start, 16):
        return False
    # One sector holds a header, of which a power cut can leave a part.
    return any(start[_SMALLEST:])


def _wal_differs(header: bytes, companion: str) -> str:  # noqa: PLR0911
    """Return what shows that a ``-wal`` is another file's; empty if nothing does.

    A checkpoint copies its page 1 into the file, and each new page 1 counts one more. A store
    writes page 1 with its first commit to a ``-wal``, and a random number with it, which is the
    same as long as the database lives. Without a copy of page 1 the number of pages is unchanged.
    """
    with open(companion, "rb") as file:  # noqa: PTH123
        start = file.read(WAL_HEADER)
        size = _number(start, 8)
        if start[:4] not in WAL_MAGIC or not _is_page_size(size):
            # SQLite ignores it.
            return ""
        first, pages = _evidence(file, start, size, header)
    if not pages:
        return ""
    if size != _page_size(header):
        return f"its pages have {size} bytes, and those of the file {_page_size(header)}"
    if not first:
        known = _pages(header)
        same = known in {0, pages}
        return "" if same else f"it is of a file of {pages} pages, and this one has {known}"
    if _number(first, MARK) and _number(header, MARK) not in {0, _number(first, MARK)}:
        return "it has the mark of another database"
    change, counter = _number(first, 24) - 1, _number(header, 24)
    # A connection can write several of them under one number.
    if counter in {change, change + 1} and not _contradicts(header, first):
        return ""
    return f"it continues change {change} of another file, and this one is at {counter}"


def _evidence(file: BinaryIO, start: bytes, size: int, header: bytes) -> tuple[bytes, int]:
    """Return the first page 1 in a ``-wal`` (empty if none is soon), and the pages of its file.

    The number is 0 if nothing in it says whose it is: it has the page 1 of the file, or no
    complete transaction, or it begins with every page, as after a restore.
    """
    first, pages = b"", 0
    written: set[int] = set()
    # The frames up to the end of the first transaction, and of the first one with a page 1.
    begun, marked = 0, 0
    for read, (number, page, committed) in enumerate(_frames(file, start, size), 1):
        if number == 1:
            if page == header:
                return b"", 0
            if read <= _SEARCHED:
                first = first or page
        if not pages:
            written.add(number)
        if committed and not pages:
            begun, pages = read, committed
            if len(written) == pages:
                return b"", 0
        if committed and first and not marked:
            marked = read
    # A power cut can leave a part of a transaction, which SQLite ignores.
    if marked and _is_intact(file, start, size, marked):
        return first, pages
    return b"", pages if begun and _is_intact(file, start, size, begun) else 0


def _frames(file: BinaryIO, start: bytes, size: int) -> Iterator[tuple[int, bytes, int]]:
    """Yield page number, the page's header, and the file's pages if a transaction ends there."""
    file.seek(WAL_HEADER)
    while len(frame := file.read(_FRAME_HEADER)) == _FRAME_HEADER:
        # The rest is from before the last reset of the WAL.
        if frame[8:16] != start[16:24]:
            return
        number, page = _number(frame, 0), b""
        if number == 1:
            page = file.read(HEADER)
        file.seek(size - len(page), os.SEEK_CUR)
        yield number, page, _number(frame, 4)


def _is_intact(file: BinaryIO, start: bytes, size: int, frames: int) -> bool:
    """Return whether the checksums of the first frames are valid, as SQLite requires."""
    order = ">" if _number(start, 0) & 1 else "<"
    sums = checksum((0, 0), start[:24], order)
    valid = is_wal_header(start)
    file.seek(WAL_HEADER)
    for _ in range(frames):
        frame, page = file.read(_FRAME_HEADER), file.read(size)
        if not valid or len(page) < size:
            return False
        sums = checksum(checksum(sums, frame[:8], order), page, order)
        valid = sums == struct.unpack(">II", frame[16:24])
    return valid


def _journal_differs(header: bytes, companion: str) -> str:
    """Return what shows that a ``-journal`` is another file's; empty if nothing does.

    It holds the pages from before a transaction, which counts one more in page 1.
    """
    with open(companion, "rb") as file:  # noqa: PTH123
        start = file.read(28)
        pages, sector, size = (_number(start, offset) for offset in (16, 20, 24))
        if not start.startswith(_JOURNAL_MAGIC) or not _is_page_size(size) or not pages:
            # SQLite ignores it, or the file was being created.
            return ""
        counter, before = _number(header, 24), _first_page(file, start, sector, size)
    if before:
        change = _number(before, 24)
        if before == header or (counter == change + 1 and not _contradicts(before, header)):
            return ""
        return f"it is of change {change} of another file, and this one is at {counter}"
    if size != _page_size(header):
        return f"its pages have {size} bytes, and those of the file {_page_size(header)}"
    if _pages(header) not in {0, pages}:
        return f"it is of a file of {pages} pages, and this one has {_pages(header)}"
    return ""


def _first_page(file: BinaryIO, header: bytes, sector: int, size: int) -> bytes:
    """Return the header in a journal's copy of page 1; empty if there is none.

    A journal consists of segments, each with a header of one sector.
    """
    begin = 0
    while header.startswith(_JOURNAL_MAGIC) and sector:
        file.seek(begin + sector)
        for _ in range(_number(header, 8)):
            number, page = file.read(4), file.read(size)
            if len(page) < size:
                return b""
            if _number(number, 0) == 1:
                return page[:HEADER]
            file.seek(4, os.SEEK_CUR)
        begin = -(-file.tell() // sector) * sector
        file.seek(begin)
        header = file.read(WAL_HEADER)
    return b""
