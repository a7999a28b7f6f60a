"""The steps of VOD's and IMS's signature."""

import base64
import re
from urllib.parse import urlsplit

from media_callbacks.explain.case import (
    MAX_SHOWN_STRINGS,
    Case,
    age,
    family,
    from_epoch,
    shape,
    urls_of,
    visible,
)
from media_callbacks.explain.variants import ConfiguredKey, find_signature, key_variants, url_variants
from media_callbacks.model.times import format_time
from media_callbacks.sources.transports.http import HEADER_PREFIXES, SIGNATURE, TIMESTAMP, HttpSource, sign

# The published example of VOD, whose digest belongs to another key than the one printed beside it (recomputed).
_PUBLISHED_EXAMPLE = "c72b60894140fa98920f1279219b7ed4"


class HttpSteps:
    """The steps of VOD's and IMS's signature."""

    def __init__(self, case: Case, source: HttpSource) -> None:
        self.case = case
        self.source = source
        self.prefix = HEADER_PREFIXES[source.product]

    def run(self) -> None:
        case, source = self.case, self.source
        timestamps = case.values(self.prefix + b"timestamp")
        signatures = case.values(self.prefix + b"signature")
        names = f"{family(self.prefix)}-TIMESTAMP and {family(self.prefix)}-SIGNATURE"
        if not source.keys:
            case.step("signature", "note", came='not looked at: the source has no keys and unsigned = "accept"')
            return
        counts = {len(timestamps), len(signatures)}
        came = "both" if counts == {1} else f"{len(timestamps)} and {len(signatures)}"
        case.step("signature headers", counts == {1}, expected=f"{names}, once each", came=came)
        if max(counts) > 1:
            case.find(
                "header_doubled",
                f"{names} came {came} times: which of them was signed can't be known",
                "look for a proxy that adds headers to those that are there instead of replacing them",
            )
        if 0 in counts:
            self.explain_missing(names)
            return
        timestamp, signature = timestamps[0], signatures[0]
        self.explain_timestamp(timestamp)
        is_formed = SIGNATURE.fullmatch(signature) is not None
        case.step(
            "signature form",
            is_formed,
            expected="32 hexadecimal digits",
            came=case.show_digest(signature.decode("ascii")) if is_formed else shape(signature),
        )
        text = timestamp.decode("utf-8", "replace")
        is_right = self.explain_signature(text, signature.lower().decode("ascii") if is_formed else None)
        if case.sent_at is not None:
            age_s = case.around.now.timestamp() - case.sent_at.timestamp()
            limit = source.max_age_s
            came = age(age_s)
            if not case.around.is_arrival_known:
                came += "; the file does not say when it came, so this is its age now"
            case.step("freshness", abs(age_s) <= limit, expected=f"at most {limit} s old or ahead", came=came)
            if is_right and TIMESTAMP.fullmatch(timestamp):
                case.explain_clock(age_s=age_s, oldest_s=limit, ahead_s=limit)

    def explain_missing(self, names: str) -> None:
        case, source = self.case, self.source
        for product, prefix in HEADER_PREFIXES.items():
            timestamp, signature = case.first(prefix + b"timestamp"), case.first(prefix + b"signature")
            if prefix == self.prefix or timestamp is None or signature is None:
                continue
            fits = [
                other.name
                for other in case.around.sources
                if isinstance(other, HttpSource)
                and any(
                    sign(url, timestamp.decode("utf-8", "replace"), key).encode() == signature.lower()
                    for url in other.urls
                    for key in other.keys
                )
            ]
            signed = f"; its signature is right for url and key of source {', '.join(fits)}" if fits else ""
            case.step("signature", "note", came=f"signed with {family(prefix)} headers{signed}")
            case.find(
                "header_family",
                f"the request has {family(prefix)} headers, which {product.upper()} sends, and source {source.name} is"
                f" of product {source.product}, which expects {family(self.prefix)}{signed}",
                f'give {product.upper()} the url of a source with product = "{product}" of its own, or correct the'
                f" product of source {source.name}",
            )
            return
        if case.first(b"ali-live-signature") is not None:
            case.find(
                "other_product",
                "the request has ALI-LIVE headers, so ApsaraVideo Live sent it, which signs another text",
                "remove this url from the callback settings of ApsaraVideo Live",
            )
        elif any(name.startswith(b"x-mns-") for name, _ in case.callback.headers):
            case.find(
                "other_transport",
                f"the request has x-mns headers, so an MNS topic sent it, and source {source.name} has transport http",
                'subscribe the topic to the url of a source with transport = "mns-push"',
            )
        else:
            case.find(
                "signature_missing",
                f"{names} are not both there, so nothing says who sent this: authentication is off at the vendor, a"
                " proxy drops the headers, or it is a probe",
                "switch authentication on in the vendor's callback settings and set the key there, and let the proxy"
                " pass all X- headers",
            )

    def explain_timestamp(self, value: bytes) -> None:
        case = self.case
        is_formed = TIMESTAMP.fullmatch(value) is not None
        is_milliseconds = re.fullmatch(rb"[0-9]{13}", value) is not None
        if is_formed or is_milliseconds:
            case.sent_at = from_epoch(int(value) / (1000 if is_milliseconds else 1))
        came = visible(value.decode("ascii")) if is_formed or is_milliseconds else shape(value)
        if case.sent_at is not None:
            came += f", which is {format_time(case.sent_at)}"
        if is_milliseconds:
            came += ", in milliseconds"
            case.find(
                "timestamp_form",
                "the timestamp has 13 digits: milliseconds, where the vendor sends seconds",
                "whoever made this request (a test, a relay) must send seconds, and sign them",
            )
        case.step("timestamp", is_formed, expected="UNIX seconds, 1 to 12 digits", came=came)

    def explain_signature(self, timestamp: str, signature: str | None) -> bool:
        case, source = self.case, self.source
        lines: list[str] = []
        right: tuple[str, int] | None = None
        pairs = [(url, index) for url in source.urls for index in range(len(source.keys))]
        for url, index in pairs:
            digest = sign(url, timestamp, source.keys[index])
            fits = digest == signature
            if fits and right is None:
                right = (url, index)
            if fits or len(lines) < MAX_SHOWN_STRINGS:
                shown_key, shown_digest = case.show_key(source.keys[index]), case.show_digest(digest)
                lines.append(
                    f"{case.show_url(url)}|{visible(timestamp) if timestamp.isdigit() else '<timestamp>'}"
                    f"|{shown_key}  ->  {shown_digest}  {'fits' if fits else 'does not fit'}"
                    f" (keys[{index}])"
                )
        if len(pairs) > len(lines):
            lines.append(f"and {len(pairs) - len(lines)} more")
        came = "not 32 hexadecimal digits" if signature is None else case.show_digest(signature)
        expected = (
            f"md5 of <registered url>|<timestamp>|<key>, for any of {len(source.urls)} urls and {len(source.keys)} keys"
        )
        if right is not None:
            came += f", right with keys[{right[1]}]"
        case.step("signature", right is not None, expected=expected, came=came, lines=lines)
        if right is not None:
            self._explain_right(right)
        elif signature is not None:
            self._explain_wrong(timestamp, signature)
        return right is not None

    def _explain_right(self, right: tuple[str, int]) -> None:
        url, index = right
        case, source = self.case, self.source
        if index > 0:
            case.find(
                "key_switched",
                f"the signature is right with keys[{index}] ({case.show_key(source.keys[index])}), not with keys[0]:"
                " the vendor signs with another key than the first",
                f"keep keys[{index}] until the vendor's callback settings have the new key; if they have it already,"
                " it was not saved, or not for this region and application",
            )
        if url != source.urls[0]:
            case.step("registered url", "note", came=f"signed for {case.show_url(url)}, url[{source.urls.index(url)}]")

    def _explain_wrong(self, timestamp: str, signature: str) -> None:
        case, source = self.case, self.source
        if not timestamp.isascii():
            return
        hosts, targets = self._request_names()
        keys = [ConfiguredKey(f"keys[{index}]", key) for index, key in enumerate(source.keys)]
        urls = list(source.urls)
        for other in case.around.sources:
            if isinstance(other, HttpSource) and other is not source:
                labels = [f"sources.{other.name}.keys[{index}]" for index in range(len(other.keys))]
                keys += [
                    ConfiguredKey(label, key, is_ours=False)
                    for label, key in zip(labels, other.keys, strict=True)
                    if key not in source.keys
                ]
        found = find_signature(
            signature,
            timestamp,
            url_variants(urls, hosts=hosts, targets=targets),
            key_variants(keys),
            has_time=case.around.has_time,
        )
        if signature == _PUBLISHED_EXAMPLE and (found is None or found[1].changes):
            case.find(
                "vendor_example",
                "this is the example of the vendor's documentation, whose digest was made with the printed key in small"
                " letters: key and digest of the newer pages do not belong together",
                "test with a request of media-callbacks simulate instead",
            )
            return
        if found is None:
            if self._is_volcengine(timestamp, signature):
                return
            labels_shown = ", ".join(case.show_key(key) for key in source.keys[:MAX_SHOWN_STRINGS])
            case.find(
                "key_unknown",
                f"none of the configured keys ({labels_shown}) gives this signature, with the urls as they are or with"
                " another scheme, slash, port, host or query: most likely the vendor has another key, or the url is one"
                " that is not configured (UserData.MessageCallback of a single job, another application or region)",
                "compare url and key with the vendor's callback settings, byte for byte, and add what is registered to"
                " url and keys",
            )
            return
        url, key = found
        shown = case.show_url(url.url)
        for change in url.changes:
            case.find(
                change.cause,
                f"the signature is right for a registered url {change.words}: the vendor has {shown} registered",
                f"add that url to sources.{source.name}.url, byte for byte, or register the configured one with the"
                " vendor",
            )
        configured = key.configured
        for change in key.changes:
            case.find(
                change.cause,
                f"the signature is right with {configured.label} {change.words}: the two sides have different keys",
                "set the key anew in the vendor's callback settings, without blanks, quotes or line breaks, and the"
                " same in the configuration",
            )
        if not configured.is_ours:
            case.find(
                "key_of_other_source",
                f"the signature fits with {configured.label} ({case.show_key(configured.key)}), the key of another"
                " source",
                f"add that key to sources.{source.name}.keys, or set this source's key in the vendor's settings",
            )

    def _is_volcengine(self, timestamp: str, signature: str) -> bool:
        case = self.case
        encoded = base64.b64encode(case.callback.body).decode("ascii")
        for url in self.source.urls:
            for key in self.source.keys:
                if sign(url, timestamp, f"{key}|{encoded}") == signature:
                    case.find(
                        "other_product",
                        "the signature covers the body as well: Volcengine or BytePlus VOD signs like this, with the"
                        " same header names",
                        "this service reads callbacks of Alibaba Cloud alone",
                    )
                    return True
        return False

    def _request_names(self) -> tuple[list[str], list[str]]:
        """What the request and the other sources call host and target, for urls that might have been registered."""
        case = self.case
        hosts: list[str] = []
        for name in (b"host", b"x-forwarded-host", b"x-original-host"):
            hosts += [value.decode("utf-8", "replace").strip() for value in case.values(name)]
        targets = []
        query = "?" + case.callback.query.decode("utf-8", "replace") if case.callback.query else ""
        targets.append(case.callback.raw_path.decode("utf-8", "replace") + query)
        targets.append(self.source.path)
        for other in case.around.sources:
            for url in urls_of(other):
                parts = urlsplit(url)
                hosts.append(parts.netloc.rpartition("@")[2])
                if isinstance(other, HttpSource):
                    targets.append(parts.path)
        plain = [name for name in dict.fromkeys(hosts) if re.fullmatch(r"[A-Za-z0-9.:\[\]_-]{1,253}", name)]
        return plain[:8], list(dict.fromkeys(targets))[:8]
