"""
What ApsaraVideo VOD sends: one flat JSON object a message. IMS sends the same inside an envelope
(``sources.products.ims_messages``), under most of the same names, and whole bodies of VOD have been seen in it. So a
body is declared once for both, with what either says, and read by the same rules wherever it stands.

Members are spelled as in the documents; what comes in another spelling is read all the same
(``sources.reading.members``).

Source: "Event notification", https://help.aliyun.com/en/vod/user-guide/events/, a page an event; IMS: "Event list",
https://help.aliyun.com/en/ims/user-guide/event-list-2, and where that shows no body, the reply of the product's job
API (SDK alibabacloud_ice20201109 6.20.2), whose names IMS uses in the bodies that are documented. *Observed* is what
public receivers logged.
"""

from media_callbacks.sources.reading.members import (
    Anything,
    Declared,
    Flag,
    Integer,
    IntegerText,
    Many,
    Named,
    Number,
    NumberText,
    One,
    Text,
    Texts,
    Verbatim,
)


class Trigger(Declared, total=False):
    """What started a job that nobody submitted (observed in the results of workflows). JSON text."""

    ActivityInstanceId: Text
    BizType: Text
    Name: Text


class Body(Declared, total=False):
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

    EventType: Text
    EventTime: Text
    Status: Text
    State: Text
    JobId: Text
    TaskId: Text
    ParentJobId: Text
    VideoId: Text
    MediaId: Text
    ErrorCode: Text
    ErrorMessage: Text
    Code: Text
    Message: Text
    Extend: Verbatim
    UserData: Verbatim
    AppId: Text
    UserId: Anything
    RequestId: Text
    TriggerSource: One[Trigger]
    CreateTime: Text
    CompleteTime: Text
    FinishTime: Text


# Pictures


class AnimatedImageInfo(Declared, total=False):
    """JSON text in 2021, an object since 2022, a list in the field table. Not there on failure."""

    JobId: Text
    Status: Text
    FileURL: Text
    FileSize: IntegerText
    Fps: NumberText
    Height: IntegerText
    Width: IntegerText
    Format: Text
    Duration: Number
    DynamicImageId: Text
    VideoId: Text
    CreationTime: Text


class DynamicImage(Body, total=False):
    """``DynamicImageComplete``. One of a workflow has neither job id nor details, but TriggerSource (observed)."""

    DynamicImageJobInfo: One[AnimatedImageInfo]
    # IMS: no body is documented; GetDynamicImageJob.
    OutputUrl: Text
    FileURL: Text
    Format: Text
    FileSize: Integer
    Fps: Number
    Height: Integer
    Width: Integer


class SnapshotInfo(Declared, total=False):
    """
    The pictures of one job.

    Attributes:
        SnapshotType: CoverSnapshot, NormalSnapshot, SpriteSnapshot; the API knows SpriteOriginSnapshot, WebVttSnapshot.
        SnapshotFormat: Key of an object, to be joined with one's own domain.
        SnapshotRegular: The whole URL, with {SnapshotCount} for the number of the picture.
    """

    JobId: Text
    Status: Text
    SnapshotType: Text
    SnapshotCount: Integer
    SnapshotFormat: Text
    SnapshotRegular: Text
    ErrorCode: Text
    ErrorMessage: Text


class Snapshot(Body, total=False):
    """
    ``SnapshotComplete``, and ``LiveSnapshotFileCreated`` of IMS.

    Attributes:
        SubType: SpecifiedTime for SubmitSnapshotJob, absent for snapshots at upload.
        SnapshotInfos: Absent on failure.
        Snapshots: URLs of the pictures (observed).
    """

    SubType: Text
    CoverUrl: Text
    SnapshotInfos: Many[SnapshotInfo]
    Snapshots: Texts
    # IMS: no body is documented; GetSnapshotJob.
    Type: Text
    Count: Integer
    OutputUrl: Text
    SnapshotRegular: Text
    SnapshotType: Text
    # Of live snapshots: ListLiveSnapshotFiles.
    FileUrl: Text
    OssBucket: Text
    OssEndpoint: Text
    OssObject: Text
    CreateTimestamp: Text
    IsOverlay: Flag


