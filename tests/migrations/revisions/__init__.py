"""Test data of each revision, one file for each; ``db migrate`` writes it.

A file ``rows_<id>_<what>.py`` may define

- ``ROWS``: rows by table, inserted at the revision and at later ones;
- ``BEFORE``: rows by table, inserted at earlier revisions;
- ``CHANGES``: what the revision changes in rows on purpose.
"""
