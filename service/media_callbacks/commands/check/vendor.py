"""The vendor's queues and job APIs, asked in ways that change nothing."""

import asyncio
from collections.abc import Mapping

from media_callbacks.aliyun.calls import ApiRequest
from media_callbacks.aliyun.credentials import CredentialsProvider, choose_credentials
from media_callbacks.aliyun.mns import MnsQueue
from media_callbacks.aliyun.openapi import OpenApiClient
from media_callbacks.commands.check.network import Network
from media_callbacks.config.sources import MnsQueueSourceSettings
from media_callbacks.config.vendor import VendorSettings
from media_callbacks.model.check_results import CheckResult, split_advice
from media_callbacks.model.errors import ConfigError, VendorRefused, VendorUnavailable
from media_callbacks.model.kinds import Product

# After a job that can't exist: whoever may ask is told that there is none.
_NO_JOB = "0" * 32
QUESTIONS: Mapping[Product, ApiRequest] = {
    "vod": ApiRequest(
        api="vod",
        action="GetJobDetail",
        version="2017-03-21",
        parameters={"JobId": _NO_JOB, "JobType": "snapshot"},
    ),
    "ims": ApiRequest(api="ice", action="GetDynamicImageJob", version="2020-11-09", parameters={"JobId": _NO_JOB}),
    "mts": ApiRequest(
        api="mts", action="QuerySnapshotJobList", version="2014-06-18", parameters={"SnapshotJobIds": _NO_JOB}
    ),
    "multimediaai": ApiRequest(
        api="multimediaai", action="GetTaskStatus", version="2019-08-10", parameters={"TaskId": "1"}
    ),
}
# Codes that speak of the job: signature and rights were found right before.
_ABOUT_THE_JOB = ("NotFound", "NotExist", "NonExist", "NoSuch", "InvalidParameter", "InvalidJob")
_UNAVAILABLE = "check endpoint, region and network, and try again"
_REFUSED = "look the code up in the API's documentation"


async def try_api(
    product: Product, name: str, vendor: VendorSettings, network: Network, *, must_ask: bool = True
) -> CheckResult:
    """
    Whether a product's job API answers, knows these credentials and lets them ask.

    Args:
        name: Of the table with the credentials.
        must_ask: Whether a source needs it; credentials that are for queues alone need no such right.
    """
    subject, query = f"vendor.{name}", QUESTIONS[product]
    right = f"{query.api}:{query.action}"
    try:
        credentials = _choose(name, vendor)
    except ConfigError as error:
        return _of_mistake(error)
    client = OpenApiClient(
        credentials,
        region=vendor.region,
        endpoints=vendor.endpoints,
        timeout_s=network.timeout_s,
        clock=network.clock,
        # Somebody is waiting in front of a terminal.
        wait=lambda *_: asyncio.sleep(0),
        rates=lambda *_: 1000.0,
    )
    try:
        await client.call(query)
    except VendorUnavailable as error:
        return _of_silence(subject, error)
    except VendorRefused as error:
        if error.code.startswith(("Forbidden", "NoPermission", "AccessDenied")):
            text = f"these credentials are known, and may not ask after jobs ({right}: {error.code})"
            remedy = f"allow {right} and the product's other queries to this user or role, to confirm and heal"
            return CheckResult("error" if must_ask else "warning", subject, text, remedy)
        text, remedy = split_advice(str(error), "")
        if remedy:
            return CheckResult("error", subject, text, remedy)
        if not any(word in error.code for word in _ABOUT_THE_JOB):
            return CheckResult("warning", subject, text, _REFUSED)
    finally:
        await client.close()
    return CheckResult("ok", subject, f"{query.api} answers, and these credentials may ask it ({right})")


class _WatchedQueue(MnsQueue):
    async def peek(self) -> None:
        """
        Look at the first message, which stays where it is and visible to all.

        Source: "PeekMessage", https://www.alibabacloud.com/help/en/mns/developer-reference/peekmessage.

        Raises:
            VendorUnavailable, VendorRefused: See ``errors``.
        """
        reply = await self._ask("PeekMessage", "GET", f"{self._path}?peekonly=true")
        if reply.error is not None and reply.code != "MessageNotExist":
            raise self._error("PeekMessage", reply)


async def try_queue(
    subject: str, source: MnsQueueSourceSettings, name: str, vendor: VendorSettings, network: Network
) -> CheckResult:
    """
    Whether a queue is there, and these credentials may read it.

    Args:
        name: Of the table with the credentials.
    """
    try:
        credentials = _choose(name, vendor)
    except ConfigError as error:
        return _of_mistake(error)
    queue = _WatchedQueue(
        source.endpoint,
        source.queue,
        credentials=credentials,
        clock=network.clock,
        signature=source.signature,
        region=vendor.region,
    )
    try:
        await queue.peek()
    except VendorUnavailable as error:
        return _of_silence(subject, error)
    except VendorRefused as error:
        if error.code == "AccessDenied":
            return CheckResult(
                "warning",
                subject,
                "these credentials may not peek into it, so whether they may receive can't be told",
                "see that they have mns:ReceiveMessage, mns:DeleteMessage and mns:ChangeMessageVisibility on the queue;"
                " with mns:PeekMessage this command can look, too",
            )
        return CheckResult("error", subject, *split_advice(str(error), _REFUSED))
    finally:
        await queue.close()
    return CheckResult("ok", subject, f"{source.queue} is there, and these credentials may look into it")


def _choose(name: str, vendor: VendorSettings) -> CredentialsProvider:
    return choose_credentials(
        f"vendor.{name}",
        access_key_id=vendor.access_key_id,
        access_key_secret=vendor.access_key_secret,
        security_token=vendor.security_token,
    )


def _of_mistake(error: ConfigError) -> CheckResult:
    subject, _, sentence = error.problems[0].partition(": ")
    text, _, remedy = sentence.partition(": ")
    return CheckResult("error", subject, text, remedy)


def _of_silence(subject: str, error: VendorUnavailable) -> CheckResult:
    # Who is told to ask less often has reached the vendor.
    return CheckResult("warning" if error.is_throttled else "error", subject, *split_advice(str(error), _UNAVAILABLE))