# Streams


class Stream(Declared, total=False):
    """One output. ``Definition`` is the name of a template, not a resolution."""

    JobId: Text
    Status: Text
    Definition: Text
    Format: Text
    FileUrl: Text
    Width: Integer
    Height: Integer
    Fps: NumberText
    Bitrate: NumberText
    Duration: Number
    Size: Integer
    Encrypt: Flag
    EncryptType: Text
    Codec: Text
    IsAudio: Flag
    WatermarkId: Text
    StartTime: Text
    FinishTime: Text
    ErrorCode: Text
    ErrorMessage: Text


class StreamTranscode(Stream, Body, total=False):
    """``StreamTranscodeComplete``: one output of a task ended."""


class TranscodeOutputFile(Declared, total=False):
    """Where an output is: GetTranscodeJob, GetMediaConvertJob."""

    Type: Text
    Media: Text
    Url: Text
    OutputUrl: Text


class FileInfo(Declared, total=False):
    FileUrl: Text
    FileName: Text
    FileSize: Integer
    FileStatus: Text
    FileType: Text
    FormatName: Text
    Bitrate: Number
    Duration: Number
    Width: Integer
    Height: Integer
    MediaId: Text
    Region: Text


class VideoStreamInfo(Declared, total=False):
    Fps: Number
    Width: Integer
    Height: Integer
    Bitrate: Number
    Duration: Number


class FileMeta(Declared, total=False):
    FileBasicInfo: One[FileInfo]
    VideoStreamInfoList: Many[VideoStreamInfo]
    AudioStreamInfoList: Anything


class ConvertResult(Declared, total=False):
    OutputFile: One[TranscodeOutputFile]
    OutFileMeta: One[FileMeta]


class ConvertOutput(Declared, total=False):
    """One output of a media conversion. Status: Init, Processing, Success, Failed, Skipped."""

    TaskId: Text
    Name: Text
    Status: Text
    State: Text
    Code: Text
    Message: Text
    CreateTime: Text
    FinishTime: Text
    Result: One[ConvertResult]


class ConvertGroup(ConvertOutput, total=False):
    """A group of outputs of a media conversion, with a task of its own."""

    Outputs: Many[ConvertOutput]


class TranscodeJob(Declared, total=False):
    """One sub job of a transcoding of IMS: GetTranscodeJob."""

    JobId: Text
    ParentJobId: Text
    Name: Text
    Status: Text
    Code: Text
    Message: Text
    Output: One[TranscodeOutputFile]
    OutFileMeta: One[FileMeta]
    JobIndex: Integer
    FinishTime: Text


class Transcode(Body, total=False):
    """
    ``TranscodeComplete`` of VOD (a task of many streams) and of IMS (one sub job), ``TranscodeParentComplete``, and
    the three of media conversion.

    Attributes:
        Status: success as soon as one stream succeeded (documented), so the streams decide.
        StreamInfos: Missing when the source is unusable and no stream was begun.
        Preprocess: After SubmitPreprocessJobs.
    """

    StreamInfos: Many[Stream]
    Preprocess: Flag
    # IMS: no body is documented; GetTranscodeJob and GetMediaConvertJob.
    Name: Text
    OutputUrl: Text
    FileUrl: Text
    MediaURL: Text
    Output: One[TranscodeOutputFile]
    OutFileMeta: One[FileMeta]
    Result: One[ConvertResult]
    TranscodeJobList: Many[TranscodeJob]
    OutputDetails: Many[ConvertOutput]
    OutputGroupDetails: Many[ConvertGroup]
    Outputs: Many[ConvertOutput]


# Assets


class Upload(Body, total=False):
    """
    An asset came to be: every event of an upload, a registration or a recording.

    Attributes:
        JobId: Of UploadByURLComplete. That of a recording is the live job's, which sends many files.
        RecordId: What tells the recordings of a live job apart.
    """

    ImageId: Text
    AttachedMediaId: Text
    Size: Integer
    FileUrl: Text
    MediaType: Text
    SourceURL: Text
    FileType: Text
    StreamFileURL: Text
    # Of live recordings: the event page of VOD, and ListLiveRecordFiles.
    StreamName: Text
    DomainName: Text
    AppName: Text
    RecordStartTime: Text
    RecordEndTime: Text
    RecordId: Text
    RecordUrl: Text
    StartTime: Text
    EndTime: Text
    Duration: Number
    Format: Text
    Width: Integer
    Height: Integer
    JobName: Text
    StreamUrl: Text
    RecordOutput: Anything


