"""Simulate power cuts: the possible contents of a disk after each step of a recorded process.

The model is that of https://www.sqlite.org/atomiccommit.html with "powersafe overwrite",
which SQLite assumes by default, on a disk that keeps no order between two syncs:

- The bytes and the length of a file are durable after fsync or fdatasync.
- Of later writes and truncations any part may be there, in any order, in sectors of 512
  bytes; each sector is old or new. Bytes outside a write do not change.
- If a file became longer and the bytes are missing, there are zeros or random bytes.
- A created, moved or removed name is durable after fsync of its folder; before that each
  change may be there or not. A rename is atomic.
- SQLite rebuilds ``-shm``, so it is missing or has random content.

Not modelled, since SQLite does not defend against it: a disk that reports a sync too early,
and bit rot.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SECTOR: Final = 512

_HEADER: Final = struct.Struct("=6q")

Chance = random.Random
#: Names of files, and what is in them.
Disk = Mapping[str, bytes]


@dataclass(frozen=True)
class Entry:
    """One operation of a recording; see ``record.c``."""

    kind: str
    inode: int
    at: int
    path: str
    other: str
    data: bytes


@dataclass(frozen=True)
class Recording:
    """The operations of one process in one folder.

    ``before`` has the inode and the content of each file before, by its name.
    """

    folder: Path
    before: Mapping[str, tuple[int, bytes]]
    entries: Sequence[Entry]


def parse(recording: bytes) -> list[Entry]:
    """Return the operations of a recording in their order."""
    entries = []
    position = 0
    while position < len(recording):
        kind, inode, at, *sizes = _HEADER.unpack_from(recording, position)
        position += _HEADER.size
        parts = []
        for size in sizes:
            parts.append(recording[position : position + size])
            position += size
        path, other, data = parts
        entries.append(Entry(chr(kind), inode, at, path.decode(), other.decode(), data))
    return entries


@dataclass
class Write:
    """Written bytes, or a new length if there are none."""

    at: int
    data: bytes | None

    def sectors(self) -> list[Write]:
        """Return the write in pieces of sectors."""
        if self.data is None:
            return [self]
        end = self.at + len(self.data)
        starts = [self.at, *range(self.at - self.at % SECTOR + SECTOR, end, SECTOR)]
        return [
            Write(start, self.data[start - self.at : stop - self.at])
            for start, stop in zip(starts, [*starts[1:], end], strict=True)
        ]


@dataclass
class File:
    """A file: its durable content, and the writes since."""

    kept: bytes = b""
    pending: list[Write] = field(default_factory=list)

    def sync(self) -> None:
        """Make all writes durable."""
        self.kept = self.with_writes(self.pending)
        self.pending = []

    def with_writes(self, writes: Sequence[Write], fill: Callable[[int], bytes] = bytes) -> bytes:
        """Return the content with some of the writes; ``fill`` creates unwritten bytes."""
        content = bytearray(self.kept)
        for write in writes:
            end = write.at + len(write.data or b"")
            if write.data is None:
                del content[write.at :]
            if len(content) < end:
                content += fill(end - len(content))
            if write.data is not None:
                content[write.at : end] = write.data
        return bytes(content)


@dataclass(frozen=True)
class Move:
    """Names that were created (a file) or removed (None); a rename is both."""

    changes: Mapping[str, File | None]


class Machine:
    """A machine that replays a recording, and whose power can be cut after any step."""

    def __init__(self, recording: Recording) -> None:
        """Begin with the files before the recording, all of them durable."""
        self._folder = recording.folder
        self._names = {name: File(content) for name, (_, content) in recording.before.items()}
        self._inodes = {i: self._names[name] for name, (i, _) in recording.before.items()}
        self._kept = dict(self._names)
        self._moves: list[Move] = []
        self.acknowledged: list[str] = []

    def step(self, entry: Entry) -> None:
        """Replay one operation."""
        match entry.kind:
            case "C":
                self._inodes[entry.inode] = File()
                self._move({self._name(entry.path): self._inodes[entry.inode]})
            case "W":
                self._inodes[entry.inode].pending.append(Write(entry.at, entry.data))
            case "T":
                self._inodes[entry.inode].pending.append(Write(entry.at, None))
            case "S":
                self._inodes[entry.inode].sync()
            case "D":
                self._kept = dict(self._names)
                self._moves = []
            case "U":
                self._move({self._name(entry.path): None})
            case "R":
                old, new = self._name(entry.path), self._name(entry.other)
                self._move({new: self._names[old], old: None})
            case "L":
                self._move({self._name(entry.other): self._names[self._name(entry.path)]})
            case "M":
                self.acknowledged.append(entry.path)
            case _:
                raise AssertionError(entry)

    def _name(self, path: str) -> str:
        assert Path(path).parent == self._folder, path
        return Path(path).name

    def _move(self, changes: Mapping[str, File | None]) -> None:
        self._moves.append(Move(changes))
        _apply(self._names, changes)

    @property
    def settled(self) -> bool:
        """Return whether everything is durable, so that a cut can leave one state only."""
        files = [*self._names.values(), *self._kept.values()]
        return not self._moves and not any(file.pending for file in files)

    def cut(self, how: str, chance: Chance) -> Disk:
        """Return the content of the disk if the power is cut now.

        ``how`` is one of :data:`WAYS`: the unsynced writes that have arrived.
        """
        names = dict(self._kept)
        for move in _some(self._moves, how, chance):
            _apply(names, move.changes)
        share = chance.random()
        content = {}
        for name, file in sorted(names.items()):
            if not name.endswith("-shm"):
                writes, fill = _arrived(file.pending, how, share, chance)
                content[name] = file.with_writes(writes, fill)
            elif chance.random() < share:
                content[name] = chance.randbytes(32768)
        return content


#: The unsynced writes that arrive: none; all; in each file the first ones, the last of them
#: torn; any writes; any sectors of any writes.
WAYS: Final = ("nothing", "everything", "torn", "writes", "sectors")


def _apply(names: dict[str, File], changes: Mapping[str, File | None]) -> None:
    for name, file in changes.items():
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


def _some(moves: Sequence[Move], how: str, chance: Chance) -> Sequence[Move]:
    if how == "nothing":
        return ()
    if how == "everything" or chance.random() < 0.25:
        return moves
    if how == "torn":
        return moves[: chance.randint(0, len(moves))]
    return [move for move in moves if chance.random() < 0.5]


def _arrived(
    pending: Sequence[Write], how: str, share: float, chance: Chance
) -> tuple[Sequence[Write], Callable[[int], bytes]]:
    fill = chance.choice((bytes, chance.randbytes))
    if how == "nothing":
        return (), bytes
    if how == "everything":
        return pending, bytes
    if how == "writes":
        return [write for write in pending if chance.random() < share], fill
    if how == "sectors":
        pieces = [piece for write in pending for piece in write.sectors()]
        arrived = [piece for piece in pieces if chance.random() < share]
        return arrived, fill
    if not pending:
        return (), bytes
    last = chance.randrange(len(pending))
    torn = [piece for piece in pending[last].sectors() if chance.random() < share]
    return [*pending[:last], *torn], fill


def states(
    recording: Recording, wanted: int, chance: Chance
) -> Iterator[tuple[int, Disk, list[str]]]:
    """Yield different states of the disk after cuts at all points of a recording.

    Yields ``wanted`` times (fewer if there are no more) the number of operations before the cut,
    the disk, and what was acknowledged by then.
    """
    seen: set[str] = set()
    entries = recording.entries
    for _ in range(_ROUNDS):
        each = max(1, (wanted - len(seen)) // (len(entries) + 1))
        likely = min(1.0, (wanted - len(seen)) / (len(entries) + 1))
        machine = Machine(recording)
        for number in range(len(entries) + 1):
            if number:
                machine.step(entries[number - 1])
            if chance.random() > likely:
                continue
            for _ in range(1 if machine.settled else each):
                disk = machine.cut(chance.choice(WAYS), chance)
                key = _key(disk, len(machine.acknowledged))
                if key not in seen and len(seen) < wanted:
                    seen.add(key)
                    yield number, disk, list(machine.acknowledged)
        if len(seen) >= wanted:
            return


#: The number of passes over a recording in search of more states.
_ROUNDS: Final = 60


def _key(disk: Disk, acknowledged: int) -> str:
    whole = hashlib.sha256(f"{acknowledged}".encode())
    for name, content in sorted(disk.items()):
        whole.update(f"{name} {len(content)} ".encode() + hashlib.sha256(content).digest())
    return whole.hexdigest()
