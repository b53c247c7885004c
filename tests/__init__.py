"""The specification of the token store: every test says in a sentence what holds."""
