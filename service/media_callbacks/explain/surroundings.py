"""What is around a request: the configuration, as explanations need it."""

from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from media_callbacks.assembly.sources import build_source
from media_callbacks.config.settings import Settings
from media_callbacks.config.sources import MnsPushSourceSettings
from media_callbacks.edge.certificates import read_certificate
from media_callbacks.explain.case import Surroundings
from media_callbacks.sources.transports.mns_push import parse_certificate_url


def surroundings(
    settings: Settings, *, now: datetime, is_arrival_known: bool, certificate: RSAPublicKey | None
) -> Surroundings:
    pinned: dict[str, dict[str, RSAPublicKey]] = {}
    for name, table in settings.callback_sources.items():
        if isinstance(table, MnsPushSourceSettings) and table.certificates:
            keys: dict[str, RSAPublicKey] = {}
            pinned[name] = keys
            for url, pem in table.certificates.items():
                parsed = parse_certificate_url(url)
                keys[parsed[1] if parsed else url] = read_certificate(pem.encode()).public_key
    return Surroundings(
        sources=[build_source(name, table) for name, table in settings.callback_sources.items()],
        now=now,
        is_arrival_known=is_arrival_known,
        pinned=pinned,
        certificate=certificate,
        max_body_bytes=settings.server.max_body_bytes,
    )
