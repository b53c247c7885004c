"""The database that a command uses."""

from __future__ import annotations

from pathlib import Path

from nextcloud_mcp_server.backends.base import Database
from nextcloud_mcp_server.backends.connect import connect, require_file
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import WRONG_USAGE, TokenStorageError, printable
from nextcloud_mcp_server.settings import Settings, load_settings, locate


class DatabaseOption:
    """The value of ``-d`` or ``-u``: a path or a URL; None if the settings decide."""

    def __init__(self, value: str | None) -> None:
        self.value = value
        self._is_shown = False

    def locate(self, output: Output) -> Settings:
        """Return the location of the database; the first time, print it if the settings name it."""
        location = self._located()
        if self._is_shown:
            return location
        self._is_shown = True
        path = printable(str(location.database))
        if location.empty:
            output.note(
                f"warning: {location.empty} is empty and counts as unset, so {path} is used. "
                "Give it a value, or unset it."
            )
        if location.fallback_from is not None:
            output.note(
                f"warning: {location.fallback_from} cannot be used here, so {path} is used "
                "instead. Set TOKEN_STORAGE_DB or give -d to choose another."
            )
        if self.value is None:
            source = f"from {location.source}" if location.source else "the default"
            output.heading(f"database: {path} ({source})")
        return location

    def _located(self) -> Settings:
        try:
            return locate(database=self.value)
        except TokenStorageError as error:
            # Not for the settings, nor for a working directory that is gone.
            if self.value is not None and not isinstance(error.__cause__, OSError):
                error.exit_status = WRONG_USAGE
            raise

    def database(self, output: Output) -> Database:
        """Return the database, after :meth:`locate`."""
        location = self.locate(output)
        try:
            return connect(location.database)
        except TokenStorageError as error:
            if self.value is not None and error.code == "bad-input":
                error.exit_status = WRONG_USAGE
            raise

    def file(self, output: Output, command: str, revision: str | None = None) -> Path:
        """Return the database file of a command that works on files only.

        Raises:
            TokenStorageError: ``unsupported-database`` for a database that is not a file.
        """
        return require_file(self.database(output), command, revision)

    def settings(
        self, output: Output, *, files_only: str = "", revision: str | None = None
    ) -> Settings:
        """Return all settings; ``files_only`` names a command that needs :meth:`file`."""
        if files_only:
            self.file(output, files_only, revision)
        else:
            self.database(output)
        return load_settings(database=self.value)
