"""The simulation of power cuts and the count of trials are correct."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from nextcloud_mcp_server.migrations import upgrade_database
from tests.faults import powercut
from tests.faults.injection import Injector
from tests.faults.powercut import File, Machine, Recording, Write
from tests.faults.scenarios import Scenario
from tests.faults.test_powercut import record
from tests.faults.trials import Trials, seeded, table


def recorded(*entries: powercut.Entry) -> Machine:
    """Return a machine that has replayed ``entries`` in a folder with one file."""
    machine = Machine(Recording(Path("/d"), {"a": (1, b"x" * 1024)}, entries))
    for entry in entries:
        machine.step(entry)
    return machine


def entry(
    kind: str, *, inode: int = 0, at: int = 0, path: str = "", other: str = "", data: bytes = b""
) -> powercut.Entry:
    """Return an operation."""
    return powercut.Entry(kind, inode, at, path, other, data)


def outcomes(machine: Machine) -> set[tuple[tuple[str, bytes], ...]]:
    """Return the possible contents of the disk, from four hundred cuts."""
    source = seeded("outcomes")
    cuts = (machine.cut(source.choice(powercut.WAYS), source) for _ in range(400))
    return {tuple(sorted(cut.items())) for cut in cuts}


def test_a_synced_write_is_there() -> None:
    """A write before an fsync is in every state of the disk."""
    machine = recorded(entry("W", inode=1, at=0, data=b"new"), entry("S", inode=1))
    assert outcomes(machine) == {(("a", b"new" + b"x" * 1021),)}


def test_an_unsynced_write_is_there_or_not_by_sectors() -> None:
    """Without an fsync each sector is old or new, and the bytes around it stay."""
    machine = recorded(entry("W", inode=1, at=500, data=b"n" * 24))
    old, new = b"x", b"n"
    assert outcomes(machine) == {
        (("a", b"x" * 500 + first * 12 + second * 12 + b"x" * 500),)
        for first in (old, new)
        for second in (old, new)
    }


def test_a_new_name_is_there_after_a_sync_of_its_folder() -> None:
    """A new and synced file may lack its name until its folder is synced."""
    made = (entry("C", inode=2, path="/d/b"), entry("S", inode=2))
    assert {len(disk) for disk in outcomes(recorded(*made))} == {1, 2}
    assert {len(disk) for disk in outcomes(recorded(*made, entry("D", path="/d")))} == {2}


def test_a_rename_happens_or_does_not() -> None:
    """There is always exactly one of the two names."""
    machine = recorded(entry("R", path="/d/a", other="/d/b"))
    assert {tuple(name for name, _ in disk) for disk in outcomes(machine)} == {("a",), ("b",)}


def test_an_inode_outlives_its_name_and_is_used_again() -> None:
    """Writes go to the open file, also if its name or inode is used again."""
    machine = recorded(
        entry("L", path="/d/a", other="/d/b"),
        entry("U", path="/d/a"),
        entry("W", inode=1, at=0, data=b"kept"),
        entry("S", inode=1),
        entry("C", inode=7, path="/d/a"),
        entry("D", path="/d"),
    )
    ((first, second),) = outcomes(machine)
    assert first == ("a", b"")
    assert second == ("b", b"kept" + b"x" * 1020)


def test_a_file_that_grew_is_filled_with_something() -> None:
    """Missing bytes before the end of a file are zeros."""
    file = File(b"ab")
    assert file.with_writes([Write(4, b"c")]) == b"ab\0\0c"
    assert file.with_writes([Write(1, None)]) == b"a"


def test_a_recording_replayed_is_what_the_process_left(injector: Injector, workspace: Path) -> None:
    """With all writes arrived, a replayed machine has the files that the process left."""
    scenario = Scenario("", "store", "3", upgrade_database)
    recording = record(scenario, injector, workspace)
    machine = Machine(recording)
    for step in recording.entries:
        machine.step(step)
    replayed = machine.cut("everything", seeded("replay"))
    left = {p.name: p.read_bytes() for p in recording.folder.iterdir()}
    assert {n: c for n, c in replayed.items() if not n.endswith("-shm")} == {
        n: c for n, c in left.items() if not n.endswith("-shm")
    }
    assert machine.acknowledged == ["stored user-0", "stored user-1", "stored user-2", "done"]


def test_states_are_different_and_repeat_with_their_seed(
    injector: Injector, workspace: Path
) -> None:
    """A seed gives the same states again, all different, in the wanted number."""
    recording = record(Scenario("", "store", "3", upgrade_database), injector, workspace)
    first, again = (list(powercut.states(recording, 90, seeded("states"))) for _ in range(2))
    assert first == again
    assert len({repr(state[1:]) for state in first}) == 90


def test_the_table_counts_what_held() -> None:
    """The table adds the trials of all tests, and failures do not count as held."""
    trials = Trials()
    trials.count("SIGKILL")
    trials.count("SIGKILL", "lost")
    properties = [*(trials.properties() for _ in range(2)), []]
    (line,) = table(SimpleNamespace(user_properties=each) for each in properties)
    assert line.split() == ["SIGKILL", "2", "of", "4"]
