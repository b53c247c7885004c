"""The migrations as data: the folder of the scripts, their ids, the structure of each.

Alembic is not imported here, so that a start at head does not import it. The ids are read
from the names of the version files, the structures from ``structure.json`` in the same
folder, which is generated from the migrations; a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from nextcloud_mcp_server.errors import TokenStorageError, for_shell
from nextcloud_mcp_server.schema.structure import Column, Structure, Table

#: Alembic's name for "no revision".
BASE: Final = "base"

STRUCTURE_FILE: Final = "structure.json"

#: The generated file of each engine, in the folder of the scripts.
STRUCTURE_FILES: Final = MappingProxyType(
    {"sqlite": STRUCTURE_FILE, "postgresql": "structure.postgresql.json"}
)

#: The folder of the scripts in an installed package.
_INSTALLED: Final = "_alembic"


class History:
    """The revisions of one folder of scripts, oldest first.

    Attributes:
        directory: the folder with ``env.py`` and ``versions``.
        revisions: the ids, oldest first, in the order of their numbers.
        structures: the structure of each revision in the generated file.
        engine: ``sqlite`` or ``postgresql``.
    """

    # Not a dataclass, because importing dataclasses slows down `db current`.
    def __init__(
        self,
        directory: Path,
        revisions: tuple[str, ...],
        structures: Mapping[str, Structure],
        engine: str = "sqlite",
    ) -> None:
        self.directory: Final = directory
        self.revisions: Final = revisions
        self.structures: Final = structures
        self.engine: Final = engine

    @property
    def head(self) -> str:
        """The newest revision."""
        return self.revisions[-1]

    @property
    def unknown_structures(self) -> tuple[str, ...]:
        """Revisions that are not in ``structure.json`` yet (a developer's new one)."""
        return tuple(r for r in self.revisions if r not in self.structures)

    def __contains__(self, revision: object) -> bool:
        """Return whether ``revision`` is one of this program."""
        return revision in self.revisions

    def structure(self, revision: str) -> Structure:
        """Return the structure of ``revision``."""
        return self.structures[revision]

    @cached_property
    def shapes(self) -> Mapping[str, list[Table]]:
        """All versions of each table, oldest first."""
        tables: dict[str, list[Table]] = {}
        for revision in filter(self.structures.__contains__, self.revisions):
            for name, table in self.structures[revision].tables.items():
                tables.setdefault(name, []).append(table)
        return tables

    @cached_property
    def known(self) -> Mapping[tuple[str, str], Table]:
        """All versions of all tables, by the name and the statement that creates it."""
        return {(name, table.sql): table for name, all_ in self.shapes.items() for table in all_}

    @cached_property
    def indexes(self) -> frozenset[str]:
        """The names of the indexes of all revisions."""
        return frozenset(name for known in self.structures.values() for name in known.indexes)

    def undone(self, recorded: str, target: str) -> tuple[str, ...]:
        """Return the revisions that a downgrade to ``target`` undoes, newest first."""
        first = 0 if target == BASE else self.revisions.index(target) + 1
        return self.revisions[first : self.revisions.index(recorded) + 1][::-1]

    def dropped_before(self, revision: str) -> frozenset[str]:
        """Return the tables of earlier revisions that ``revision`` no longer has."""
        earlier = self.revisions[: self.revisions.index(revision)]
        names = {name for r in earlier for name in self.structures[r].tables}
        return frozenset(names) - frozenset(self.structures[revision].tables)

    def dropped_by(self, table: str) -> str:
        """Return the first revision that drops ``table``."""
        return next(one for one in self.revisions if table in self.dropped_before(one))


def locate_scripts() -> Path:
    """Return the folder of the scripts: in the package, otherwise in the checkout around it.

    ``sys.path`` is not searched, because the library has the same name.

    Raises:
        TokenStorageError: ``no-migrations`` if neither exists.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / _INSTALLED, package.parent / "alembic"):
        if (folder / "versions").is_dir() and (folder / "env.py").is_file():
            return folder
    for archive in package.parents:
        if archive.is_file():
            raise _in_archive(archive)
    raise _no_migrations(f"The migration scripts are missing from {package}.")


def is_checkout() -> bool:
    """Check whether the scripts are those of a checkout, where new ones can be added."""
    return locate_scripts().name == "alembic"


@cache
def load_history(directory: Path | None = None, engine: str = "sqlite") -> History:
    """Read the ids and structures, once per process, folder and engine.

    Raises:
        TokenStorageError: ``no-migrations`` if there is no version file, ``bad-input`` if two
            have one id.
    """
    folder = directory or locate_scripts()
    names: dict[str, str] = {}
    for name in sorted(path.name for path in (folder / "versions").iterdir()):
        if revision := _revision_of(name):
            if other := names.get(revision):
                raise same_id(revision, other, name)
            names[revision] = name
        elif name.endswith(".py") and not name.startswith((".", "_")):
            # Alembic would run it.
            raise TokenStorageError(
                f"{folder / 'versions' / name} is not named as a migration is: "
                "DATE_TIME_ID_WORDS.py.",
                code="bad-input",
                remedy="Move it out of that folder if it is a copy; else rename it.",
            )
    ids = sorted(names, key=lambda text: (int(text), text))
    if not ids:
        raise _no_migrations(f"There is no migration script in {folder / 'versions'}.")
    structures = _load_structures(folder / STRUCTURE_FILES[engine])
    if folder.name == _INSTALLED and (lost := sorted(structures.keys() - names.keys())):
        raise _no_migrations(f"Migration {lost[0]} is missing from {folder / 'versions'}.")
    known = {revision: one for revision, one in structures.items() if revision in names}
    return History(folder, tuple(ids), known, engine)


def _revision_of(name: str) -> str:
    """Return the id in a file name ``DATE_TIME_ID_WORDS.py``; empty if it is no such name."""
    # Without a pattern, because compiling one slows down `db current`.
    stem = name.removesuffix(".py")
    parts = stem.split("_", 3)
    if stem == name or len(parts) < 4:  # noqa: PLR2004 - as above
        return ""
    date, time, revision, words = parts
    digits = f"{date}{time}{revision}"
    lengths = (len(date), len(time)) == (8, 4) and len(revision) >= 3  # noqa: PLR2004
    whole = lengths and digits.isascii() and digits.isdecimal()
    return revision if whole and words.replace("_", "a").isalnum() else ""


def same_id(revision: str, first: str, second: str) -> TokenStorageError:
    """Return the error for two version files with one id."""
    return TokenStorageError(
        f"The revision history is not linear: {second}: {revision} is also the id of {first}.",
        code="bad-input",
        remedy="Show the problems with: nextcloud-mcp-server db lint",
    )


def _in_archive(archive: Path) -> TokenStorageError:
    return TokenStorageError(
        f"The program was started from the archive {archive}, and migration scripts in an archive "
        "cannot be run.",
        code="no-migrations",
        remedy="Install the package (pip install nextcloud-mcp-server), or unpack the archive and "
        f"start that: python -m zipfile -e {for_shell(archive)} nextcloud-mcp-server && "
        "python nextcloud-mcp-server",
    )


def _no_migrations(message: str) -> TokenStorageError:
    return TokenStorageError(
        message,
        code="no-migrations",
        remedy="Install the package again: pip install --force-reinstall nextcloud-mcp-server",
    )


def _load_structures(path: Path) -> dict[str, Structure]:
    if not path.is_file():
        return {}
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    tables = {key: _table(entry) for key, entry in document["tables"].items()}
    return {
        revision: _structure(document, tables, keys)
        for revision, keys in document["revisions"].items()
    }


def _table(entry: dict[str, Any]) -> Table:
    columns = {
        name: Column(required=bool(required), key=key, declaration=declaration)
        for name, (required, key, declaration) in entry["columns"].items()
    }
    return Table(columns=columns, sql=entry["sql"])


def _structure(document: dict[str, Any], tables: dict[str, Table], keys: list[str]) -> Structure:
    entries = [document["tables"][key] for key in keys]
    return Structure(
        tables={entry["name"]: tables[key] for key, entry in zip(keys, entries, strict=True)},
        indexes={index: sql for entry in entries for index, sql in entry["indexes"].items()},
        owners={index: entry["name"] for entry in entries for index in entry["indexes"]},
    )


def dump_structures(structures: Mapping[str, Structure]) -> str:
    """Return the text of ``structure.json``, with each version of a table once."""
    tables: dict[str, dict[str, Any]] = {}
    revisions: dict[str, list[str]] = {}
    for revision, structure in structures.items():
        keys = []
        for name, table in structure.tables.items():
            entry = _entry(name, table, structure)
            same = (key for key, known in tables.items() if known == entry)
            key = next(same, f"{name}@{revision}")
            tables[key] = entry
            keys.append(key)
        revisions[revision] = keys
    return json.dumps({"revisions": revisions, "tables": tables}, indent=1) + "\n"


def _entry(name: str, table: Table, structure: Structure) -> dict[str, Any]:
    return {
        "name": name,
        "sql": table.sql,
        "columns": {n: [int(c.required), c.key, c.declaration] for n, c in table.columns.items()},
        "indexes": {
            index: sql
            for index, sql in structure.indexes.items()
            if structure.owners[index] == name
        },
    }
