"""
What ApsaraVideo Media Processing (MTS, now MPS) sends: messages about one job, flat, and messages about a workflow,
with a ``MediaWorkflowExecution``.

Source: "Receive notifications", https://www.alibabacloud.com/help/en/mps/receive-notifications; workflows: AddMedia;
everything else: the pages of the submit and query actions. *Observed* is what public receivers logged.
"""

from service.sources.members import Anything, Declared, Integer, Many, Number, Numbers, One, Text, Verbatim


class Activity(Declared):
    """One activity of a run: Running, Success, Fail or Skipped. Their list is not in the order of time (observed)."""

    RunId: Text = None
    Name: Text = None
    Type: Text = None
    JobId: Text = None
    TemplateId: Text = None
    State: Text = None
    Code: Text = None
    Message: Text = None
    StartTime: Text = None
    EndTime: Text = None
    MNSMessageResult: Anything = None


class Source(Declared):
    InputFile: Anything = None
    UserData: Verbatim = None


class Execution(Declared):
    """
    A run of a workflow.

    Attributes:
        State: Running on Start and Completed on Report (observed), where the documents print Success. Completed only
            says that the run ended.
    """

    RunId: Text = None
    MediaWorkflowId: Text = None
    Name: Text = None
    MediaId: Text = None
    Input: One[Source] = None
    State: Text = None
    ActivityList: Many[Activity] = None
    CreationTime: Text = None
    RequestId: Text = None


class FpShot(Declared):
    """One known asset that the examined one resembles."""

    PrimaryKey: Text = None
    Similarity: Number = None
    FpShotSlices: Anything = None


class JobNotify(Declared):
    """What MediaCensor and FpShot put around their result. The job id may be in it or beside it: no document says."""

    Type: Text = None
    JobId: Text = None
    State: Text = None
    Code: Text = None
    Msg: Text = None
    Message: Text = None
    UserData: Verbatim = None
    Input: Anything = None
    Result: Text = None
    Suggestion: Text = None
    FpShots: Many[FpShot] = None
    TitleCensorResult: Anything = None
    DescCensorResult: Anything = None
    BarrageCensorResult: Anything = None
    ImageCensorCensorResult: Anything = None
    TopVideoCensorResult: Anything = None


class Notification(Declared):
    """
    Any message.

    Attributes:
        jobId: Messages of a pipeline have every key in both spellings since 2018 or so (observed), in 2015 the small
            ones alone; younger job families have the capital ones alone.
        State: Success or Fail; of smarttag every state; of video quality ``Status``.
        code: On failure, with ``msg``; IProduction and younger ones say Code and Message, on success too.
    """

    jobId: Text = None
    JobId: Text = None
    requestId: Text = None
    RequestId: Text = None
    type: Text = None
    Type: Text = None
    state: Text = None
    State: Text = None
    Status: Text = None
    code: Text = None
    Code: Text = None
    msg: Text = None
    Msg: Text = None
    Message: Text = None
    userData: Verbatim = None
    UserData: Verbatim = None

    # Snapshots at listed points in time.
    UrlPattern: Text = None
    LastUrl: Text = None
    Count: Integer = None
    TimeArray: Numbers = None

    # Intelligent production, and the results of other jobs.
    FunctionName: Text = None
    Details: Anything = None
    Data: Anything = None
    result: Anything = None
    Result: Anything = None
    Results: Anything = None
    VideoQualityResults: Anything = None

    # Reviews and fingerprints.
    MediaCensorJobNotify: One[JobNotify] = None
    FpShotJobNotify: One[JobNotify] = None
    FpShots: Many[FpShot] = None

    # Workflows.
    RunId: Text = None
    Name: Text = None
    MediaWorkflowExecution: One[Execution] = None

    @property
    def contradicts_itself(self) -> bool:
        """Whether the two spellings of one key say different things."""
        return (
            _differ(self.jobId, self.JobId)
            or _differ(self.type, self.Type)
            or _differ(self.state, self.State)
            or _differ(self.code, self.Code)
            or _differ(self.msg, self.Msg)
            or _differ(self.userData, self.UserData)
            or _differ(self.result, self.Result)
            or _differ(self.requestId, self.RequestId)
        )


def _differ(small: object, capital: object) -> bool:
    return small is not None and capital is not None and small != capital
