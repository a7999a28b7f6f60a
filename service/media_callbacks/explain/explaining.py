"""
Why a captured request is accepted or refused, step by step.

The verdict is the source's own: ``certificate_url``, ``verify`` and ``parse`` decide it, so that it can't differ from
what the running service does. The steps beside it look at one thing each and go on after a failure, because the next
one often says more. Where a signature or digest does not fit, the usual mistakes are tried (``explain.variants``), and
the one that fits is named with what to do about it.

Pure: no clock, no network, no file. Nothing in an explanation holds a key, a token, a signature or the value of
Authorization: keys show two characters and digests six digits, and none where it is kept.
"""

import json
from dataclasses import asdict, replace
from typing import Any

from media_callbacks.edge.core import MAX_HEADER_BYTES
from media_callbacks.explain.captured_request import CapturedRequest
from media_callbacks.explain.case import (
    Case,
    Explanation,
    Surroundings,
    find_any_token,
    head_size,
    judge_request,
    registered_path_serves,
    serves,
    visible,
)
from media_callbacks.explain.http import HttpSteps
from media_callbacks.explain.mns_push import MnsPushSteps
from media_callbacks.explain.token_url import TokenUrlSteps
from media_callbacks.explain.variants import decode_base64, inflate, read_json
from media_callbacks.model.errors import Unparseable
from media_callbacks.model.kinds import VerifiedBy
from media_callbacks.model.times import format_time
from media_callbacks.sources.base import Callback, CallbackSource, Message
from media_callbacks.sources.intake import build_receipt
from media_callbacks.sources.transports.http import HEADER_PREFIXES, HttpSource
from media_callbacks.sources.transports.mns_push import MnsPushSource
from media_callbacks.sources.transports.token_url import TokenUrlSource


def as_json(explanation: Explanation) -> dict[str, Any]:
    """In values of JSON."""
    fields = asdict(explanation)
    fields["judged_at"] = format_time(explanation.judged_at)
    fields["events"] = [json.loads(event.to_json()) for event in explanation.events]
    return fields


class UnknownSource(ValueError):
    """There is no source of that name."""


def explain(captured: CapturedRequest, around: Surroundings, *, source_name: str | None = None) -> Explanation:
    """
    Args:
        source_name: The source to explain for, instead of the one that the request is meant for.

    Raises:
        UnknownSource: There is none of this name.
    """
    source, chosen_by = _choose_source(captured.callback, around, source_name)
    case = _Explainer(captured, around, source, chosen_by)
    case.run()
    return case.explanation


# Which source


def _choose_source(callback: Callback, around: Surroundings, name: str | None) -> tuple[CallbackSource | None, str]:
    if name is not None:
        for source in around.sources:
            if source.name == name:
                return source, "named with --source"
        raise UnknownSource(name)
    for source in around.sources:
        if serves(source, callback.raw_path):
            return source, "the request's path is the source's"
    for source in around.sources:
        if registered_path_serves(source, callback.raw_path):
            return source, "the request's path is that of the source's url, which a proxy rewrites"
    fitting = [source for source in around.sources if _looks_like(source, callback, around)]
    if not fitting:
        return None, "no source has the request's path, and its headers look like those of none"
    for source in fitting:
        if judge_request(source, callback, around)[0].state in ("accepted", "unparsed"):
            return source, "no source has the request's path; this one finds it genuine"
    words = "the only one" if len(fitting) == 1 else f"the first of {len(fitting)}"
    return fitting[0], f"no source has the request's path; this is {words} whose requests look like this"


def _looks_like(source: CallbackSource, callback: Callback, around: Surroundings) -> bool:
    names = {name for name, _ in callback.headers}
    if isinstance(source, HttpSource):
        prefix = HEADER_PREFIXES[source.product]
        if any(name.startswith(prefix) for name in names):
            return True
        if any(name.startswith((*HEADER_PREFIXES.values(), b"x-mns-")) for name in names):
            return False
        body = read_json(callback.body)
        return isinstance(body, dict) and "EventType" in body and ("MessageBody" in body) == (source.product == "ims")
    if isinstance(source, MnsPushSource):
        return any(name.startswith(b"x-mns-") for name in names) or b"TopicOwner" in callback.body
    if isinstance(source, TokenUrlSource):
        return find_any_token(callback, around) is not None
    return False


