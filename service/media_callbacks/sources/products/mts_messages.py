"""
What ApsaraVideo Media Processing (MTS, now MPS) sends: messages about one job, flat, and messages about a workflow,
with a ``MediaWorkflowExecution``.

Source: "Receive notifications", https://www.alibabacloud.com/help/en/mps/receive-notifications; workflows: AddMedia;
everything else: the pages of the submit and query actions. *Observed* is what public receivers logged.
"""

from media_callbacks.sources.reading.members import (
    Anything,
    Declared,
    Integer,
    Many,
    Number,
    Numbers,
    One,
    Text,
    Verbatim,
)


class Activity(Declared, total=False):
    """One activity of a run: Running, Success, Fail or Skipped. Their list is not in the order of time (observed)."""

    RunId: Text
    Name: Text
    Type: Text
    JobId: Text
    TemplateId: Text
    State: Text
    Code: Text
    Message: Text
    StartTime: Text
    EndTime: Text
    MNSMessageResult: Anything


class Source(Declared, total=False):
    InputFile: Anything
    UserData: Verbatim


class Execution(Declared, total=False):
    """
    A run of a workflow.

    Attributes:
        State: Running on Start and Completed on Report (observed), where the documents print Success. Completed only
            says that the run ended.
    """

    RunId: Text
    MediaWorkflowId: Text
    Name: Text
    MediaId: Text
    Input: One[Source]
    State: Text
    ActivityList: Many[Activity]
    CreationTime: Text
    RequestId: Text


class FpShot(Declared, total=False):
    """One known asset that the examined one resembles."""

    PrimaryKey: Text
    Similarity: Number
    FpShotSlices: Anything


class JobNotify(Declared, total=False):
    """What MediaCensor and FpShot put around their result. The job id may be in it or beside it: no document says."""

    Type: Text
    JobId: Text
    State: Text
    Code: Text
    Msg: Text
    Message: Text
    UserData: Verbatim
    Input: Anything
    Result: Text
    Suggestion: Text
    FpShots: Many[FpShot]
    TitleCensorResult: Anything
    DescCensorResult: Anything
    BarrageCensorResult: Anything
    ImageCensorCensorResult: Anything
    TopVideoCensorResult: Anything


class Notification(Declared, total=False):
    """
    Any message.

    Attributes:
        jobId: Messages of a pipeline have every key in both spellings since 2018 or so (observed), in 2015 the small
            ones alone; younger job families have the capital ones alone.
        State: Success or Fail; of smarttag every state; of video quality ``Status``.
        code: On failure, with ``msg``; IProduction and younger ones say Code and Message, on success too.
    """

    jobId: Text
    JobId: Text
    requestId: Text
    RequestId: Text
    type: Text
    Type: Text
    state: Text
    State: Text
    Status: Text
    code: Text
    Code: Text
    msg: Text
    Msg: Text
    Message: Text
    userData: Verbatim
    UserData: Verbatim

    # Snapshots at listed points in time.
    UrlPattern: Text
    LastUrl: Text
    Count: Integer
    TimeArray: Numbers

    # Intelligent production, and the results of other jobs.
    FunctionName: Text
    Details: Anything
    Data: Anything
    result: Anything
    Result: Anything
    Results: Anything
    VideoQualityResults: Anything

    # Reviews and fingerprints.
    MediaCensorJobNotify: One[JobNotify]
    FpShotJobNotify: One[JobNotify]
    FpShots: Many[FpShot]

    # Workflows.
    RunId: Text
    Name: Text
    MediaWorkflowExecution: One[Execution]


TWINS = tuple(
    (small, small[0].upper() + small[1:])
    for small in ("jobId", "requestId", "type", "state", "code", "msg", "userData", "result")
)
