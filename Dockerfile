# syntax=docker/dockerfile:1

FROM python:3.13-slim-bookworm AS build
WORKDIR /build
COPY requirements.lock ./
RUN python -m venv /opt/media-callbacks \
 && /opt/media-callbacks/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY service ./service
RUN /opt/media-callbacks/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps .

FROM python:3.13-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /var/lib/media-callbacks --create-home media-callbacks
COPY --from=build /opt/media-callbacks /opt/media-callbacks
ENV PATH=/opt/media-callbacks/bin:$PATH PYTHONUNBUFFERED=1
USER media-callbacks
WORKDIR /var/lib/media-callbacks
# The store must outlive the container.
VOLUME /var/lib/media-callbacks
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health/ready', timeout=2)"]
ENTRYPOINT ["media-callbacks"]
CMD ["serve", "--config", "/etc/media-callbacks/media-callbacks.toml"]
