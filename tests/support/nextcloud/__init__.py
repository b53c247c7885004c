"""A stand-in for Nextcloud, with what was measured on Nextcloud 34 and 32."""
