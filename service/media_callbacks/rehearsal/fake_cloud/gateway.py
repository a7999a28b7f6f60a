"""
The gateway before all job APIs: who asks, is it signed, is it fresh, is it new; and how it says no.

Error codes and texts: the list of the common errors of the OpenAPI, https://developer.aliyun.com/ask/278265; codes of
security tokens as the vendor's SDK and console show them. Form of an error: what the SDK reads
(``alibabacloud_tea_openapi`` 0.4.6).
"""

import hashlib
import hmac
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from media_callbacks.aliyun.signing import canonical_query, sign_rpc
from media_callbacks.rehearsal.fake_cloud.requests import ApiRequest

# Documented for InvalidTimeStamp.Expired.
WINDOW = timedelta(minutes=15)

_AUTHORIZATION = re.compile(r"ACS3-HMAC-SHA256 Credential=([^,]+),SignedHeaders=([^,]+),Signature=([0-9a-f]{64})")
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


class ApiError(Exception):
    """The answer to a request that is refused."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True, slots=True)
class AccessKey:
    """Credentials that the cloud takes. With a ``security_token`` every request must bring it."""

    secret: str
    security_token: str | None = None


def missing(name: str) -> ApiError:
    return ApiError(400, f"Missing{name}", f"{name} is mandatory for this action.")


def not_matching() -> ApiError:
    return ApiError(400, "SignatureDoesNotMatch", "Specified signature is not matched with our calculation.")


class Gateway:
    """Checks requests; remembers nonces for as long as their timestamps are good."""

    def __init__(self, access_keys: Mapping[str, AccessKey], clock: Callable[[], datetime]) -> None:
        self._access_keys, self._clock = access_keys, clock
        self._nonces: set[str] = set()
        self._nonces_by_age: deque[tuple[datetime, str]] = deque()

    def check(self, request: ApiRequest) -> None:
        """
        Raises:
            ApiError: The request is not signed as documented, by somebody known, just now, for the first time.
        """
        if "authorization" in request.headers:
            self._check_acs3(request)
        else:
            self._check_rpc(request)

    def _check_acs3(self, request: ApiRequest) -> None:
        """Source: "Request syntax and signature method V3", https://help.aliyun.com/document_detail/2593177.html."""
        headers = request.headers
        match = _AUTHORIZATION.fullmatch(headers["authorization"])
        if match is None:
            raise ApiError(400, "IncompleteSignature", "The request signature does not conform to Aliyun standards.")
        access_key_id, names, signature = match.groups()
        key = self._key(access_key_id, headers.get("x-acs-security-token"))
        self._check_age(headers.get("x-acs-date"))
        signed = names.split(";")
        must_sign = {"host", *(name for name in headers if name.startswith("x-acs-"))}
        if not must_sign <= set(signed) <= headers.keys():
            raise not_matching()
        # Of what came: x-acs-content-sha256, should it say something else, does not matter then.
        content = hashlib.sha256(request.body).hexdigest()
        lines = "".join(f"{name}:{headers[name].strip()}\n" for name in sorted(signed))
        canonical = "\n".join((request.method, "/", canonical_query(request.query), lines, names, content))
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        expected = hmac.digest(key.secret.encode(), f"ACS3-HMAC-SHA256\n{hashed}".encode(), "sha256").hex()
        if not hmac.compare_digest(expected, signature):
            raise not_matching()
        self._check_nonce(headers.get("x-acs-signature-nonce"))

    def _check_rpc(self, request: ApiRequest) -> None:
        """Source: https://www.alibabacloud.com/help/en/mts/developer-reference/request-signatures."""
        parameters = request.parameters
        if "AccessKeyId" not in parameters:
            raise missing("AccessKeyId")
        key = self._key(parameters["AccessKeyId"], parameters.get("SecurityToken"))
        self._check_age(parameters.get("Timestamp"))
        if "Signature" not in parameters:
            raise missing("Signature")
        if parameters.get("SignatureMethod") != "HMAC-SHA1":
            raise ApiError(400, "InvalidSignatureMethod", "Specified signature method is not valid.")
        signed = {name: value for name, value in parameters.items() if name != "Signature"}
        expected = sign_rpc(request.method, signed, secret=key.secret)
        if not hmac.compare_digest(expected.encode(), parameters["Signature"].encode()):
            raise not_matching()
        self._check_nonce(parameters.get("SignatureNonce"))

    def _key(self, access_key_id: str, security_token: str | None) -> AccessKey:
        key = self._access_keys.get(access_key_id)
        if key is None:
            raise ApiError(404, "InvalidAccessKeyId.NotFound", "Specified access key is not found.")
        if key.security_token is not None and security_token is None:
            raise missing("SecurityToken")
        if security_token != key.security_token:
            code = "InvalidSecurityToken.MismatchWithAccessKey"
            raise ApiError(400, code, "Specified SecurityToken mismatch with the AccessKey.")
        return key

    def _check_age(self, text: str | None) -> None:
        if text is None:
            raise missing("Timestamp")
        try:
            at = datetime.strptime(text, _TIME_FORMAT).replace(tzinfo=UTC)
        except ValueError:
            message = "Specified time stamp or date value is not well formatted."
            raise ApiError(400, "InvalidTimeStamp.Format", message) from None
        if abs(self._clock() - at) > WINDOW:
            raise ApiError(400, "InvalidTimeStamp.Expired", "Specified time stamp or date value is expired.")

    def _check_nonce(self, nonce: str | None) -> None:
        if nonce is None:
            raise missing("SignatureNonce")
        now = self._clock()
        while self._nonces_by_age and now - self._nonces_by_age[0][0] > 2 * WINDOW:
            self._nonces.discard(self._nonces_by_age.popleft()[1])
        if nonce in self._nonces:
            raise ApiError(400, "SignatureNonceUsed", "Specified signature nonce was used already.")
        self._nonces.add(nonce)
        self._nonces_by_age.append((now, nonce))
