"""The Starlette application and the process that serves it."""
