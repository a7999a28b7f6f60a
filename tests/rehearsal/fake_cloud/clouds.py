"""Fake clouds for tests: what they are configured with, and a clock that tests move."""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from media_callbacks.config.settings import Settings, build_settings

VOD: Mapping[str, Any] = {
    "product": "vod",
    "transport": "http",
    "path": "/callbacks/vod",
    "url": "https://cb.example.com/callbacks/vod",
    "keys": ["vod-key-1f6c0a52"],
}
IMS: Mapping[str, Any] = {
    "product": "ims",
    "transport": "http",
    "path": "/callbacks/ims",
    "url": "https://cb.example.com/callbacks/ims",
    "keys": ["ims-key-b09e44d2"],
}
MTS: Mapping[str, Any] = {
    "product": "mts",
    "transport": "mns-push",
    "path": "/callbacks/mts/5f0c9d6e3ab14477",
    "topics": ["1234567890123456/mts-done"],
    "regions": ["cn-hangzhou"],
}
GIF: Mapping[str, Any] = {
    "product": "multimediaai",
    "transport": "token-url",
    "path": "/callbacks/gif",
    "url": "https://cb.example.com/callbacks/gif",
    "keys": ["1:" + base64.b64encode(b"a key of thirty-two bytes or more").decode()],
}
MTS_QUEUE: Mapping[str, Any] = {
    "product": "mts",
    "transport": "mns-queue",
    "endpoint": "http://127.0.0.1:1",
    "queue": "mts-done",
    "vendor": "main",
}
VENDOR = {"access_key_id": "fake-id-1", "access_key_secret": "fake-secret-1", "region": "cn-shanghai"}


def make_settings(**sources: Mapping[str, Any]) -> Settings:
    tables = {"store": {"url": "sqlite:///unused.db"}, "sources": sources, "vendor": {"main": VENDOR}}
    return build_settings(tables, environ={})


class Clock:
    """The real time, so that requests made with it are fresh, and what a test adds to it."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def advance(self, seconds: float) -> None:
        self.offset += timedelta(seconds=seconds)