class ImageUpload(Body, total=False):
    """``ImageUploadComplete`` and ``AttachedMediaUploadComplete``, which spell the URL otherwise."""

    ImageId: Text
    AttachedMediaId: Text
    Size: Integer
    FileURL: Text
    MediaType: Text


class VideoAnalysis(Body, total=False):
    """``VideoAnalysisComplete``. Without measurements on failure; without Height, Width and Fps for audio."""

    Width: IntegerText
    Height: IntegerText
    Fps: NumberText
    Bitrate: NumberText
    Duration: NumberText
    Size: IntegerText


class AssetChange(Body, total=False):
    """
    Something that was done to an asset.

    Attributes:
        DeleteType: all, mezzanine or stream; the latter with JobIds.
        MediaContent: An object whose members are JSON text with OldValue and NewValue.
        SuccessPlayUrls: Comma-separated.
    """

    MediaType: Text
    DeleteType: Text
    JobIds: Verbatim
    OperateMode: Text
    MediaContent: Anything
    Scope: Text
    StorageClass: Text
    TriggerBy: Text
    RestoreExpiration: Text
    MediaRefreshJobId: Text
    TaskType: Text
    TaskIds: Text
    SuccessPlayUrls: Text
    FilterPolicy: Anything


# Reviews and AI


class Match(Declared, total=False):
    PrimaryKey: Text
    Similarity: Number
    Detail: Anything


class Ai(Body, total=False):
    """
    Everything that one switch of the console turns on: types come that no page lists.

    Attributes:
        Data: An object, or JSON text.
    """

    Data: Anything
    Result: Anything
    Output: Anything
    JobType: Text
    Type: Text


class ManualReview(Body, total=False):
    """``CreateAuditComplete``. One asset may be reviewed any number of times."""

    SubType: Text
    AuditStatus: Text
    CreationTime: Text
    Auditor: Text
    Reason: Text
    Comment: Text


# Productions and workflows


class SubJob(Declared, total=False):
    """One video of a batch: GetBatchMediaProducingJob."""

    JobId: Text
    Status: Text
    MediaId: Text
    MediaURL: Text
    ProjectId: Text
    ErrorCode: Text
    ErrorMessage: Text
    Duration: Number


class SmartResult(Declared, total=False):
    """What a smart job left: GetSmartHandleJob."""

    JobId: Text
    Status: Text
    State: Text
    Code: Text
    Message: Text
    ErrorCode: Text
    ErrorMessage: Text
    MediaId: Text
    MediaUrl: Text
    AiResult: Anything
    Usage: Anything


class Production(Body, total=False):
    """
    An asset was made of others.

    Attributes:
        MediaId: Of the new asset.
        Status: Of a batch Finished, which says nothing about its sub jobs, so they decide.
    """

    ProjectId: Text
    MediaURL: Text
    VodMediaId: Text
    Duration: Number
    # IMS alone.
    SubJobList: Many[SubJob]
    JobResult: Many[SmartResult]
    Output: Anything
    JobType: Text


class ActivityResult(Declared, total=False):
    """
    What one node of a workflow did. Result is an object or JSON text: for some nodes a whole message of this product or
    the other.
    """

    ActivityId: Text
    ActivityInstanceId: Text
    Status: Text
    StartTime: Text
    EndTime: Text
    Result: Anything


class Workflow(Body, total=False):
    """``WorkflowTaskComplete``: Succeed even if a node failed (documented sample). ActivityResults is JSON text."""

    WorkflowId: Text
    WorkflowName: Text
    ActivityResults: Named[ActivityResult]
    TaskInput: Anything
    ModifiedTime: Text


class Unknown(Body, total=False):
    """A message of a type that no page lists."""

    ImageId: Text
    AttachedMediaId: Text
