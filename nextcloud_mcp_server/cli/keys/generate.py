"""``keys generate``: print a new encryption key."""

from __future__ import annotations

import click

from nextcloud_mcp_server.cli.options import without_database
from nextcloud_mcp_server.cli.output import Output


@click.command()
@without_database
def generate(output: Output) -> None:
    """Print a new encryption key.

    It is a Fernet key from the random numbers of the operating system. It is printed once and
    stored nowhere: put it in front of the older keys of every server, then run `keys introduce`.
    """
    from cryptography.fernet import Fernet

    from nextcloud_mcp_server.crypto.keyring import Keyring

    key = Fernet.generate_key().decode("ascii")
    output.result({"key": key, "fingerprint": Keyring(key).fingerprints[0]}, key)
