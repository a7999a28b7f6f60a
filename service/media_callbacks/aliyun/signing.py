"""
The vendor's five ways to sign a request. Pure: nonces and times are in what is signed, secrets are arguments.

    ACS3-HMAC-SHA256   OpenAPI, version 3: VOD, ICE, MTS
    HMAC-SHA1          OpenAPI, RPC version 1: multimediaai, whose only SDK knows nothing else
    MNS V2             queues, what nearly every client uses
    MNS V4             queues, newer
    HMAC-SHA1          EventBridge, its data plane

Header names are compared without regard to case, values are signed without blanks around them, since HTTP strips those.
Text that is not Unicode (lone surrogates) is signed as well as it can be: nothing here raises.
"""

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import quote, unquote

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()

_ACS3 = "ACS3-HMAC-SHA256"
_MNS4 = "MNS4-HMAC-SHA256"


def percent_encode(text: str) -> str:
    """RFC 3986: all but letters, digits and ``-_.~`` becomes ``%XY`` of its UTF-8 bytes, a blank ``%20``."""
    return quote(_utf8(text), safe="~")


def canonical_query(parameters: Mapping[str, str]) -> str:
    """
    Sorted by name, encoded, joined: what is signed, and therefore what is to be sent, byte for byte.

    Source: "Request syntax and signature method V3", https://help.aliyun.com/document_detail/2593177.html, step 1.
    """
    return "&".join(f"{percent_encode(name)}={percent_encode(parameters[name])}" for name in sorted(parameters))


def sign_acs3(
    method: str, parameters: Mapping[str, str], headers: Mapping[str, str], *, access_key_id: str, secret: str
) -> str:
    """
    The value of ``Authorization`` for a request to ``/``.

    Args:
        parameters: Of the query, not encoded.
        headers: Those that are sent; ``host``, ``content-type`` and every ``x-acs-*`` are signed.
            ``x-acs-content-sha256`` is the hash of the body, in hexadecimal.

    Source: "Request syntax and signature method V3", https://help.aliyun.com/document_detail/2593177.html.
    """
    signed = _selected(headers, "x-acs-", "host", "content-type")
    names = ";".join(sorted(signed))
    canonical_request = "\n".join(
        (
            method,
            "/",
            canonical_query(parameters),
            _lines(signed),
            names,
            signed.get("x-acs-content-sha256", EMPTY_SHA256),
        )
    )
    string_to_sign = f"{_ACS3}\n{hashlib.sha256(_utf8(canonical_request)).hexdigest()}"
    signature = hmac.digest(_utf8(secret), _utf8(string_to_sign), "sha256").hex()
    return f"{_ACS3} Credential={access_key_id},SignedHeaders={names},Signature={signature}"


def sign_rpc(method: str, parameters: Mapping[str, str], *, secret: str) -> str:
    """
    The value of the parameter ``Signature``.

    Args:
        parameters: Of query and form body together, not encoded, the common ones (``AccessKeyId``, ``Timestamp`` ...)
            among them, ``Signature`` not.

    Source: "Request signatures" of ApsaraVideo Media Processing,
    https://www.alibabacloud.com/help/en/mts/developer-reference/request-signatures.
    """
    string_to_sign = f"{method}&%2F&{percent_encode(canonical_query(parameters))}"
    return b64encode(hmac.digest(_utf8(f"{secret}&"), _utf8(string_to_sign), "sha1")).decode()


def sign_mns_v2(method: str, target: str, headers: Mapping[str, str], *, access_key_id: str, secret: str) -> str:
    """
    The value of ``Authorization`` for a request to the queue service.

    Args:
        target: Path and query exactly as sent.
        headers: Those that are sent; ``Content-MD5``, ``Content-Type``, ``Date`` (``x-mns-date`` in its absence) and
            every ``x-mns-*`` are signed.

    Source: "Sign requests" of Message Service (MNS),
    https://www.alibabacloud.com/help/en/mns/developer-reference/request-signatures.
    """
    signature = _sign_headers("x-mns-", method, target, headers, secret)
    return f"MNS {access_key_id}:{signature}"


