"""Rows for the tables of each revision, one file a revision; ``db migrate`` writes it.

A file ``rows_<id>_<what>.py`` declares ``ROWS``: a table, and its rows. The walks put them in
from that revision on; nothing else has to be told.
"""
