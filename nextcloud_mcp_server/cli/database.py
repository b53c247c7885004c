"""The database that was named on the command line."""

from __future__ import annotations

from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import printable
from nextcloud_mcp_server.settings import Settings, load_settings, locate


class Named:
    """The database that was named on the command line, if any."""

    def __init__(self, text: str | None) -> None:
        """Take a path or an SQLite URL; None where the settings are to say."""
        self.text = text

    def locate(self, output: Output) -> Settings:
        """Which database it is, after saying so where the command line does not.

        Raises:
            TokenStorageError: as :func:`~nextcloud_mcp_server.settings.locate`.
        """
        place = locate(database=self.text)
        if place.fallback_from is not None:
            output.note(fallback_line(place))
        if self.text is None:
            output.head(database_line(place))
        return place

    def settings(self, output: Output) -> Settings:
        """The same, and all other settings of a command.

        Raises:
            TokenStorageError: as :func:`~nextcloud_mcp_server.settings.load_settings`.
        """
        self.locate(output)
        return load_settings(database=self.text)


def database_line(place: Settings) -> str:
    """Which database a command uses, and which setting named it."""
    source = f"from {place.source}" if place.source else "the default"
    return f"database: {printable(str(place.database))} ({source})"


def fallback_line(place: Settings) -> str:
    """The warning that the usual place could not be used."""
    return (
        f"warning: {place.fallback_from} cannot be used here, so "
        f"{printable(str(place.database))} is used instead. "
        "Set TOKEN_STORAGE_DB or give -d to choose another."
    )