def sign_eventbridge(method: str, target: str, headers: Mapping[str, str], *, access_key_id: str, secret: str) -> str:
    """
    The value of ``Authorization`` for a request to the data plane of EventBridge.

    Args:
        target: The path; there is no query in any request of ours.
        headers: Those that are sent; ``Content-MD5``, ``Content-Type``, ``Date`` and every ``x-acs-*`` are signed.

    Source: the SDK ``alibabacloud_eventbridge_util`` 0.0.3, alike in all its languages. The document "Request
    signatures", https://www.alibabacloud.com/help/en/eventbridge/request-signatures, has a blank after ``acs`` and a
    line for ``Accept``, which no SDK signs.
    """
    return f"acs:{access_key_id}:{_sign_headers('x-acs-', method, target, headers, secret)}"


def _sign_headers(prefix: str, method: str, target: str, headers: Mapping[str, str], secret: str) -> str:
    sent = _selected(headers, prefix, "content-md5", "content-type", "date")
    string_to_sign = "\n".join(
        (
            method,
            sent.get("content-md5", ""),
            sent.get("content-type", ""),
            sent.get("date") or sent.get(f"{prefix}date", ""),
            _lines(_selected(headers, prefix)) + target,
        )
    )
    return b64encode(hmac.digest(_utf8(secret), _utf8(string_to_sign), "sha1")).decode()


def sign_mns_v4(
    method: str,
    target: str,
    headers: Mapping[str, str],
    *,
    access_key_id: str,
    secret: str,
    region: str,
    now: datetime,
) -> str:
    """
    The value of ``Authorization`` for a request to the queue service.

    Args:
        target: Path and query as sent. They are decoded and encoded anew, so a ``%`` of its own must be ``%25``.
        headers: Those that are sent; ``content-type``, ``content-md5`` and every ``x-mns-*`` are signed.
        region: For example ``cn-hangzhou``.
        now: UTC, the same second as in the header ``Date``, from which the service learns it.

    Source: the Java SDK ``com.aliyun.mns:aliyun-sdk-mns`` 2.0.0, its V4 signer; there is no document.
    """
    path, _, query = target.partition("?")
    canonical_request = "\n".join(
        (
            method,
            "/" + quote(_utf8(unquote(path.removeprefix("/"))), safe="/~"),
            _mns_v4_query(query),
            _lines(_selected(headers, "x-mns-", "content-type", "content-md5")),
            "",
        )
    )
    date = f"{now:%Y%m%d}"
    scope = f"{date}/{region}/mns/aliyun_v4_request"
    string_to_sign = f"{_MNS4}\n{now:%Y%m%dT%H%M%SZ}\n{scope}\n{canonical_request}"
    key = _utf8(f"aliyun_v4{secret}")
    for part in (date, region, "mns", "aliyun_v4_request"):
        key = hmac.digest(key, _utf8(part), "sha256")
    signature = hmac.digest(key, _utf8(string_to_sign), "sha256").hex()
    return f"{_MNS4} Credential={access_key_id}/{scope},Signature={signature}"


def _mns_v4_query(query: str) -> str:
    pairs = (part.partition("=")[::2] for part in query.split("&") if part)
    plain = ((unquote(name).strip().lower(), unquote(value).strip()) for name, value in pairs)
    encoded = sorted((percent_encode(name), percent_encode(value)) for name, value in plain)
    return "&".join(f"{name}={value}" if value else name for name, value in encoded)


def _selected(headers: Mapping[str, str], prefix: str, *names: str) -> dict[str, str]:
    lower = {name.lower(): value.strip() for name, value in headers.items()}
    return {name: value for name, value in lower.items() if name.startswith(prefix) or name in names}


def _lines(headers: Mapping[str, str]) -> str:
    return "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
