"""The lifespan, the application and the server."""
