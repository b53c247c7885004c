"""Statements that create what an operator may have added to the database."""

from __future__ import annotations

CHILD = (
    "CREATE TABLE op_child (user_id TEXT REFERENCES refresh_tokens (user_id) ON DELETE CASCADE)",
    "INSERT INTO op_child SELECT user_id FROM refresh_tokens",
)
LOG = ("CREATE TABLE op_log (what TEXT)", "INSERT INTO op_log VALUES ('kept')")
VIEW = "CREATE VIEW op_view AS SELECT user_id FROM refresh_tokens"
INDEX = "CREATE INDEX op_index ON refresh_tokens (expires_at)"
TRIGGER = (
    "CREATE TRIGGER op_trigger AFTER INSERT ON refresh_tokens "
    "BEGIN INSERT INTO op_log VALUES (new.user_id); END"
)
SWEEPER = "CREATE TRIGGER op_sweeper AFTER UPDATE ON app_passwords BEGIN DELETE FROM op_log; END"
