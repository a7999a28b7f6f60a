"""The steps of the push signature of MNS."""

import base64
import binascii
import re
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from media_callbacks.explain.captured_request import content_md5_spelling, read_content_md5
from media_callbacks.explain.case import Case, age, registered_targets, shape, visible
from media_callbacks.explain.variants import Change, body_variants, signed_header_variants, target_variants
from media_callbacks.model.errors import BadSignature, CannotVerify, Unparseable
from media_callbacks.sources.transports import mns_push
from media_callbacks.sources.transports.mns import open_envelope
from media_callbacks.sources.transports.mns_push import MnsPushSource, string_to_sign


class MnsPushSteps:
    """The steps of the push signature of MNS."""

    def __init__(self, case: Case, source: MnsPushSource) -> None:
        self.case = case
        self.source = source
        # Where a header came twice, the first; the step about headers says so.
        self.headers: dict[bytes, bytes] = {}
        for name, value in case.callback.headers:
            if name.startswith(b"x-mns-") or name in mns_push.SIGNED_HEADERS:
                self.headers.setdefault(name, value)

    def run(self) -> None:
        self.explain_headers()
        self.explain_digest()
        url = self.explain_certificate_url()
        is_right = self.explain_signature(url)
        self.explain_date(is_right=is_right)
        self.explain_topic()

    def explain_headers(self) -> None:
        case, headers = self.case, self.headers
        missing = [name.decode() for name in mns_push.REQUIRED_HEADERS if name not in headers]
        if not {b"date", b"x-mns-date"} & headers.keys():
            missing.append("date")
        doubled = sorted(name.decode("ascii", "replace") for name in headers if len(case.values(name)) > 1)
        odd = sorted(
            name.decode("ascii", "replace")
            for name, value in headers.items()
            if not mns_push.HEADER_TEXT.fullmatch(value)
        )
        lines = [f"missing: {', '.join(missing)}"] * bool(missing)
        lines += [f"came twice: {', '.join(map(visible, doubled))}"] * bool(doubled)
        lines += [f"not printable ASCII: {', '.join(map(visible, odd))}"] * bool(odd)
        vendor = sum(name.startswith(b"x-mns-") for name in headers)
        case.step(
            "signed headers",
            not lines,
            expected=f"{', '.join(name.decode() for name in mns_push.REQUIRED_HEADERS)}, date; each once, printable",
            came=f"{len(headers)}, {vendor} of them x-mns-*",
            lines=lines,
        )
        if doubled:
            case.find(
                "header_doubled",
                f"headers came twice: {', '.join(map(visible, doubled))}; which of them was signed can't be known",
                "look for a proxy that adds headers to those that are there instead of replacing them",
            )
        if b"authorization" not in headers:
            case.find(
                "authorization_stripped",
                "Authorization is missing, which is where MNS puts the signature: proxies and gateways that do"
                " authentication themselves take it away",
                "let the proxy pass Authorization on unchanged for this path (nginx: no proxy_set_header Authorization;"
                " API gateways: authentication off)",
            )
        elif re.match(rb"(?i)[a-z0-9-]+ ", headers[b"authorization"]):
            is_api = headers[b"authorization"].lower().startswith(b"mns ")
            text = (
                "an API request of MNS and not a push" if is_api else "something else than MNS, or a proxy, put it in"
            )
            case.find(
                "authorization_changed",
                f"Authorization begins with a scheme word, where a push has bare base64: {text}",
                "let the proxy pass Authorization on unchanged for this path",
            )
        others = [name for name in missing if name != "authorization"]
        if others:
            is_push = any(name.startswith(b"x-mns-") for name in headers)
            case.find(
                "header_removed",
                f"missing: {', '.join(others)}"
                + ("" if is_push else "; without any x-mns header this is no push of MNS"),
                "let the proxy pass Date, Content-MD5, Content-Type and all x-mns-* headers on unchanged",
            )

    def explain_digest(self) -> None:
        case, body = self.case, self.case.callback.body
        value = self.headers.get(b"content-md5")
        if value is None:
            case.step("Content-MD5", "failed", expected="the digest of the body", came="no such header")
            return
        spelling = content_md5_spelling(value, body)
        expected = f"MD5 of the {len(body)} bytes of the body, in one of four spellings"
        digest = read_content_md5(value)
        if spelling is not None:
            case.step("Content-MD5", "ok", expected=expected, came=spelling)
            return
        came = "not a digest in any spelling" if digest is None else "the digest of another body"
        case.step("Content-MD5", "failed", expected=expected, came=came)
        if digest is None:
            case.find(
                "header_changed",
                "Content-MD5 is not a digest in any of the spellings that MNS uses",
                "let the proxy pass Content-MD5 on unchanged",
            )
            return
        around = case.around
        for change, variant in body_variants(body, max_inflated_bytes=around.max_inflated_bytes):
            if not around.has_time():
                break
            if content_md5_spelling(value, variant):
                case.find(
                    change.cause,
                    f"Content-MD5 is that of {change.words} ({len(variant)} bytes; {len(body)} came): something between"
                    " MNS and here, or whatever wrote the file, changed the body",
                    _BODY_REMEDIES.get(change.cause, _BODY_REMEDY),
                )
                return
        case.find(
            "body_changed",
            "Content-MD5 is that of another body, and of none of the usual changes to this one (line ends, layout of"
            " JSON, base64, gzip, character sets)",
            _BODY_REMEDY,
        )

    def explain_certificate_url(self) -> str | None:
        case, source = self.case, self.source
        value = self.headers.get(b"x-mns-signing-cert-url")
        allowed = (
            f"one of {len(source.pinned_urls)} pinned URLs"
            if source.pinned_urls is not None
            else f"https, one file on {' or '.join(sorted(source.certificate_hosts))}"
        )
        if value is None:
            case.step("certificate URL", "failed", expected=allowed, came="no such header")
            return None
        try:
            url = source.read_certificate_url(value)
        except BadSignature as error:
            text = _decode_strictly(value)
            came = visible(text) if text is not None else f"{shape(value)}, which is not base64"
            case.step("certificate URL", "failed", expected=allowed, came=came[:300])
            self._explain_certificate_url(text, value, str(error))
            return None
        case.step("certificate URL", "ok", expected=allowed, came=url)
        return url

    def _explain_certificate_url(self, text: str | None, value: bytes, error: str) -> None:
        case, source = self.case, self.source
        if text is None:
            plain = value.startswith((b"http://", b"https://"))
            case.find(
                "header_changed",
                "x-mns-signing-cert-url is "
                + ("the URL itself, not base64 of it" if plain else "not base64")
                + ": something on the way changed it",
                "let the proxy pass all x-mns-* headers on unchanged",
            )
            return
        host = (mns_push.parse_certificate_url(text) or ("",))[0]
        region = re.fullmatch(r"mns-cert\.oss-([a-z0-9-]{1,64})\.aliyuncs\.com", host)
        if region is not None and source.pinned_urls is None:
            case.find(
                "certificate_region",
                f"the certificate is that of region {region[1]}, which is not in regions",
                f'if the topic is in that region, add "{region[1]}" to sources.{source.name}.regions',
            )
        elif source.pinned_urls is not None and (region or host == "mnstest.oss-cn-hangzhou.aliyuncs.com"):
            case.find(
                "certificate_not_pinned",
                "the certificate is at a URL of the vendor that is not pinned: the vendor may have changed it",
                f"fetch it, compare it with a second source, and add it to sources.{source.name}.certificates",
            )
        else:
            case.find(
                "certificate_url",
                f"the certificate URL is not one of the vendor's: {visible(error)}",
                "a push of MNS never names such a URL; look at who sends these",
            )

    def target(self) -> bytes:
        callback = self.case.callback
        if self.source.signed_target is not None:
            return self.source.signed_target
        return callback.raw_path + (b"?" + callback.query if callback.query else b"")

    def explain_signature(self, url: str | None) -> bool:
        case = self.case
        text = string_to_sign(case.callback.method, self.target(), self.headers.items())
        lines = [self._show_line(line) for line in text.split(b"\n")]
        where = "the request's" if self.source.signed_target is None else f"that of sources.{self.source.name}.url"
        case.step("string to sign", "note", came=f"{len(lines)} lines, the last one {where}", lines=lines)
        value = self.headers.get(b"authorization")
        expected = "RSA with SHA-1 over the string to sign, by the certificate's key"
        signature = None if value is None else _decode_signature(value)
        if signature is None:
            came = "no Authorization" if value is None else f"{shape(value)}, which is not base64"
            case.step("signature", "failed", expected=expected, came=came)
            return False
        keys = self._keys(url)
        if not keys:
            how = "give the certificate with --certificate FILE (it is never fetched here)"
            case.step("signature", "not checked", expected=expected, came=f"no certificate: {how}")
            return False
        try:
            right = next((label for label, key in keys if _is_signed(signature, text, key)), None)
        except CannotVerify as error:
            case.step("signature", "not checked", expected=expected, came=str(error))
            return False
        bits = ", ".join(f"{label}: RSA of {key.key_size} bits" for label, key in keys)
        came = f"{len(signature) * 8} bits, {'right with ' + right if right else 'wrong'} ({bits})"
        is_strict = value is not None and _decode_strictly(value, canonical=True) is not None
        case.step("signature", right is not None and is_strict, expected=expected, came=came)
        if right is None:
            self._explain_wrong(signature, keys)
        elif not is_strict:
            case.find(
                "authorization_changed",
                "the signature is right, but Authorization is spelled otherwise than MNS does (blanks, padding, scheme"
                " word or alphabet)",
                "let the proxy pass Authorization on unchanged",
            )
        elif url is not None and right == _GIVEN and self.source.name in case.around.pinned:
            case.find(
                "certificate_changed",
                "the signature is right with the certificate that was given here, and not with the pinned one",
                f"if the certificate is the vendor's, pin it in sources.{self.source.name}.certificates",
            )
        return right is not None

    def _show_line(self, line: bytes) -> str:
        text = line.decode("utf-8", "replace")
        return self.case.show_target(line) if text.startswith("/") else visible(text)

    def _keys(self, url: str | None) -> list[tuple[str, RSAPublicKey]]:
        around = self.case.around
        pinned = around.pinned.get(self.source.name, {})
        keys = [("the pinned certificate", key) for pinned_url, key in pinned.items() if pinned_url == url]
        keys += [("another pinned certificate", key) for pinned_url, key in pinned.items() if pinned_url != url]
        if around.certificate is not None:
            keys.append((_GIVEN, around.certificate))
        return keys

    def _explain_wrong(self, signature: bytes, keys: Sequence[tuple[str, RSAPublicKey]]) -> None:
        found = self._search(signature, keys)
        case = self.case
        if found is None:
            if {"authorization_changed", "header_doubled"} & {finding.cause for finding in case.explanation.findings}:
                return
            case.find(
                "signature_unknown",
                "the signature fits neither the request nor any of the usual changes to it (path, query, headers):"
                " another certificate signed it, a proxy put more before the path than can be guessed, or it is forged",
                f"set sources.{self.source.name}.url to the URL of the subscription, byte for byte; compare the"
                " certificate with the one at the URL above",
            )
            return
        for change, target in found:
            if change.cause.startswith("path_"):
                self._explain_target(change, target)
            else:
                case.find(
                    change.cause,
                    f"the signature is right {change.words}: a proxy {_HEADER_VERBS[change.cause]} a signed header",
                    "let the proxy pass Date, Content-MD5, Content-Type and all x-mns-* headers on unchanged, and add"
                    " none that begins with x-mns-",
                )

    def _explain_target(self, change: Change, target: bytes) -> None:
        case, source = self.case, self.source
        came = self.target()
        shown = case.show_target(target)
        how = (
            f"sources.{source.name}.url is not what the topic is subscribed with: correct path and query to {shown},"
            " or leave url out where no proxy rewrites the path"
            if source.signed_target is not None
            else f"set sources.{source.name}.url to the URL of the subscription, whose path and query are {shown}"
        )
        case.find(
            change.cause,
            f"the signature fits the target {shown} ({change.words}) instead of {case.show_target(came)}: a proxy"
            " rewrites the path, or url does not say what is registered",
            how,
        )

    def _search(
        self, signature: bytes, keys: Sequence[tuple[str, RSAPublicKey]]
    ) -> tuple[tuple[Change, bytes], ...] | None:
        """The changes that make the signature right, each with the target that goes with it."""
        case, source, callback = self.case, self.source, self.case.callback
        headers = list(self.headers.items())
        target = self.target()
        raw_target = callback.raw_path + (b"?" + callback.query if callback.query else b"")
        known = [("the request's own path", raw_target), (f"sources.{source.name}.path", source.path.encode())]
        for other in case.around.sources:
            for path, query in registered_targets(other):
                known.append((f"the path of sources.{other.name}.url", path + (b"?" + query if query else b"")))
        targets = list(target_variants(target, headers=callback.headers, known=known))
        changed = list(signed_header_variants(headers, topics=sorted(source.topics)[:20]))

        def fits(method: str, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bool:
            if not case.around.has_time():
                return False
            text = string_to_sign(method, target, headers)
            return any(_is_signed(signature, text, key) for _, key in keys)

        for change, other_target in targets:
            if fits(callback.method, other_target, headers):
                return ((change, other_target),)
        for change, other_headers in changed:
            if fits(callback.method, target, other_headers):
                return ((change, target),)
        if callback.method != "POST" and fits("POST", target, headers):
            return ((Change("header_changed", "with the method POST"), target),)
        for path_change, other_target in targets[:40]:
            for change, other_headers in changed:
                if fits(callback.method, other_target, other_headers):
                    return ((path_change, other_target), (change, other_target))
        return None

    def explain_date(self, *, is_right: bool) -> None:
        case, source = self.case, self.source
        value = self.headers.get(b"date", self.headers.get(b"x-mns-date"))
        ahead_s = mns_push.MAX_AHEAD_S
        expected = f"Date at most {source.max_age_s} s old and {ahead_s} s ahead"
        if value is None:
            case.step("freshness", "failed", expected=expected, came="no Date")
            return
        try:
            case.sent_at = mns_push.parse_date(value)
        except BadSignature as error:
            case.step("freshness", "failed", expected=expected, came=str(error))
            return
        age_s = (case.around.now - case.sent_at).total_seconds()
        came = age(age_s)
        if not case.around.is_arrival_known:
            came += "; the file does not say when it came, so this is its age now"
        case.step("freshness", -ahead_s <= age_s <= source.max_age_s, expected=expected, came=came)
        if is_right:
            case.explain_clock(age_s=age_s, oldest_s=source.max_age_s, ahead_s=ahead_s)

    def explain_topic(self) -> None:
        case, source = self.case, self.source
        expected = f"one of {', '.join(sorted(source.topics)[:5])}" + (" and more" if len(source.topics) > 5 else "")
        try:
            topic = source.read_topic(self.headers)
        except BadSignature as error:
            case.step("topic in headers", "failed", expected=expected, came=visible(str(error)))
            self._find_topic(error)
        except UnicodeDecodeError:
            case.step("topic in headers", "failed", expected=expected, came="not ASCII")
        else:
            came = topic or "none: the envelope must name it"
            case.step("topic in headers", "ok" if topic else "note", expected=expected, came=came)
        try:
            envelope = open_envelope(case.callback.body)
        except Unparseable as error:
            case.step("envelope", "failed", expected="XML or JSON of MNS, or none", came=visible(str(error)))
            return
        if envelope is None:
            has_topic = b"x-mns-topic-owner" in self.headers or b"x-mns-topic-name" in self.headers
            came = "none: the format SIMPLIFIED" if has_topic else "none, and no headers name the topic either"
            case.step("envelope", "ok" if has_topic else "failed", came=came)
            if not has_topic:
                case.find(
                    "topic_unknown",
                    "neither headers nor an envelope name the topic, so it could be anybody's",
                    "set NotifyContentFormat of the subscription to XML or JSON",
                )
            return
        is_ours = envelope.topic in source.topics
        came = f"{envelope.format}, topic {visible(envelope.topic)[:200]}"
        case.step("envelope", is_ours, expected=expected, came=came)
        if not is_ours:
            self._find_topic(BadSignature("", reason="topic_not_allowed"), envelope.topic)
        try:
            envelope.open_message()
        except Unparseable as error:
            case.step("MessageMD5", "failed", expected="the digest of Message", came=visible(str(error)))
        else:
            came = "right" if envelope.message_md5 is not None else "none; the envelope as a whole is signed"
            case.step("MessageMD5", "ok", expected="the digest of Message", came=came)

    def _find_topic(self, error: BadSignature, topic: str | None = None) -> None:
        if error.reason != "topic_not_allowed":
            self.case.find(
                "topic_unknown",
                visible(str(error)),
                "set NotifyContentFormat of the subscription to XML or JSON",
            )
            return
        if topic is None:
            owner, name = (self.headers.get(b"x-mns-topic-" + part, b"") for part in (b"owner", b"name"))
            topic = b"/".join((owner, name)).decode("ascii", "replace")
        self.case.find(
            "topic_not_allowed",
            f"the push is from topic {visible(topic)[:200]}, which is not in topics: MNS signs for every customer, so"
            " the list is what makes it ours",
            f"if the topic is yours, add it to sources.{self.source.name}.topics; if not, somebody has subscribed your"
            " URL to theirs",
        )


_GIVEN = "the certificate given here"
_HEADER_VERBS = {"header_added": "added", "header_removed": "removed", "header_changed": "changed"}
_BODY_REMEDY = "let the proxy hand bodies on byte for byte, without rewriting, filtering or re-encoding"
_BODY_REMEDIES = {
    "body_gzip": "switch off the compression of request bodies in the proxy",
    "body_base64": "look for a gateway that turns bodies into base64 or back, as serverless platforms do",
    "body_reserialized": "something parses the JSON and writes it anew: let it hand the original bytes on",
    "body_line_ends": "an editor or a proxy converts line ends: capture without it, or have bodies handed on unchanged",
    "body_final_newline": "an editor or a shell adds or removes line breaks: capture without it, or have bodies handed"
    " on unchanged",
}


def _is_signed(signature: bytes, text: bytes, key: RSAPublicKey) -> bool:
    try:
        mns_push.verify_signature(signature, text, key)
    except BadSignature:
        return False
    return True


def _decode_strictly(value: bytes, *, canonical: bool = False) -> str | None:
    """Base64 as the service takes it, as text; None when it is something else."""
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
    if canonical and (not raw or base64.b64encode(raw) != value):
        return None
    return raw.decode("ascii", "replace")


def _decode_signature(value: bytes) -> bytes | None:
    """The signature, also from a value that something has put a scheme word, blanks or another alphabet into."""
    text = b"".join(value.split(b" ", 1)[-1].split()).strip(b"\"'").replace(b"-", b"+").replace(b"_", b"/")
    try:
        return base64.b64decode(text.rstrip(b"=") + b"=" * (-len(text.rstrip(b"=")) % 4), validate=True) or None
    except (binascii.Error, ValueError):
        return None
