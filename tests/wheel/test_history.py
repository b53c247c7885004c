"""The installed server, started on files of every age, serves; and every secret is there."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.history import corpus, released_files, unusual_files
from tests.history.case import Case
from tests.support import invariants
from tests.support.revisions import HEAD
from tests.support.snapshot import snapshot
from tests.wheel.conftest import Installed
from tests.wheel.serving import serving

#: The real files that were left in good order, and built ones where there is no corpus.
REAL = [c for c in corpus.all_cases() if c.name.startswith(("corpus_stage_", "corpus_lived_"))]
BUILT = [
    case
    for case in (*released_files.all_cases(), *unusual_files.all_cases())
    if case.name
    in {
        "pre01_tokens_and_audit_only",
        "pre06_whole",
        "rev001_raw",
        "rev006_portable",
        "rev009_raw",
        "rev010_portable",
        "lived_5_12_at_010",
        "rev008_raw_draft1",
        "wal_everything_pre06",
    }
]

#: Reads each secret that is asked for on stdin, by the public names only.
_READER = """
import asyncio, json, sys
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage

async def read(path, key, wanted):
    async with RefreshTokenStorage(path, encryption_key=key) as storage:
        client = await storage.oauth_clients.get()
        for table, identity, column in wanted:
            if table == "refresh_tokens":
                yield (await storage.get_refresh_token(identity)).token
            elif table == "app_passwords":
                yield (await storage.app_passwords.get(identity)).password
            elif table == "login_flow_sessions":
                yield (await storage.login_flows.get(identity)).poll_token
            elif column == "encrypted_client_secret":
                yield client.client_secret
            else:
                yield client.registration_access_token

async def main():
    print(json.dumps([secret async for secret in read(**json.load(sys.stdin))]))

asyncio.run(main())
"""


@pytest.mark.parametrize("case", [*BUILT, *REAL], ids=lambda case: case.name)
def test_the_server_serves_a_file_of_any_age(
    installed: Installed, case: Case, tmp_path: Path
) -> None:
    """Started on an old file it says ready at head; afterwards the store reads every secret."""
    path = tmp_path / "tokens.db"
    case.write(path)
    secrets = {**invariants.secrets_in(snapshot(path), case.key), **case.secrets}
    settings = {"TOKEN_STORAGE_DB": str(path), "TOKEN_ENCRYPTION_KEY": case.key}
    with serving(installed, tmp_path, **settings) as (ready, server):
        assert (ready["revision"], ready["head"]) == (HEAD, HEAD)
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=30)

    assert server.returncode == 0
    asked = {"path": str(path), "key": case.key, "wanted": [list(name) for name in secrets]}
    answer = subprocess.run(
        [str(installed.prefix / "bin" / "python"), "-I", "-c", _READER],
        cwd=tmp_path,
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == list(secrets.values())


def test_the_built_files_are_all_found() -> None:
    """No name in the list above was mistyped."""
    assert len(BUILT) == 9
