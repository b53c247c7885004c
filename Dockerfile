FROM python:3.13-slim AS build

RUN pip install --no-cache-dir uv==0.13.9

ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PROJECT_ENVIRONMENT=/app/.venv \
    UV_PYTHON_DOWNLOADS=never

# The SQLite of the base image can lose a commit (docs/reliability.md, "Which SQLite"), so this is a
# release that cannot: the library under the name that Python is linked with, and the command line.
ADD --checksum=sha256:81f5be397049b0cae1b167f2225af7646fc0f82e4a9b3c48c9ea3a533e21d77a \
    https://www.sqlite.org/2026/sqlite-autoconf-3510300.tar.gz /sqlite.tar.gz
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && mkdir /sqlite \
    && tar --extract --file /sqlite.tar.gz --directory /sqlite --strip-components=1 \
    && cd /sqlite \
    && gcc -O2 -fPIC -shared -Wl,-soname,libsqlite3.so.0 -DSQLITE_ENABLE_COLUMN_METADATA sqlite3.c -o libsqlite3.so.0 -lm \
    && gcc -O2 -DSQLITE_THREADSAFE=0 -DSQLITE_ENABLE_DBPAGE_VTAB shell.c sqlite3.c -o sqlite3 -lm

# The dependencies first, in the versions that pyproject.toml pins: a change of the code alone
# does not install them again. `__init__.py` holds the version of the project.
WORKDIR /src
COPY LICENSE README.md pyproject.toml ./
COPY nextcloud_mcp_server/__init__.py nextcloud_mcp_server/
RUN uv sync --extra postgres --no-install-project
COPY alembic/ alembic/
COPY nextcloud_mcp_server/ nextcloud_mcp_server/
RUN uv sync --extra postgres --no-editable


FROM python:3.13-slim

# sqlite3 and uv are for the operator: the commands of docs/database-migrations.md work inside.
COPY --from=build /sqlite/libsqlite3.so.0 /usr/local/lib/
COPY --from=build /sqlite/sqlite3 /usr/local/bin/

# A fixed uid, so that the owner of the files on the volume does not change with the image.
RUN ldconfig \
    && python -c "import sqlite3; assert sqlite3.sqlite_version == '3.51.3', sqlite3.sqlite_version" \
    && groupadd --gid 10001 nextcloud-mcp \
    && useradd --uid 10001 --gid 10001 --home-dir /app --no-create-home --shell /usr/sbin/nologin nextcloud-mcp \
    && install --directory --owner=10001 --group=10001 --mode=0700 /app/data
COPY --from=build /usr/local/bin/uv /usr/local/bin/uv
COPY --from=build /app/.venv /app/.venv

# There is no project in /app, so `uv run` uses the environment as it is: no network, no write.
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TOKEN_STORAGE_DB=/app/data/tokens.db \
    UV_NO_CACHE=1 \
    UV_OFFLINE=1 \
    UV_PYTHON_DOWNLOADS=never \
    VIRTUAL_ENV=/app/.venv

WORKDIR /app
VOLUME /app/data
USER 10001:10001
EXPOSE 8000

# Nothing answers while a migration runs: a long one is "starting", not "unhealthy".
HEALTHCHECK --interval=15s --timeout=5s --start-period=15m --start-interval=2s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:8000/health/ready', timeout=4)"]

# No shell in between: SIGTERM reaches the server.
ENTRYPOINT ["nextcloud-mcp-server"]
CMD ["run", "--host", "0.0.0.0", "--port", "8000"]
