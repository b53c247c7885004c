"""The migrations as data: where the scripts lie, their ids, the structure at each.

Alembic is never imported here: a start at head asks only this module. The ids are read
from the names of the version files, the structures from ``structure.json`` beside them,
which is generated from the migrations and held to them by a test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.schema.structure import Column, Structure, Table

#: Alembic's word for "no revision at all".
BASE: Final = "base"

STRUCTURE_FILE: Final = "structure.json"

_VERSION_FILE: Final = re.compile(r"\d{8}_\d{4}_(?P<id>\d{3,})_\w+\.py")


class History:
    """The revisions of one folder of scripts, oldest first.

    Attributes:
        directory: the folder with ``env.py`` and ``versions``.
        revisions: the ids, oldest first; their numbers are their order.
        structures: the structure at each revision that ``structure.json`` knows.
    """

    # No dataclass, nor anything else that a look imports: the module takes a fifth of a look.
    def __init__(
        self, directory: Path, revisions: tuple[str, ...], structures: Mapping[str, Structure]
    ) -> None:
        self.directory: Final = directory
        self.revisions: Final = revisions
        self.structures: Final = structures

    @property
    def head(self) -> str:
        """The newest revision."""
        return self.revisions[-1]

    @property
    def unknown_structures(self) -> tuple[str, ...]:
        """Revisions that ``structure.json`` does not describe yet (a developer's new one)."""
        return tuple(r for r in self.revisions if r not in self.structures)

    def __contains__(self, revision: object) -> bool:
        """Whether this program knows ``revision``."""
        return revision in self.revisions

    def structure(self, revision: str) -> Structure:
        """The structure at ``revision``."""
        return self.structures[revision]

    @cached_property
    def shapes(self) -> Mapping[str, list[Table]]:
        """Every shape that each table is known to have had, oldest first."""
        found: dict[str, list[Table]] = {}
        for revision in filter(self.structures.__contains__, self.revisions):
            for name, table in self.structures[revision].tables.items():
                found.setdefault(name, []).append(table)
        return found

    @cached_property
    def known(self) -> Mapping[tuple[str, str], Table]:
        """Every shape of every table, by its name and the statement that makes it."""
        return {(name, table.sql): table for name, all_ in self.shapes.items() for table in all_}

    @property
    def indexes(self) -> frozenset[str]:
        """The names of all indexes that any revision makes."""
        return frozenset(name for known in self.structures.values() for name in known.indexes)

    def dropped_before(self, revision: str) -> frozenset[str]:
        """Tables that an earlier revision had and ``revision`` has no more."""
        earlier = self.revisions[: self.revisions.index(revision)]
        names = {name for r in earlier for name in self.structures[r].tables}
        return frozenset(names) - frozenset(self.structures[revision].tables)

    def with_structures(self, structures: Mapping[str, Structure]) -> History:
        """The same history, with more structures known."""
        return History(self.directory, self.revisions, {**self.structures, **structures})


def locate_scripts() -> Path:
    """The folder of migration scripts: inside the package, else in the checkout beside it.

    ``sys.path`` is never searched: the library of the same name is on it.

    Raises:
        TokenStorageError: ``no-migrations`` where neither is there.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_alembic", package.parent / "alembic"):
        if (folder / "versions").is_dir() and (folder / "env.py").is_file():
            return folder
    raise TokenStorageError(
        f"The migration scripts are missing from {package}.",
        code="no-migrations",
        remedy="Install the package again: pip install --force-reinstall nextcloud-mcp-server.",
    )


def is_checkout() -> bool:
    """Whether the scripts are the source files of a checkout, and may be added to."""
    return locate_scripts().name == "alembic"


@cache
def load_history(directory: Path | None = None) -> History:
    """Read the ids and the known structures; read once per process and folder.

    Raises:
        TokenStorageError: ``no-migrations`` where there is no version file.
    """
    folder = directory or locate_scripts()
    matches = (_VERSION_FILE.fullmatch(path.name) for path in (folder / "versions").iterdir())
    ids = sorted({m["id"] for m in matches if m}, key=lambda text: (int(text), text))
    if not ids:
        raise TokenStorageError(
            f"There is no migration script in {folder / 'versions'}.",
            code="no-migrations",
            remedy="Install the package again: pip install --force-reinstall nextcloud-mcp-server.",
        )
    return History(folder, tuple(ids), _load_structures(folder / STRUCTURE_FILE, ids))


def _load_structures(path: Path, ids: list[str]) -> dict[str, Structure]:
    if not path.is_file():
        return {}
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    tables = {key: _table(entry) for key, entry in document["tables"].items()}
    return {
        revision: _structure(document, tables, keys)
        for revision, keys in document["revisions"].items()
        if revision in ids
    }


def _table(entry: dict[str, Any]) -> Table:
    columns = {
        name: Column(required=bool(required), key=key, declaration=declaration)
        for name, (required, key, declaration) in entry["columns"].items()
    }
    return Table(columns=columns, sql=entry["sql"])


def _structure(document: dict[str, Any], tables: dict[str, Table], keys: list[str]) -> Structure:
    entries = {key: document["tables"][key] for key in keys}
    owned = [
        (index, sql, entry["name"])
        for entry in entries.values()
        for index, sql in entry["indexes"].items()
    ]
    return Structure(
        tables={entry["name"]: tables[key] for key, entry in entries.items()},
        indexes={index: sql for index, sql, _ in owned},
        owners={index: table for index, _, table in owned},
    )


def dump_structures(structures: Mapping[str, Structure]) -> str:
    """The text of ``structure.json`` for ``structures``: each shape of a table stands once."""
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
