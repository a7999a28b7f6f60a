"""
What ApsaraVideo VOD sends: one flat JSON object a message. IMS sends the same inside an envelope
(``sources.ims_messages``), under most of the same names, and whole bodies of VOD have been seen in it. So a body is
declared once for both, with what either says, and read by the same rules wherever it stands.

Members are spelled as in the documents; what comes in another spelling is read all the same (``sources.members``).

Source: "Event notification", https://help.aliyun.com/en/vod/user-guide/events/, a page an event; IMS: "Event list",
https://help.aliyun.com/en/ims/user-guide/event-list-2, and where that shows no body, the reply of the product's job
API (SDK alibabacloud_ice20201109 6.20.2), whose names IMS uses in the bodies that are documented. *Observed* is what
public receivers logged.
"""

from service.sources.members import (
    Anything,
    Declared,
    Flag,
    Integer,
    Many,
    Named,
    Number,
    One,
    Text,
    Texts,
    Verbatim,
)


class Trigger(Declared):
    """What started a job that nobody submitted (observed in the results of workflows). JSON text."""

    ActivityInstanceId: Text = None
    BizType: Text = None
    Name: Text = None


class Body(Declared):
    """
    What any message may say.

    Attributes:
        EventTime: UTC, as 2019-11-05T09:12:58Z, or with milliseconds after a colon.
        Status: success or fail; Success or Failed; Succeed or Failed; Success or Fail; Finished: the event decides.
        Code: Of AI events, and beside a success, too; all others say ErrorCode.
        Extend: What was given at submit as UserData.Extend.
        UserData: The same of IMS.
        RequestId: Of the envelope's kind, observed in bodies inside of workflow results.
    """

    EventType: Text = None
    EventTime: Text = None
    Status: Text = None
    State: Text = None
    JobId: Text = None
    TaskId: Text = None
    ParentJobId: Text = None
    VideoId: Text = None
    MediaId: Text = None
    ErrorCode: Text = None
    ErrorMessage: Text = None
    Code: Text = None
    Message: Text = None
    Extend: Verbatim = None
    UserData: Verbatim = None
    AppId: Text = None
    UserId: Anything = None
    RequestId: Text = None
    TriggerSource: One[Trigger] = None
    CreateTime: Text = None
    CompleteTime: Text = None
    FinishTime: Text = None


# Pictures


class AnimatedImageInfo(Declared):
    """JSON text in 2021, an object since 2022, a list in the field table. Not there on failure."""

    JobId: Text = None
    Status: Text = None
    FileURL: Text = None
    FileSize: Integer = None
    Fps: Number = None
    Height: Integer = None
    Width: Integer = None
    Format: Text = None
    Duration: Number = None
    DynamicImageId: Text = None
    VideoId: Text = None
    CreationTime: Text = None


class DynamicImage(Body):
    """``DynamicImageComplete``. One of a workflow has neither job id nor details, but TriggerSource (observed)."""

    DynamicImageJobInfo: One[AnimatedImageInfo] = None
    # IMS: no body is documented; GetDynamicImageJob.
    OutputUrl: Text = None
    FileURL: Text = None
    Format: Text = None
    FileSize: Integer = None
    Fps: Number = None
    Height: Integer = None
    Width: Integer = None


class SnapshotInfo(Declared):
    """
    The pictures of one job.

    Attributes:
        SnapshotType: CoverSnapshot, NormalSnapshot, SpriteSnapshot; the API knows SpriteOriginSnapshot, WebVttSnapshot.
        SnapshotFormat: Key of an object, to be joined with one's own domain.
        SnapshotRegular: The whole URL, with {SnapshotCount} for the number of the picture.
    """

    JobId: Text = None
    Status: Text = None
    SnapshotType: Text = None
    SnapshotCount: Integer = None
    SnapshotFormat: Text = None
    SnapshotRegular: Text = None
    ErrorCode: Text = None
    ErrorMessage: Text = None


class Snapshot(Body):
    """
    ``SnapshotComplete``, and ``LiveSnapshotFileCreated`` of IMS.

    Attributes:
        SubType: SpecifiedTime for SubmitSnapshotJob, absent for snapshots at upload.
        SnapshotInfos: Absent on failure.
        Snapshots: URLs of the pictures (observed).
    """

    SubType: Text = None
    CoverUrl: Text = None
    SnapshotInfos: Many[SnapshotInfo] = None
    Snapshots: Texts = None
    # IMS: no body is documented; GetSnapshotJob.
    Type: Text = None
    Count: Integer = None
    OutputUrl: Text = None
    SnapshotRegular: Text = None
    SnapshotType: Text = None
    # Of live snapshots: ListLiveSnapshotFiles.
    FileUrl: Text = None
    OssBucket: Text = None
    OssEndpoint: Text = None
    OssObject: Text = None
    CreateTimestamp: Text = None
    IsOverlay: Flag = None


