"""How often each action may be asked: half of what the vendor allows an account, as others use the same account."""

from collections.abc import Mapping

from media_callbacks.aliyun.calls import Api

# Requests a second that the vendor documents for an account, at the end of each action's page ("QPS limit").
_DOCUMENTED: Mapping[tuple[Api, str], float] = {
    ("vod", "GetJobDetail"): 15,
    ("vod", "GetMediaAuditResult"): 20,
    ("vod", "GetMezzanineInfo"): 100,
    ("vod", "GetURLUploadInfos"): 100,
    ("vod", "ListSnapshots"): 30,
    ("mts", "QueryAnalysisJobList"): 100,
    ("mts", "QueryJobList"): 100,
    ("mts", "QueryMediaInfoJobList"): 100,
    ("mts", "QueryMediaWorkflowExecutionList"): 100,
    ("mts", "QuerySnapshotJobList"): 100,
}
# Assumed where no limit is documented: all of ICE and multimediaai, the rest of VOD.
_UNDOCUMENTED_PER_S = 5.0


def rate_per_s(api: Api, action: str) -> float:
    """Requests a second."""
    documented = _DOCUMENTED.get((api, action))
    return _UNDOCUMENTED_PER_S if documented is None else documented / 2