class _Explainer(Case):
    # The parts

    def run(self) -> None:
        self.explain_route()
        source = self.source
        if source is None:
            self.explain_strangers()
            return
        self.explanation.verdict, message = judge_request(source, self.callback, self.around)
        if isinstance(source, HttpSource):
            HttpSteps(self, source).run()
        elif isinstance(source, MnsPushSource):
            MnsPushSteps(self, source).run()
        elif isinstance(source, TokenUrlSource):
            TokenUrlSteps(self, source).run()
        self.explain_content(source, message)
        if self.explanation.verdict.state == "refused" and all(
            step.status != "failed" for step in self.explanation.steps
        ):
            self.step("the service's own decision", "failed", came=self.explanation.verdict.text)

    def explain_route(self) -> None:
        callback, source = self.callback, self.source
        if source is None:
            names = ", ".join(other.name for other in self.around.sources)
            self.step("source", "failed", expected=f"one of {names}", came=self.chosen_by)
            return
        came = f"{source.name} ({source.product}, {source.transport}): {self.chosen_by}"
        is_choice_plain = serves(source, callback.raw_path) or self.chosen_by.startswith("named")
        self.step("source", "ok" if is_choice_plain else "note", came=came)
        expected = source.path + ("/<token>" if source.transport == "token-url" else "")
        came = self.show_target(callback.raw_path)
        if serves(source, callback.raw_path):
            self.step("path", "ok", came=came)
        elif registered_path_serves(source, callback.raw_path):
            self.step(
                "path",
                "note",
                expected=expected,
                came=f"{came}, the path of the registered url: judged as if a proxy had rewritten it",
            )
        else:
            self.step("path", "failed", expected=expected, came=came)
            self._explain_path(source, expected, came)
        self.step(
            "method",
            callback.method in source.methods,
            expected=" or ".join(sorted(source.methods)),
            came=visible(callback.method),
        )
        if callback.method not in source.methods:
            self.find(
                "method",
                f"the request is a {visible(callback.method)}, which this source answers with 405",
                "a POST that was redirected becomes a GET: look for a redirect (http to https, a slash at the end) in"
                " the proxy, and register the url that it leads to",
            )
        head, body = head_size(callback), len(callback.body)
        self.step(
            "size",
            head <= MAX_HEADER_BYTES and body <= self.around.max_body_bytes,
            expected=f"at most {MAX_HEADER_BYTES} bytes of headers and {self.around.max_body_bytes} of body",
            came=f"{head} and {body}",
        )
        if body > self.around.max_body_bytes:
            self.find(
                "body_too_large",
                f"the body has {body} bytes, server.max_body_bytes is {self.around.max_body_bytes}",
                "raise server.max_body_bytes, and the limit of the proxy with it",
            )

    def _explain_path(self, source: CallbackSource, expected: str, came: str) -> None:
        words = f"the request came to {came}, and source {source.name} listens on {expected}: answered with 404"
        own, path = source.path.encode(), self.callback.raw_path
        if path.rstrip(b"/") == own:
            text = "the path has a slash at its end, which makes it another one"
            self.find("path_trailing_slash", f"{words}; {text}", "register the url without it, or have it removed")
        elif path.lower() == own.lower():
            self.find("path_case", f"{words}; only capitals differ", "register the url with the same letters as path")
        elif path.endswith(own) or own.endswith(path):
            verb = "adds to" if path.endswith(own) else "takes from"
            self.find(
                "path_rewritten",
                f"{words}; it looks as if a proxy {verb} the front of the path",
                "set path to what arrives here, and keep url as it is registered with the vendor",
            )
        else:
            self.find("path_unknown", words, "correct path, or the url that is registered with the vendor")

    def explain_strangers(self) -> None:
        names = {name for name, _ in self.callback.headers}
        if any(name.startswith(b"ali-live-") for name in names):
            self.find(
                "other_product",
                "the request carries the headers of ApsaraVideo Live, which this service has no source for",
                "remove this url from the callback settings of ApsaraVideo Live",
            )
        elif any(name.startswith(b"x-mns-") for name in names):
            self._find_missing_source("an MNS topic", 'transport = "mns-push"')
        elif any(name.startswith(HEADER_PREFIXES["vod"]) for name in names):
            self._find_missing_source("ApsaraVideo VOD", 'product = "vod"')
        elif any(name.startswith(HEADER_PREFIXES["ims"]) for name in names):
            self._find_missing_source("IMS", 'product = "ims"')
        else:
            self.find(
                "path_unknown",
                f"no source listens on {self.show_target(self.callback.raw_path)}, and nothing says who sent this",
                "name the source that it was meant for with --source",
            )

    def _find_missing_source(self, sender: str, setting: str) -> None:
        self.find(
            "no_source",
            f"the request looks like one of {sender}, and no such source is configured",
            f"add a source with {setting}, its path {self.show_target(self.callback.raw_path)}",
        )

    # Events

    def explain_content(self, source: CallbackSource, message: Message | None) -> None:
        """What the message means, or would mean if it were accepted."""
        if message is None and self.sent_at is not None:
            message = judge_request(source, self.callback, self.around, now=self.sent_at)[1]
        if message is None:
            message = self._supposed_message(source)
        if message is None:
            return
        receipt = build_receipt(source, message, received_at=self.around.now, route=lambda _: ())
        if receipt.reason is not None:
            self.explanation.unparsed = visible(receipt.reason)
            self.step("content", "failed", expected=f"a message of {source.product}", came=self.explanation.unparsed)
            self._explain_unparsed(source, message)
            return
        self.explanation.warnings = receipt.warnings
        self.explanation.events = tuple(entry.event for entry in receipt.entries)
        count = len(self.explanation.events)
        self.step("content", "ok", came=f"{count} event{'s' * (count != 1)}, {len(self.explanation.warnings)} warnings")
        if source.transport != "token-url" and read_json(message.payload) is None and decode_base64(message.payload):
            self.find(
                "body_base64",
                "the message is base64 of JSON, which is decoded here as well",
                "nothing; whoever encodes it (an MNS publisher or library) may stop doing so",
            )

    def _supposed_message(self, source: CallbackSource) -> Message | None:
        """The message as it would be if the request were genuine."""
        body = self.callback.body
        if not isinstance(source, TokenUrlSource):
            verified_by: VerifiedBy = "none" if isinstance(source, HttpSource) and not source.keys else "signature"
            return Message(body, body, verified_by)
        found = find_any_token(self.callback, self.around)
        if found is None:
            return None
        meta = {"nonce": found.token.nonce.hex(), "bind": found.token.bind.hex()}
        if self.callback.query:
            meta["query"] = self.callback.query.decode("ascii", "replace")[:8192]
        return Message(body, body, "token", meta=meta)

    def _explain_unparsed(self, source: CallbackSource, message: Message) -> None:
        body = message.body
        inflated, decoded = inflate(body, self.around.max_inflated_bytes), decode_base64(body)
        if inflated is not None or body.startswith(b"\x1f\x8b"):
            is_readable = inflated is not None and self._is_readable(source, message, inflated)
            reads = "; decompressed it can be read" if is_readable else ""
            self.find(
                "body_gzip",
                f"the body is compressed (gzip or zlib, {len(body)} bytes){reads}",
                "the vendor sends bodies uncompressed: switch off the compression of requests in the proxy",
            )
        elif decoded is not None and not body.lstrip().startswith((b"{", b"[", b"<")):
            reads = "; decoded it can be read" if self._is_readable(source, message, decoded) else ""
            self.find(
                "body_base64",
                f"the body is base64{reads}",
                "look for a gateway that hands bodies on in base64 (serverless platforms do) and switch that off",
            )
        value = read_json(body)
        if isinstance(value, str) and self._is_readable(source, message, value.encode("utf-8", "replace")):
            self.find(
                "body_reserialized",
                "the body is a JSON string that holds the message: something encoded it a second time",
                "let the proxy hand bodies on as they are, or encode them once",
            )
        if isinstance(value, dict) and "EventType" in value and isinstance(source, HttpSource):
            is_ims = "MessageBody" in value
            if is_ims != (source.product == "ims"):
                sender, other = ("IMS", "ims") if is_ims else ("VOD", "vod")
                has = "has" if is_ims else "has no"
                self.find(
                    "other_product",
                    f"the body {has} MessageBody, so {sender} sent it, and source {source.name} is of product"
                    f" {source.product}",
                    f"register this url with {source.product.upper()} only, and give {sender} a source with product ="
                    f' "{other}" and a url of its own',
                )

    @staticmethod
    def _is_readable(source: CallbackSource, message: Message, body: bytes) -> bool:
        try:
            source.parse(replace(message, body=body, payload=body))
        except Unparseable:
            return False
        return True
