"""The database that was named on the command line."""

from __future__ import annotations

from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.cli.words import database_line, fallback_line
from nextcloud_mcp_server.settings import Settings, load_settings


class Named:
    """The database that was named on the command line, if any."""

    def __init__(self, text: str | None) -> None:
        """Take a path or an SQLite URL; None where the settings are to say."""
        self.text = text

    def find(self, output: Output) -> Settings:
        """The settings of a command, after saying which database they name.

        Raises:
            TokenStorageError: as :func:`~nextcloud_mcp_server.settings.load_settings`.
        """
        settings = load_settings(database=self.text)
        if settings.fallback_from is not None:
            output.note(fallback_line(settings))
        if self.text is None:
            output.head(database_line(settings))
        return settings
