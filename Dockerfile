# syntax=docker/dockerfile:1

# Pinned by exact version. Where your policy asks for a digest, look it up with
# `docker buildx imagetools inspect python:3.13.12-slim-bookworm` and pass --build-arg PYTHON=python@sha256:...
ARG PYTHON=python:3.13.12-slim-bookworm

FROM ${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# What changes seldom comes first. The lock has the drivers of all stores, the clients of all buses, and what fetches the
# credentials of roles; alibabacloud-tea and nkeys are published as source alone.
COPY requirements ./requirements
RUN python -m venv --without-pip /opt/media-callbacks \
 && python -m pip --python /opt/media-callbacks/bin/python install --no-deps --only-binary :all: --no-binary alibabacloud-tea,nkeys --require-hashes -r requirements/service.txt
COPY pyproject.toml README.md LICENSE ./
COPY service ./service
RUN python -m pip wheel --no-deps --build-constraint requirements/tools.txt --wheel-dir dist . \
 && python -m pip --python /opt/media-callbacks/bin/python install --no-deps --no-index dist/*.whl

FROM ${PYTHON}
LABEL org.opencontainers.image.title="media-callbacks" \
      org.opencontainers.image.description="Every media job you submit to Alibaba Cloud ends in exactly one typed, verified event on your bus." \
      org.opencontainers.image.licenses="MIT"
# A number, so that an orchestrator can see that it is not root.
RUN useradd --system --uid 10001 --user-group --no-log-init --shell /usr/sbin/nologin \
      --home-dir /var/lib/media-callbacks --create-home media-callbacks
COPY --from=build /opt/media-callbacks /opt/media-callbacks
# Every command in the container finds the configuration, also those of docker exec.
ENV PATH=/opt/media-callbacks/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    MEDIA_CALLBACKS_CONFIG=/etc/media-callbacks/media-callbacks.toml
USER 10001:10001
WORKDIR /var/lib/media-callbacks
# The store of one machine, or the journal of one instance: it must outlive the container.
VOLUME /var/lib/media-callbacks
# Callbacks and health. The operators' port 8081 is for private networks alone, so it is not announced.
EXPOSE 8080
STOPSIGNAL SIGTERM
# "live", not "ready": some orchestrators replace what is unhealthy, and a store that is away is not mended by that.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
  CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('MEDIA_CALLBACKS__SERVER__PORT', 8080)), timeout=4); c.request('GET', '/health/live'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["media-callbacks"]
CMD ["serve"]
