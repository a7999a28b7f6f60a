"""Why the service has refused a request, found out right after it did."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from media_callbacks.config.settings import Settings
from media_callbacks.explain.captured_request import CapturedRequest
from media_callbacks.explain.explaining import as_json, explain
from media_callbacks.explain.surroundings import surroundings
from media_callbacks.model.errors import ServiceError
from media_callbacks.observe.refused import RefusedRequest

# Callbacks wait meanwhile. Most take less than a millisecond; what strangers send may take seconds.
MAX_S = 0.02
_MAX_INFLATED_BYTES = 32 * 1024


class RefusalExplainer:
    """
    Args:
        known_key: The key of a signing certificate that was fetched, by the certificate's URL.
        spent: How many seconds of a processor were spent until now.
    """

    def __init__(
        self,
        settings: Settings,
        known_key: Callable[[str], RSAPublicKey | None],
        spent: Callable[[], float],
    ) -> None:
        self._known_key = known_key
        self._spent = spent
        self._around = replace(
            surroundings(settings, now=datetime.fromtimestamp(0, UTC), is_arrival_known=True, certificate=None),
            max_inflated_bytes=_MAX_INFLATED_BYTES,
            is_kept=True,
        )

    def explain(self, request: RefusedRequest) -> Mapping[str, Any]:
        """In values of JSON; see ``explain.explaining``. What it was refused for is what the service has found."""
        until = self._spent() + MAX_S

        def has_time() -> bool:
            return self._spent() < until

        around = replace(
            self._around,
            now=request.refused_at,
            certificate=self._certificate(request),
            has_time=has_time,
        )
        explanation = explain(CapturedRequest(request.callback, "http", None, ()), around)
        if not has_time():
            note = "not everything that may explain it was tried: capture such a request, and explain the file"
            explanation = replace(explanation, notes=(*explanation.notes, note))
        return as_json(explanation)

    def _certificate(self, request: RefusedRequest) -> RSAPublicKey | None:
        source = next((source for source in self._around.sources if source.name == request.source), None)
        try:
            url = None if source is None else source.certificate_url(request.callback)
        except ServiceError:
            return None
        return None if url is None else self._known_key(url)
