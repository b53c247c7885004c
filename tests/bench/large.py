"""The large database: an upgrade that recreates its largest table, and a verified backup.

The revision follows head in a copy of the scripts and recreates ``refresh_tokens`` by the
documented pattern. The sqlite3 command line runs the same statements with the pragmas of a
migration. Both are processes that report their own times.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, run
from typing import Final

from nextcloud_mcp_server.schema.history import load_history, locate_scripts
from tests.bench.harness import Pairs, Row, compare, environment, fact, peak
from tests.bench.place import KEY, Place, remove

#: The memory limit of an upgrade, for any number of rows.
MEMORY: Final = 100_000_000

_COLUMNS: Final = (
    "user_id, encrypted_token, expires_at, created_at, updated_at, flow_type, token_audience, "
    "provisioned_at, provisioning_client_id, scopes, user_profile, profile_cached_at"
)

RECREATION: Final = (
    """CREATE TABLE refresh_tokens_new (
        user_id TEXT PRIMARY KEY,
        encrypted_token BLOB NOT NULL,
        expires_at INTEGER,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        flow_type TEXT DEFAULT 'hybrid',
        token_audience TEXT DEFAULT 'nextcloud',
        provisioned_at INTEGER,
        provisioning_client_id TEXT,
        scopes TEXT,
        user_profile TEXT,
        profile_cached_at INTEGER,
        new_field TEXT
    )""",
    f"INSERT INTO refresh_tokens_new ({_COLUMNS}) SELECT {_COLUMNS} FROM refresh_tokens",
    "DROP TABLE refresh_tokens",
    "ALTER TABLE refresh_tokens_new RENAME TO refresh_tokens",
)

#: The pragmas of a migration; the journal mode is that of the file.
PRAGMAS: Final = ("foreign_keys=OFF", "legacy_alter_table=ON", "synchronous=EXTRA")

#: Upgrades as a start does, and prints the seconds in total and of the parts.
UPGRADE: Final = """
import json, sys, time
from pathlib import Path
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.backends.sqlite import backup
from nextcloud_mcp_server.migrate import run, startup
from nextcloud_mcp_server.schema import history
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.crypto.verification import verified_keyring

seconds = {}

def watch(module, name):
    original = getattr(module, name)
    def call(*arguments, **options):
        begun = time.perf_counter()
        try:
            return original(*arguments, **options)
        finally:
            seconds[name] = time.perf_counter() - begun
    setattr(module, name, call)