# Streams


class Stream(Declared):
    """One output. ``Definition`` is the name of a template, not a resolution."""

    JobId: Text = None
    Status: Text = None
    Definition: Text = None
    Format: Text = None
    FileUrl: Text = None
    Width: Integer = None
    Height: Integer = None
    Fps: Number = None
    Bitrate: Number = None
    Duration: Number = None
    Size: Integer = None
    Encrypt: Flag = None
    EncryptType: Text = None
    Codec: Text = None
    IsAudio: Flag = None
    WatermarkId: Text = None
    StartTime: Text = None
    FinishTime: Text = None
    ErrorCode: Text = None
    ErrorMessage: Text = None


class StreamTranscode(Stream, Body):
    """``StreamTranscodeComplete``: one output of a task ended."""


class TranscodeOutputFile(Declared):
    """Where an output is: GetTranscodeJob, GetMediaConvertJob."""

    Type: Text = None
    Media: Text = None
    Url: Text = None
    OutputUrl: Text = None


class FileInfo(Declared):
    FileUrl: Text = None
    FileName: Text = None
    FileSize: Integer = None
    FileStatus: Text = None
    FileType: Text = None
    FormatName: Text = None
    Bitrate: Number = None
    Duration: Number = None
    Width: Integer = None
    Height: Integer = None
    MediaId: Text = None
    Region: Text = None


class VideoStreamInfo(Declared):
    Fps: Number = None
    Width: Integer = None
    Height: Integer = None
    Bitrate: Number = None
    Duration: Number = None


class FileMeta(Declared):
    FileBasicInfo: One[FileInfo] = None
    VideoStreamInfoList: Many[VideoStreamInfo] = None
    AudioStreamInfoList: Anything = None


class ConvertResult(Declared):
    OutputFile: One[TranscodeOutputFile] = None
    OutFileMeta: One[FileMeta] = None


class ConvertOutput(Declared):
    """One output of a media conversion. Status: Init, Processing, Success, Failed, Skipped."""

    TaskId: Text = None
    Name: Text = None
    Status: Text = None
    State: Text = None
    Code: Text = None
    Message: Text = None
    CreateTime: Text = None
    FinishTime: Text = None
    Result: One[ConvertResult] = None


class ConvertGroup(ConvertOutput):
    """A group of outputs of a media conversion, with a task of its own."""

    Outputs: Many[ConvertOutput] = None


class TranscodeJob(Declared):
    """One sub job of a transcoding of IMS: GetTranscodeJob."""

    JobId: Text = None
    ParentJobId: Text = None
    Name: Text = None
    Status: Text = None
    Code: Text = None
    Message: Text = None
    Output: One[TranscodeOutputFile] = None
    OutFileMeta: One[FileMeta] = None
    JobIndex: Integer = None
    FinishTime: Text = None


class Transcode(Body):
    """
    ``TranscodeComplete`` of VOD (a task of many streams) and of IMS (one sub job), ``TranscodeParentComplete``, and
    the three of media conversion.

    Attributes:
        Status: success as soon as one stream succeeded (documented), so the streams decide.
        StreamInfos: Missing when the source is unusable and no stream was begun.
        Preprocess: After SubmitPreprocessJobs.
    """

    StreamInfos: Many[Stream] = None
    Preprocess: Flag = None
    # IMS: no body is documented; GetTranscodeJob and GetMediaConvertJob.
    Name: Text = None
    OutputUrl: Text = None
    FileUrl: Text = None
    MediaURL: Text = None
    Output: One[TranscodeOutputFile] = None
    OutFileMeta: One[FileMeta] = None
    Result: One[ConvertResult] = None
    TranscodeJobList: Many[TranscodeJob] = None
    OutputDetails: Many[ConvertOutput] = None
    OutputGroupDetails: Many[ConvertGroup] = None
    Outputs: Many[ConvertOutput] = None


# Assets


