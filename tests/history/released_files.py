"""Intact files of released versions: their schema, or older tables that were kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tests.history.case import Case, of
from tests.support.facts import DRAFT_JOBS, HEAD, REVISIONS, Lineage
from tests.support.shapes import Made, Shape, at

LATE_TOKEN_COLUMNS = ("user_profile", "profile_cached_at")
CONSENT_TOKEN_COLUMNS = (
    "flow_type",
    "token_audience",
    "provisioned_at",
    "provisioning_client_id",
    "scopes",
)
CONSENT_SESSION_COLUMNS = ("flow_type", "requested_scopes", "granted_scopes", "is_provisioning")
WEBHOOKS = ("registered_webhooks", "schema_version")

LINEAGES: tuple[Lineage, ...] = ("raw", "portable")

#: The columns that tables of early releases lack, by their number of columns.
TOKEN_WIDTHS = {5: CONSENT_TOKEN_COLUMNS + LATE_TOKEN_COLUMNS, 10: LATE_TOKEN_COLUMNS, 12: ()}
SESSION_WIDTHS = {12: CONSENT_SESSION_COLUMNS, 16: ()}


def pre_alembic() -> Iterator[Case]:
    """Yield every schema of the releases before Alembic."""
    whole = at("001").unversioned()
    early = whole.narrowed("refresh_tokens", *TOKEN_WIDTHS[5])
    middle = whole.narrowed("refresh_tokens", *TOKEN_WIDTHS[10])
    no_sessions = ("oauth_sessions", *WEBHOOKS)
    shapes = {
        "pre01_tokens_and_audit_only": early.without("oauth_clients", *no_sessions),
        "pre02_oauth_clients": early.without(*no_sessions),
        "pre03_narrow_sessions": early.narrowed("oauth_sessions", *SESSION_WIDTHS[12]).without(
            *WEBHOOKS
        ),
        "pre04_ten_columns": middle.without(*WEBHOOKS),
        "pre05_no_webhooks": whole.without(*WEBHOOKS),
    }
    for name, shape in shapes.items():
        yield of(name, "repair->stamp:001->head", shape)
    yield of("pre06_whole", "stamp:001->head", whole)
    for name, shape in _lived(whole, "001"):
        yield of(f"pre_lived_{name}", "repair->stamp:001->head", shape)


def recorded() -> Iterator[Case]:
    """Yield the complete schema of each revision, in both lineages."""
    for revision in REVISIONS:
        action = "none" if revision == HEAD else f"upgrade:{revision}->head"
        for lineage in LINEAGES:
            yield of(f"rev{revision}_{lineage}", action, at(revision, lineage))
    webhooks = at("006", "portable").tables["registered_webhooks"]
    floats = replace(webhooks, types={"created_at": "FLOAT"})
    yield of(
        "rev006p1_webhooks_float",
        "upgrade:006->head",
        at("006", "portable").having("registered_webhooks", floats),
    )


def lived() -> Iterator[Case]:
    """Yield narrow tables of early releases, kept through the revisions."""
    for revision in REVISIONS:
        action = f"repair@{HEAD}" if revision == HEAD else f"repair->{revision}->head"
        for name, shape in _lived(at(revision), revision):
            yield of(f"lived_{name}_at_{revision}", action, shape)


def _lived(whole: Shape, revision: str) -> Iterator[tuple[str, Shape]]:
    for tokens, no_columns in TOKEN_WIDTHS.items():
        for sessions, neither in SESSION_WIDTHS.items():
            if no_columns or neither:
                shape = whole.narrowed("refresh_tokens", *no_columns)
                yield f"{tokens}_{sessions}", shape.narrowed("oauth_sessions", *neither)
    absent = tuple(table for table in WEBHOOKS if table in whole.tables)
    yield "without_webhooks", whole.without(*absent)
    if revision <= "005":  # without oauth_sessions, 006 never went through
        tokens_only = whole.narrowed("refresh_tokens", *TOKEN_WIDTHS[5])
        yield "tokens_only", tokens_only.without("oauth_clients", "oauth_sessions", *absent)


def drafts() -> Iterator[Case]:
    """Yield the two drafts of 008, whose columns no release writes."""
    columns = tuple(column.name for column in DRAFT_JOBS.columns)
    keyed = Made(DRAFT_JOBS, "portable", columns)
    loose = Made(
        replace(
            DRAFT_JOBS,
            columns=tuple(
                replace(c, key=False, required=c.required or c.key) for c in DRAFT_JOBS.columns
            ),
            unique=("user_id, doc_id, doc_type, etag",),
        ),
        "portable",
        columns,
    )
    for revision in ("008", "009", "010", HEAD):
        action = f"repair@{HEAD}" if revision == HEAD else f"upgrade:{revision}->head"
        for name, made in (("draft1", loose), ("draft2", keyed)):
            for lineage in LINEAGES:
                shape = at(revision, lineage).having("batch_ocr_jobs", made)
                yield of(f"rev{revision}_{lineage}_{name}", action, shape)


def all_cases() -> list[Case]:
    """Return every case of this module."""
    return [*pre_alembic(), *recorded(), *lived(), *drafts()]
