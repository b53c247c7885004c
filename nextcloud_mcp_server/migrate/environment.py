"""Run ``env.py`` and the revisions apart from every other use of Alembic in this process.

``alembic.op`` and ``alembic.context`` are proxies in module globals: what they reach changes
whenever a thread of the process enters or leaves an environment of Alembic. A revision could run
on the connection of the host's own migration, and the reverse. So the files of the program's
folder of scripts get two modules of their own under these names, which nothing else can reach.
The ``alembic`` command in a checkout does not come through here.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import alembic
from alembic.ddl.postgresql import PostgresqlImpl
from alembic.ddl.sqlite import SQLiteImpl
from alembic.operations import Operations
from alembic.runtime.environment import EnvironmentContext
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionMap
from alembic.util import CommandError

from nextcloud_mcp_server.schema.history import same_id

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import Table


class _Operations(Operations):
    """The operations of a revision, installed in the own module ``op`` only."""

    @classmethod
    @contextmanager
    def context(cls, migration_context: MigrationContext) -> Iterator[Operations]:
        operations = cls(migration_context)
        operations._install_proxy()
        try:
            yield operations
        finally:
            operations._remove_proxy()


class Environment(EnvironmentContext):
    """An environment of Alembic, installed in the own module ``context`` only.

    Only one at a time: the caller holds the lock of :mod:`.alembic_commands`.
    """

    def configure(self, *arguments: Any, **options: Any) -> None:
        """Make the migration context, with Alembic's own implementation for the engine.

        An application may have put one of its own in its place, for its own migrations.
        """
        super().configure(*arguments, **options)
        context = self.get_context()
        registered = context.impl
        impl = _IMPLEMENTATIONS[context.dialect.name](
            registered.dialect,
            registered.connection,
            registered.as_sql,
            registered.transactional_ddl,
            registered.output_buffer,
            registered.context_opts,
        )
        context.impl = impl
        context._version = version = impl.version_table_impl(
            version_table=context.version_table,
            version_table_schema=context.version_table_schema,
            version_table_pk=True,
        )
        vars(version)["dispatch"] = _NoEvents()

    def run_migrations(self, **options: Any) -> None:
        """Run the revisions, each with the own ``op``."""
        with _Operations.context(self.get_context()):
            self.get_context().run_migrations(**options)


class _NoEvents:
    """Takes the place of the events of a table: what an application does with its own."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


class _Quiet:
    """Creates and drops tables without their events."""

    def create_table(self, table: Table, **options: Any) -> None:
        vars(table)["dispatch"] = _NoEvents()
        super().create_table(table, **options)  # type: ignore[misc]

    def drop_table(self, table: Table, **options: Any) -> None:
        vars(table)["dispatch"] = _NoEvents()
        super().drop_table(table, **options)  # type: ignore[misc]


# Without a `__dialect__` of their own, which would register them for the whole process.
class _Sqlite(_Quiet, SQLiteImpl):
    pass


class _Postgresql(_Quiet, PostgresqlImpl):
    pass


_IMPLEMENTATIONS: Final[dict[str, type[_Sqlite | _Postgresql]]] = {
    "sqlite": _Sqlite,
    "postgresql": _Postgresql,
}


class Scripts(ScriptDirectory):
    """The folder of scripts; its files are loaded with the own ``op`` and ``context``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        # Its other way to the files is the loader of Alembic, which knows one `op` alone.
        self.revision_map = RevisionMap(lambda: _revisions(folder / "versions"))

    def run_env(self) -> None:
        """Run ``env.py``."""
        _load(Path(self.dir, "env.py"))


def run(config: Config, scripts: Scripts, **options: Any) -> None:
    """Run ``env.py`` in an environment with ``options``: those of Alembic's commands."""
    with Environment(config, scripts, **options):
        scripts.run_env()


def _revisions(folder: Path) -> Iterator[Script]:
    names: dict[str, str] = {}
    for path in sorted(folder.glob("[!._]*.py")):
        module = _load(path)
        if not hasattr(module, "revision"):
            raise CommandError(f"{path.name} has no revision")
        # Alembic would run the last file of an id, whatever its name is.
        if other := names.get(module.revision):
            raise same_id(module.revision, other, path.name)
        names[module.revision] = path.name
        yield Script(module, module.revision, str(path))


def _load(path: Path) -> ModuleType:
    """Load a file as a module with the own ``op`` and ``context``."""
    name = f"_token_store_{path.stem}"
    spec = spec_from_file_location(name, path, loader=_Loader(name, str(path)))
    if spec is None or spec.loader is None:
        raise CommandError(f"{path} cannot be loaded.")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Loader(SourceFileLoader):
    """Loads a file whose imports, also those in its functions, find the own modules."""

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": _import}
        super().exec_module(module)


def _import(
    name: str,
    globals: Any = None,  # noqa: A002 - the names of the built-in function
    locals: Any = None,  # noqa: A002
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    module = builtins.__import__(name, globals, locals, fromlist or (), level)
    return _OWN.get(module.__name__, module)


def _proxies(kind: type[_Operations | Environment], name: str) -> ModuleType:
    module = ModuleType(name)
    kind.create_module_class_proxy(vars(module), vars(module))
    return module


def _package() -> ModuleType:
    """Return a module like the package ``alembic``, with the own ``op`` and ``context``."""
    package = ModuleType(alembic.__name__)
    vars(package).update(
        op=_OWN["alembic.op"],
        context=_OWN["alembic.context"],
        __getattr__=lambda name: getattr(alembic, name),
    )
    return package


_OWN: Final[dict[str, ModuleType]] = {
    "alembic.op": _proxies(_Operations, "alembic.op"),
    "alembic.context": _proxies(Environment, "alembic.context"),
}
_OWN["alembic"] = _package()
