"""Tests of the tools, with the client of the SDK and a stand-in for Nextcloud."""
