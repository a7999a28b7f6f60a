"""
Lies in content: whatever a message claims, nothing leaves as the vendor's word that the vendor has not said. For every
message that the vendor can be asked about, against the fake cloud.
"""

from typing import Any

import pytest

from media_callbacks.healing.queries.catalogue import QUERIES
from media_callbacks.model.events import EventData, EventError
from media_callbacks.rehearsal.fake_cloud.jobs import TrueOutcome
from tests.reference import confirm_tables
from tests.reference.confirm_tables import NOTHING, USER_DATA, Vendor, families, find_row, find_told

FAMILIES = list(families())
LIE = "a lie"
OUTCOMES: tuple[TrueOutcome, ...] = ("succeeded", "failed")


def lies(product: Any, family: str, claimed: Any) -> dict[str, Any]:
    """A lie in each member; in outputs one in each of theirs, and one output too many."""
    found: dict[str, Any] = {"user data": {"user_data": LIE}}
    if family not in QUERIES[product].asset_families:
        # Which are asked about by their media id: another one is the truth about another asset.
        found["media id"] = {"media_id": LIE}
    if claimed.error is not None:
        found["error"] = {"error": EventError(code=LIE, message=LIE, retryable=True)}
    for output in claimed.outputs[:1]:
        for name, value in dict(output).items():
            if isinstance(value, str) and name != "outcome":
                found[f"output's {name}"] = {"outputs": (output.model_copy(update={name: LIE}),)}
            elif isinstance(value, int | float):
                found[f"output's {name}"] = {"outputs": (output.model_copy(update={name: value + 1}),)}
        found["outputs"] = {"outputs": (*claimed.outputs, claimed.outputs[0])}
    return found


@pytest.mark.parametrize(("product", "family"), FAMILIES)
@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_no_lie_leaves_as_the_vendors_word(product: Any, family: str, outcome: TrueOutcome) -> None:
    if (product, family, outcome) == ("vod", "animated_image", "failed"):
        pytest.skip("no action tells of it")
    vendor = Vendor()
    job = vendor.cloud.submit(product, family, outcome=outcome, user_data=USER_DATA)
    event, inquiry = vendor.held(job)
    honest = (await vendor.judge(inquiry)).finding.release
    assert honest is not None
    assert honest.data.outcome == outcome
    told = await find_told(vendor, inquiry)
    for what, claims in lies(product, family, event.data).items():
        judgement = await vendor.judge(inquiry, **claims)
        if (finding := judgement.finding).conflict is not None:
            assert what in ("media id", "user data"), what
            assert finding.receipt is not None
            left = [entry.event.data for entry in finding.receipt.entries]
            assert finding.release is None
        else:
            assert finding.release is not None
            left = [finding.release.data]
        for data in left:
            ((name, lie),) = claims.items()
            if getattr(data, name) == lie:
                assert data.verified_by == "signature", what
            if says(told, what):
                assert getattr(data, name) != lie, what


def says(told: EventData, what: str) -> bool:
    """Whether the vendor says something of what a lie is about."""
    if what == "error":
        return told.error is not None and told.error.code is not None
    if what.startswith("output's "):
        return any(getattr(output, what.removeprefix("output's ")) is not None for output in told.outputs)
    return bool(getattr(told, what.replace(" ", "_")))


@pytest.mark.parametrize(("product", "family"), FAMILIES)
@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_what_nobody_has_signed_leaves_nothing_behind(product: Any, family: str, outcome: TrueOutcome) -> None:
    if (product, family, outcome) == ("vod", "animated_image", "failed"):
        pytest.skip("no action tells of it")
    vendor = Vendor()
    job = vendor.cloud.submit(product, family, outcome=outcome, user_data=USER_DATA)
    event, inquiry = vendor.held(job)
    for what, claims in lies(product, family, event.data).items():
        finding = (await vendor.judge(inquiry, verified_by="none", outcome_verified_by="none", **claims)).finding
        # An analysis that failed is not to be seen of an asset: it leaves as it came.
        if finding.release is not None and (family, outcome) != ("VideoAnalysisComplete", "failed"):
            ((name, lie),) = claims.items()
            assert getattr(finding.release.data, name) != lie, what


async def test_what_can_be_confirmed_whole_is() -> None:
    whole = set()
    for product, family in FAMILIES:
        vendor = Vendor()
        event, inquiry = vendor.held(vendor.cloud.submit(product, family))
        released = (await vendor.judge(inquiry, user_data=None)).finding.release
        assert released is not None
        row = await find_row(product, family)
        cells = [row.cells[name] for name in ("outcome", "media_id", "outputs")]
        is_whole = released.data.verified_by == "query"
        assert is_whole == all(cell in (confirm_tables.YES, NOTHING) for cell in cells), (family, row.cells)
        if is_whole:
            whole.add(released.data.kind)
            assert dict(released.data.outputs[0]) if released.data.outputs else True
        assert event.data.outcome == "succeeded"
    assert whole >= {"review", "fingerprint", "ai", "snapshot", "transcode", "animated_image", "workflow", "production"}