path, scripts, key = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
history.locate_scripts = lambda: scripts
watch(startup, "prepare")
watch(startup, "require_sound")
watch(run, "migrate")
watch(backup, "make_backup")
verify = lambda samples, known: verified_keyring(Keyring([key]), samples, path, known).fingerprints
startup.known_history()
outcome = startup.prepare(connect(path), verify=verify, progress=lambda now: None)
assert outcome.steps, outcome
print(json.dumps(seconds))
"""

#: Backs up as ``db backup`` does.
BACKUP: Final = """
import sys, time
from pathlib import Path
from nextcloud_mcp_server.backends.sqlite.backup import make_backup
begun = time.perf_counter()
make_backup(Path(sys.argv[1]), Path(sys.argv[2]))
print(time.perf_counter() - begun)
"""

#: A copy that is read back, with SQLite only.
VACUUM: Final = """
import sqlite3, sys, time
begun = time.perf_counter()
source = sqlite3.connect(sys.argv[1], isolation_level=None)
source.execute("VACUUM INTO ?", (sys.argv[2],))
copy = sqlite3.connect(sys.argv[2])
assert copy.execute("PRAGMA quick_check").fetchall() == [("ok",)]
print(time.perf_counter() - begun)
"""


class Upgrades:
    """Upgrades of one database by the program and by the sqlite3 command line."""

    def __init__(self, place: Place, rows: int) -> None:
        """Measure on copies of the database with ``rows`` rows."""
        self.place, self.rows = place, rows
        self.scripts = _scripts(place.folder)
        #: Of each upgrade of ours: the seconds of its parts, and the most memory.
        self.parts: list[dict[str, float]] = []
        self.peaks: list[int] = []

    def ours(self) -> float:
        """Return the seconds of the transaction: of ``run.migrate`` without the backup."""
        path = self.place.database("upgraded", self.rows)
        command = [sys.executable, "-c", UPGRADE, str(path), str(self.scripts), KEY]
        output, memory = peak(command, environment())
        remove(path)
        seconds: dict[str, float] = json.loads(output)
        self.parts.append(seconds)
        self.peaks.append(memory)
        return seconds["migrate"] - seconds.get("make_backup", 0.0)

    def base(self) -> float:
        """Return the seconds of the same statements in the sqlite3 command line."""
        path = self.place.database("recreated", self.rows)
        statements = ["BEGIN IMMEDIATE", *RECREATION, "COMMIT"]
        seconds = by_command_line(path, statements)
        remove(path)
        return seconds


def by_command_line(path: Path, statements: list[str]) -> float:
    """Return the seconds that the sqlite3 command line reports for ``statements``."""
    pragmas = "".join(f"PRAGMA {pragma};\n" for pragma in (*PRAGMAS, "secure_delete=ON"))
    script = f"{pragmas}.timer on\n" + "".join(f"{statement};\n" for statement in statements)
    if shutil.which("sqlite3") is None:
        raise RuntimeError("the sqlite3 command line is not installed")
    done = run(["sqlite3", "-bail", str(path)], input=script, stdout=PIPE, text=True, check=True)
    times = [line.split() for line in done.stdout.splitlines() if line.startswith("Run Time:")]
    if len(times) != len(statements):
        raise RuntimeError(f"sqlite3 reported {len(times)} times for {len(statements)} statements")
    return sum(float(words[words.index("real") + 1]) for words in times)


def _scripts(folder: Path) -> Path:
    """Copy the scripts and add a revision."""
    target = folder / "alembic"
    if not target.exists():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(locate_scripts(), target, ignore=ignored)
        head = load_history().head
        calls = "\n".join(f"    op.execute({statement!r})" for statement in RECREATION)
        text = (
            f'"""Recreate the largest table."""\n\nfrom alembic import op\n\n'
            f'revision = "{int(head) + 1}"\ndown_revision = "{head}"\n\n\n'
            f"def upgrade() -> None:\n{calls}\n\n\ndef downgrade() -> None:\n    pass\n"
        )
        name = f"20990101_0000_{int(head) + 1}_recreate_the_largest_table.py"
        (target / "versions" / name).write_text(text, "utf-8")
    return target


class Backups:
    """Verified backups of one database by the program and by ``VACUUM INTO``."""

    def __init__(self, place: Place, rows: int) -> None:
        """Measure on a copy of the database with ``rows`` rows."""
        self.path = place.database("kept", rows)

    def ours(self) -> float:
        """Return the seconds of ``make_backup``: copied, verified, synced, with its manifest."""
        return self._run(BACKUP)

    def base(self) -> float:
        """Return the seconds of ``VACUUM INTO`` and ``quick_check``."""
        return self._run(VACUUM)

    def _run(self, program: str) -> float:
        copy = self.path.with_name("copy.db")
        command = [sys.executable, "-c", program, str(self.path), str(copy)]
        done = run(command, env=environment(), stdout=PIPE, check=True)
        remove(copy)
        return float(done.stdout)


def rows(place: Place) -> Iterator[Row]:
    """Yield the figures of the large database."""
    small, large = place.scale.rows[1], place.scale.rows[-1]
    upgrades = Upgrades(place, large)
    pairs = compare(upgrades.base, upgrades.ours, place.scale.large)
    yield pairs.judged(
        f"upgrade that recreates {large:,} refresh tokens: the transaction",
        f"its statements in the sqlite3 command line {_version()}",
        1.3,
    )
    whole = Pairs(pairs.base, tuple(parts["prepare"] for parts in upgrades.parts))
    yield whole.judged(
        "the whole of that upgrade: inspection, checks, backup, transaction, WAL", "the same"
    )
    few = Upgrades(place, small)
    few.ours()
    yield _memory(upgrades.peaks, few.peaks, small, large)
    backups = Backups(place, large)
    pairs = compare(backups.base, backups.ours, place.scale.large)
    yield pairs.judged("a verified backup of that file", "`VACUUM INTO` and `quick_check`", 1.3)


def _version() -> str:
    done = run(["sqlite3", "--version"], stdout=PIPE, text=True, check=True)
    return done.stdout.partition(" ")[0]


def _memory(many: list[int], few: list[int], small: int, large: int) -> Row:
    most = max(many)
    return fact(
        f"memory of that upgrade at its peak, with {large:,} and {small:,} rows",
        f"{most / 1e6:.0f} MB and {max(few) / 1e6:.0f} MB",
        f"under {MEMORY / 1e6:.0f} MB, flat",
        holds=most < MEMORY and most - max(few) < MEMORY / 10,
    )
