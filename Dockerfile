# syntax=docker/dockerfile:1
# One image for the API and every worker: compose and an orchestrator give the command.
#   docker build -t finstill .
#   docker build -t finstill:gpu --build-arg TORCH_INDEX=ADDRESS .   # see .env.example
ARG PYTHON=3.11.14-slim-bookworm
FROM python:${PYTHON} AS dependencies
ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /venv
COPY constraints.txt pyproject.toml ./
COPY common/__init__.py common/__init__.py
# The dependencies alone: the project is run from /app (PYTHONPATH), never installed.
RUN /venv/bin/pip install --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} torch \
 && /venv/bin/python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print('\n'.join(p['dependencies'] + p['optional-dependencies']['s3']))" > requirements.txt \
 && /venv/bin/pip install --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} --requirement requirements.txt

FROM python:${PYTHON} AS finstill
LABEL org.opencontainers.image.title="finstill" org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 finstill \
 && useradd --uid 10001 --gid 10001 --create-home --home-dir /home/finstill --shell /usr/sbin/nologin finstill \
 && install -d -o finstill -g finstill /data /data/runs /data/state /data/models
COPY --from=dependencies /venv /venv
WORKDIR /app
COPY common common
COPY teacher teacher
COPY student student
COPY workers workers
COPY configs configs
# TOKENIZERS_PARALLELISM is no token.
# hadolint ignore=DL3064
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TOKENIZERS_PARALLELISM=false \
    HF_HOME=/data/models \
    FINSTILL_RUNS=/data/runs \
    FINSTILL_STATE=/data/state
USER 10001:10001
VOLUME ["/data"]
EXPOSE 8230
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "workers"]
CMD ["serve", "--host", "0.0.0.0"]

# Flower beside it, for those who want to look into Celery itself.
FROM finstill AS watch
USER 0
RUN /venv/bin/pip install --no-cache-dir flower==2.2.0
USER 10001:10001

# What `docker build` makes when no target is named.
FROM finstill