class Upload(Body):
    """
    An asset came to be: every event of an upload, a registration or a recording.

    Attributes:
        FileURL: Or FileUrl: both are documented.
        JobId: Of UploadByURLComplete. That of a recording is the live job's, which sends many files.
        RecordId: What tells the recordings of a live job apart.
    """

    ImageId: Text = None
    AttachedMediaId: Text = None
    Size: Integer = None
    FileUrl: Text = None
    FileURL: Text = None
    MediaType: Text = None
    SourceURL: Text = None
    FileType: Text = None
    StreamFileURL: Text = None
    # Of live recordings: the event page of VOD, and ListLiveRecordFiles.
    StreamName: Text = None
    DomainName: Text = None
    AppName: Text = None
    RecordStartTime: Text = None
    RecordEndTime: Text = None
    RecordId: Text = None
    RecordUrl: Text = None
    StartTime: Text = None
    EndTime: Text = None
    Duration: Number = None
    Format: Text = None
    Width: Integer = None
    Height: Integer = None
    JobName: Text = None
    StreamUrl: Text = None
    RecordOutput: Anything = None


class VideoAnalysis(Body):
    """``VideoAnalysisComplete``. Without measurements on failure; without Height, Width and Fps for audio."""

    Width: Integer = None
    Height: Integer = None
    Fps: Number = None
    Bitrate: Number = None
    Duration: Number = None
    Size: Integer = None


class AssetChange(Body):
    """
    Something that was done to an asset.

    Attributes:
        DeleteType: all, mezzanine or stream; the latter with JobIds.
        MediaContent: An object whose members are JSON text with OldValue and NewValue.
        SuccessPlayUrls: Comma-separated.
    """

    MediaType: Text = None
    DeleteType: Text = None
    JobIds: Verbatim = None
    OperateMode: Text = None
    MediaContent: Anything = None
    Scope: Text = None
    StorageClass: Text = None
    TriggerBy: Text = None
    RestoreExpiration: Text = None
    MediaRefreshJobId: Text = None
    TaskType: Text = None
    TaskIds: Text = None
    SuccessPlayUrls: Text = None
    FilterPolicy: Anything = None


# Reviews and AI


class Match(Declared):
    PrimaryKey: Text = None
    Similarity: Number = None
    Detail: Anything = None


class Ai(Body):
    """
    Everything that one switch of the console turns on: types come that no page lists.

    Attributes:
        Data: An object, or JSON text.
    """

    Data: Anything = None
    Result: Anything = None
    Output: Anything = None
    JobType: Text = None
    Type: Text = None


class ManualReview(Body):
    """``CreateAuditComplete``. One asset may be reviewed any number of times."""

    SubType: Text = None
    AuditStatus: Text = None
    CreationTime: Text = None
    Auditor: Text = None
    Reason: Text = None
    Comment: Text = None


# Productions and workflows


class SubJob(Declared):
    """One video of a batch: GetBatchMediaProducingJob."""

    JobId: Text = None
    Status: Text = None
    MediaId: Text = None
    MediaURL: Text = None
    ProjectId: Text = None
    ErrorCode: Text = None
    ErrorMessage: Text = None
    Duration: Number = None


class SmartResult(Declared):
    """What a smart job left: GetSmartHandleJob."""

    JobId: Text = None
    Status: Text = None
    State: Text = None
    Code: Text = None
    Message: Text = None
    ErrorCode: Text = None
    ErrorMessage: Text = None
    MediaId: Text = None
    MediaUrl: Text = None
    AiResult: Anything = None
    Usage: Anything = None


class Production(Body):
    """
    An asset was made of others.

    Attributes:
        MediaId: Of the new asset.
        Status: Of a batch Finished, which says nothing about its sub jobs, so they decide.
    """

    ProjectId: Text = None
    MediaURL: Text = None
    VodMediaId: Text = None
    Duration: Number = None
    # IMS alone.
    SubJobList: Many[SubJob] = None
    JobResult: Many[SmartResult] = None
    Output: Anything = None
    JobType: Text = None


class ActivityResult(Declared):
    """
    What one node of a workflow did. Result is an object or JSON text: for some nodes a whole message of this product or
    the other.
    """

    ActivityId: Text = None
    ActivityInstanceId: Text = None
    Status: Text = None
    StartTime: Text = None
    EndTime: Text = None
    Result: Anything = None


class Workflow(Body):
    """``WorkflowTaskComplete``: Succeed even if a node failed (documented sample). ActivityResults is JSON text."""

    WorkflowId: Text = None
    WorkflowName: Text = None
    ActivityResults: Named[ActivityResult] = None
    TaskInput: Anything = None
    ModifiedTime: Text = None


class Unknown(Body):
    """A message of a type that no page lists."""

    ImageId: Text = None
    AttachedMediaId: Text = None
