# tailrace as an image: `tailrace gateway` by default, any other command of it by `docker run … <command>`.
#   docker build -t tailrace .

FROM python:3.13-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
RUN python -m venv /app \
    && /app/bin/python -m pip install --require-hashes -r requirements.lock \
    && python -m pip install --require-hashes -r requirements-build.lock
COPY pyproject.toml README.md LICENSE tailrace.py ./
COPY tailrace-stubs tailrace-stubs
COPY processor processor
COPY gateway gateway
COPY scripts scripts
COPY examples examples
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /app/bin/python -m pip install --no-deps --no-index /wheels/tailrace-*.whl \
    && /app/bin/python -m pip uninstall --yes pip \
    && /app/bin/python -m compileall -q /app/lib

FROM python:3.13-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin tailrace
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 TAILRACE_HOST=0.0.0.0 TAILRACE_LOG=json
USER 10001
WORKDIR /app
EXPOSE 8600
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ.get('TAILRACE_PORT', '8600')}/healthz\", timeout=2)"]
ENTRYPOINT ["tailrace"]
CMD ["gateway"]
