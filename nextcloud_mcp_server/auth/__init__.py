"""The token store: :class:`~.storage.RefreshTokenStorage` and the concerns beside it."""
