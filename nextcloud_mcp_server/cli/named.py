"""The database that was named on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.cli.words import database_line, fallback_line
from nextcloud_mcp_server.location import Location, locate

if TYPE_CHECKING:
    from nextcloud_mcp_server.settings import Settings


class Named:
    """The database that was named on the command line, if any."""

    def __init__(self, text: str | None) -> None:
        """Take a path or an SQLite URL; None where the settings are to say."""
        self.text = text

    def locate(self, output: Output) -> Location:
        """Which database it is, after saying so where the command line does not.

        Raises:
            TokenStorageError: as :func:`~nextcloud_mcp_server.location.locate`.
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
        # What only looks does without, and without what it imports.
        from nextcloud_mcp_server.settings import load_settings  # noqa: PLC0415

        self.locate(output)
        return load_settings(database=self.text)
