// Made from schemas/event.1.schema.json by: python -m tests.factories.typescript_events --write

/** What every event has. */
export interface EventAttributes {
  /** Version of CloudEvents. */
  specversion: "1.0";
  /** The same on every retry and replay: an event with an id that you have seen is a repetition. */
  id: string;
  /** /aliyun/<product>/<account>, the account being default where none is configured. */
  source: string;
  /** The job id; where there is none the media id, or the nonce of a minted URL. Absent when unknown. */
  subject?: string;
  /** The vendor's time of the event, else that of its publication, else of its receipt; in UTC. */
  time: string;
  /** Media type of data. */
  datacontenttype: "application/json";
  /** Where the trace of the event begins: the W3C trace context of the span of its receipt, which is sampled. Absent where there is none. */
  traceparent?: string;
}

/** Why the job, or a part of it, failed; else null. */
export interface EventError {
  /** The vendor's error code. */
  code: string | null;
  /** The vendor's text, for people. */
  message: string | null;
  /** Whether the same job may succeed when submitted again; null where the vendor's tables do not say. */
  retryable: boolean | null;
}

/** What every event says. */
export interface EventData {
  /** Who made the message. */
  product: "vod" | "ims" | "mts" | "multimediaai";
  /** The vendor's, trimmed; null where it gives none. */
  job_id: string | null;
  /** The vendor's id of the asset that the job was about. */
  media_id: string | null;
  /** The vendor's own name for the message. */
  vendor_event: string | null;
  /** Why the job, or a part of it, failed; else null. */
  error: EventError | null;
  /** The text given at submit, unchanged. */
  user_data: string | null;
  /** 1 for the first outcome of the job, 2 for a different one accepted later, and so on. */
  revision: number;
  /** The configured source that the completion came through first. */
  source: string;
  /** How it came. */
  transport: "http" | "mns-push" | "mns-queue" | "token-url" | "query";
  /** What proves everything in data that came from outside; query, said by the vendor's job API, is the strongest. */
  verified_by: "none" | "token" | "signature" | "queue" | "query";
  /** What proves kind, outcome and job id alone, in the same words: query once the vendor's job API has confirmed them, whatever proves the rest. */
  outcome_verified_by: "none" | "token" | "signature" | "queue" | "query";
  /** When it was received first, in UTC, to the millisecond. */
  received_at: string;
}

/** The picture. */
export interface AnimatedImageOutput {
  /** The vendor's, unchanged: it may be http, unsigned or short-lived. */
  url: string | null;
  /** Such as gif or webp, else the suffix of the file name. */
  format: string | null;
  /** In pixels. */
  width: number | null;
  /** In pixels. */
  height: number | null;
  /** Frames per second. */
  fps: number | null;
  /** Size of the file. */
  size_bytes: number | null;
}

/** An animated image (GIF, WebP) was made of a video. */
export interface AnimatedImage extends EventData {
  /** What ended, whichever product it came from. */
  kind: "animated_image";
  /** How it ended; unknown is a status that nobody has seen, never a failure. */
  outcome: "succeeded" | "failed" | "partial" | "cancelled" | "unknown";
  /** What the job left behind; empty when it failed. */
  outputs: AnimatedImageOutput[];
}

/** An animated image (GIF, WebP) was made of a video. */
export interface AnimatedImageEvent extends EventAttributes {
  /** media.<kind>.<outcome>, to route and filter by. */
  type: "media.animated_image.succeeded" | "media.animated_image.failed" | "media.animated_image.partial" | "media.animated_image.cancelled" | "media.animated_image.unknown";
  /** Name of this schema. Its number grows with a change that could break a reader. */
  dataschema: "urn:media-callbacks:animated_image:1";
  /** An animated image (GIF, WebP) was made of a video. */
  data: AnimatedImage;
}

/** A series of pictures. */
export interface SnapshotOutput {
  /** As the vendor gave it, with its placeholder for the number of the picture. */
  url_template: string | null;
  /** How many pictures there are. */
  count: number | null;
  /** URLs of the first 200 pictures, in their order. */
  urls: string[];
  /** The vendor's word in lower case, such as cover, normal, sprite or webvtt. */
  snapshot_type: string | null;
  /** Position of each picture in the video in seconds; empty where the vendor does not say it. */
  times_s: number[];
}

/** Pictures were taken from a video. */
export interface Snapshot extends EventData {
  /** What ended, whichever product it came from. */
  kind: "snapshot";
  /** How it ended; unknown is a status that nobody has seen, never a failure. */
  outcome: "succeeded" | "failed" | "partial" | "cancelled" | "unknown";
  /** What the job left behind; empty when it failed. */
  outputs: SnapshotOutput[];
}

/** Pictures were taken from a video. */
export interface SnapshotEvent extends EventAttributes {
  /** media.<kind>.<outcome>, to route and filter by. */
  type: "media.snapshot.succeeded" | "media.snapshot.failed" | "media.snapshot.partial" | "media.snapshot.cancelled" | "media.snapshot.unknown";
  /** Name of this schema. Its number grows with a change that could break a reader. */
  dataschema: "urn:media-callbacks:snapshot:1";
  /** Pictures were taken from a video. */
  data: Snapshot;
}

/** One stream. */
export interface TranscodeOutput {
  /** The job that made this stream. */
  job_id: string | null;
  /** The vendor's, unchanged: it may be http, unsigned or short-lived. */
  url: string | null;
  /** The container, such as mp4 or m3u8. */
  format: string | null;
  /** Label of the template, such as HD or 4K; not a resolution. */
  definition: string | null;
  /** In pixels. */
  width: number | null;
  /** In pixels. */
  height: number | null;
  /** Frames per second. */
  fps: number | null;
  /** In kilobits per second. */
  bitrate_kbps: number | null;
  /** In seconds. */
  duration_s: number | null;
  /** Size of the file. */
  size_bytes: number | null;
  /** Whether a player needs a key. */
  encrypted: boolean | null;
  /** Whether there is no picture. */
  audio_only: boolean | null;
}

/** One output of a transcoding ended. */
export interface Transcode extends EventData {
  /** What ended, whichever product it came from. */
  kind: "transcode";
  /** How it ended; unknown is a status that nobody has seen, never a failure. */
  outcome: "succeeded" | "failed" | "partial" | "cancelled" | "unknown";
  /** What the job left behind; empty when it failed. */
  outputs: TranscodeOutput[];
}

/** One output of a transcoding ended. */
export interface TranscodeEvent extends EventAttributes {
  /** media.<kind>.<outcome>, to route and filter by. */
  type: "media.transcode.succeeded" | "media.transcode.failed" | "media.transcode.partial" | "media.transcode.cancelled" | "media.transcode.unknown";
  /** Name of this schema. Its number grows with a change that could break a reader. */
  dataschema: "urn:media-callbacks:transcode:1";
  /** One output of a transcoding ended. */
  data: Transcode;
}

/** One stream. */
export interface TranscodeTaskOutput {
  /** The job that made this stream. */
  job_id: string | null;
  /** The vendor's, unchanged: it may be http, unsigned or short-lived. */
  url: string | null;
  /** The container, such as mp4 or m3u8. */
  format: string | null;
  /** Label of the template, such as HD or 4K; not a resolution. */
  definition: string | null;
  /** In pixels. */
  width: number | null;
  /** In pixels. */
  height: number | null;
  /** Frames per second. */
  fps: number | null;
  /** In kilobits per second. */
  bitrate_kbps: number | null;
  /** In seconds. */
  duration_s: number | null;
  /** Size of the file. */
  size_bytes: number | null;
  /** Whether a player needs a key. */
  encrypted: boolean | null;
  /** Whether there is no picture. */
  audio_only: boolean | null;
}

/** All outputs of the transcoding of one video ended; partial when some failed. */
export interface TranscodeTask extends EventData {
  /** What ended, whichever product it came from. */
  kind: "transcode_task";
  /** How it ended; unknown is a status that nobody has seen, never a failure. */
  outcome: "succeeded" | "failed" | "partial" | "cancelled" | "unknown";
  /** What the job left behind; empty when it failed. */
  outputs: TranscodeTaskOutput[];
}

/** All outputs of the transcoding of one video ended; partial when some failed. */
export interface TranscodeTaskEvent extends EventAttributes {
  /** media.<kind>.<outcome>, to route and filter by. */
  type: "media.transcode_task.succeeded" | "media.transcode_task.failed" | "media.transcode_task.partial" | "media.transcode_task.cancelled" | "media.transcode_task.unknown";
  /** Name of this schema. Its number grows with a change that could break a reader. */
  dataschema: "urn:media-callbacks:transcode_task:1";
  /** All outputs of the transcoding of one video ended; partial when some failed. */
  data: TranscodeTask;
}

/** What was measured of the media. */
export interface MediaInfoOutput {
  /** In pixels. */
  width: number | null;
  /** In pixels. */
  height: number | null;
  /** Frames per second. */
  fps: number | null;
  /** In kilobits per second. */
  bitrate_kbps: number | null;
  /** In seconds. */
  duration_s: number | null;
  /** Size of the file. */
  size_bytes: number | null;
}

/** A media file was measured. */
export interface MediaInfo extends EventData {
  /** What ended, whichever product it came from. */
  kind: "media_info";
  /** How it ended; unknown is a status that nobody has seen, never a failure. */
  outcome: "succeeded" | "failed" | "partial" | "cancelled" | "unknown";
  /** What the job left behind; empty when it failed. */
  outputs: MediaInfoOutput[];
}

/** A media file was measured. */
export interface MediaInfoEvent extends EventAttributes {
  /** media.<kind>.<outcome>, to route and filter by. */
  type: "media.media_info.succeeded" | "media.media_info.failed" | "media.media_info.partial" | "media.media_info.cancelled" | "media.media_info.unknown";
  /** Name of this schema. Its number grows with a change that could break a reader. */
  dataschema: "urn:media-callbacks:media_info:1";
  /** A media file was measured. */
  data: MediaInfo;
}

/** Template analysis reports its result through the job API alone. */
export interface AnalysisOutput {
}

/** A template analysis ended; its result is only in the vendor's job API. */
export interface Analysis extends EventData {
  /** What ended, whichever product it came from. */
  kind: "analysis";
  /** How it ended; unknown is a status that nobody has seen, never a failure. */
  outcome: "succeeded" | "failed" | "partial" | "cancelled" | "unknown";
  /** What the job left behind; empty when it failed. */
  outputs: AnalysisOutput[];
}

/** A template analysis ended; its result is only in the vendor's job API. */
export interface AnalysisEvent extends EventAttributes {
  /** media.<kind>.<outcome>, to route and filter by. */
  type: "media.analysis.succeeded" | "media.analysis.failed" | "media.analysis.partial" | "media.analysis.cancelled" | "media.analysis.unknown";
  /** Name of this schema. Its number grows with a change that could break a reader. */
  dataschema: "urn:media-callbacks:analysis:1";
  /** A template analysis ended; its result is only in the vendor's job API. */
  data: Analysis;
}

/** One activity of a run. */
export interface WorkflowOutput {
  /** Name of the activity within its workflow. */
  name: string | null;
  /** The vendor's word for what the activity does. */
  type: string | null;
  /** The job that the activity ran. */
  job_id: string | null;
  /** How the activity ended. */
  outcome: "succeeded" | "failed" | "partial" | "cancelled" | "unknown";
  /** What it says of itself, decoded, as the vendor's documents describe it. */
  result: unknown;
}

/** A workflow run ended; partial when one of its activities failed. */
export interface Workflow extends EventData {
  /** What ended, whichever product it came from. */
  kind: "workflow";
  /** How it ended; unknown is a status that nobody has seen, never a failure. */
  outcome: "succeeded" | "failed" | "partial" | "cancelled" | "unknown";
  /** What the job left behind; empty when it failed. */
  outputs: WorkflowOutput[];
}

/** A workflow run ended; partial when one of its activities failed. */
export interface WorkflowEvent extends EventAttributes {
  /** media.<kind>.<outcome>, to route and filter by. */
  type: "media.workflow.succeeded" | "media.workflow.failed" | "media.workflow.partial" | "media.workflow.cancelled" | "media.workflow.unknown";
  /** Name of this schema. Its number grows with a change that could break a reader. */
  dataschema: "urn:media-callbacks:workflow:1";
  /** A workflow run ended; partial when one of its activities failed. */
  data: Workflow;
}

/** What was produced. */
export interface ProductionOutput {
  /** The vendor's, unchanged: it may be http, unsigned or short-lived. */
  url: string | null;
  /** Id of the new asset. */
  media_id: string | null;
  /** The editing project that it was made from. */
  project_id: string | null;
  /** What was run, by the vendor's name, for intelligent productions. */
  function: string | null;
  /** The sub job that made this, for batches. */
  job_id: string | null;
  /** In seconds. */
  duration_s: number | null;
  /** What else was found or made, decoded, as the vendor's documents describe it. */
  result: unknown;
}

/** A new asset was produced from others: edited, generated or spoken. */
export interface Production extends EventData {
  /** What ended, whichever product it came from. */
  kind: "production";
  /** How it ended; unknown is a status that nobody has seen, never a failure. */
  outcome: "succeeded" | "failed" | "partial" | "cancelled" | "unknown";
  /** What the job left behind; empty when it failed. */
  outputs: ProductionOutput[];
}

/** A new asset was produced from others: edited, generated or spoken. */
export interface ProductionEvent extends EventAttributes {
  /** media.<kind>.<outcome>, to route and filter by. */
  type: "media.production.succeeded" | "media.production.failed" | "media.production.partial" | "media.production.cancelled" | "media.production.unknown";
  /** Name of this schema. Its number grows with a change that could break a reader. */
  dataschema: "urn:media-callbacks:production:1";
  /** A new asset was produced from others: edited, generated or spoken. */
  data: Production;
}

/** The verdict. */
export interface ReviewOutput {
  /** What to do with the content: pass, review or block. */
  suggestion: string | null;
  /** What was found, in the vendor's words. */
  label: string | null;
  /** Who judged, for manual reviews. */
  reviewer: string | null;
  /** Why, for manual reviews. */
  reason: string | null;
}

/** A content review ended. The outcome says that the job ran; the verdict is in the outputs. */
export interface Review extends EventData {
  /** What ended, whichever product it came from. */
  kind: "review";
  /** How it ended; unknown is a status that nobody has seen, never a failure. */
  outcome: "succeeded" | "failed" | "partial" | "cancelled" | "unknown";
  /** What the job left behind; empty when it failed. */
  outputs: ReviewOutput[];
}

/** A content review ended. The outcome says that the job ran; the verdict is in the outputs. */
export interface ReviewEvent extends EventAttributes {
  /** media.<kind>.<outcome>, to route and filter by. */
  type: "media.review.succeeded" | "media.review.failed" | "media.review.partial" | "media.review.cancelled" | "media.review.unknown";
  /** Name of this schema. Its number grows with a change that could break a reader. */
  dataschema: "urn:media-callbacks:review:1";
  /** A content review ended. The outcome says that the job ran; the verdict is in the outputs. */
  data: Review;
}

/** One known asset that the examined one resembles. */
export interface FingerprintOutput {
  /** Key of the known asset in the fingerprint library. */
  primary_key: string | null;
  /** Between 0 and 1. */
  similarity: number | null;
}

/** A media file was compared with a fingerprint library. */
export interface Fingerprint extends EventData {
  /** What ended, whichever product it came from. */
  kind: "fingerprint";
  /** How it ended; unknown is a status that nobody has seen, never a failure. */
  outcome: "succeeded" | "failed" | "partial" | "cancelled" | "unknown";
  /** What the job left behind; empty when it failed. */
  outputs: FingerprintOutput[];
}

/** A media file was compared with a fingerprint library. */
export interface FingerprintEvent extends EventAttributes {
  /** media.<kind>.<outcome>, to route and filter by. */
  type: "media.fingerprint.succeeded" | "media.fingerprint.failed" | "media.fingerprint.partial" | "media.fingerprint.cancelled" | "media.fingerprint.unknown";
  /** Name of this schema. Its number grows with a change that could break a reader. */
  dataschema: "urn:media-callbacks:fingerprint:1";
  /** A media file was compared with a fingerprint library. */
  data: Fingerprint;
}

/** What the analysis found. */
export interface AiOutput {
  /** The vendor's result, decoded, as its documents describe it: any JSON. */
  result: unknown;
}

/** An AI analysis, such as tagging, ended. */
export interface Ai extends EventData {
  /** What ended, whichever product it came from. */
  kind: "ai";
  /** How it ended; unknown is a status that nobody has seen, never a failure. */
  outcome: "succeeded" | "failed" | "partial" | "cancelled" | "unknown";
  /** What the job left behind; empty when it failed. */
  outputs: AiOutput[];
}

/** An AI analysis, such as tagging, ended. */
export interface AiEvent extends EventAttributes {
  /** media.<kind>.<outcome>, to route and filter by. */
  type: "media.ai.succeeded" | "media.ai.failed" | "media.ai.partial" | "media.ai.cancelled" | "media.ai.unknown";
  /** Name of this schema. Its number grows with a change that could break a reader. */
  dataschema: "urn:media-callbacks:ai:1";
  /** An AI analysis, such as tagging, ended. */
  data: Ai;
}

/** The new asset. */
export interface UploadOutput {
  /** The vendor's, unchanged: it may be http, unsigned or short-lived. */
  url: string | null;
  /** Size of the file. */
  size_bytes: number | null;
  /** The vendor's word, such as video, audio or image. */
  media_type: string | null;
  /** Where the asset was pulled from, for uploads by URL. */
  source_url: string | null;
  /** The vendor's id of the recording, for live recordings. */
  record_id: string | null;
  /** Where the file begins, for live recordings. */
  record_started_at: string | null;
  /** Where the file ends, for live recordings. */
  record_ended_at: string | null;
  /** In seconds, for live recordings. */
  duration_s: number | null;
}

/** An asset came to be: uploaded, registered, pulled from a URL or recorded. */
export interface Upload extends EventData {
  /** What ended, whichever product it came from. */
  kind: "upload";
  /** How it ended; unknown is a status that nobody has seen, never a failure. */
  outcome: "succeeded" | "failed" | "partial" | "cancelled" | "unknown";
  /** What the job left behind; empty when it failed. */
  outputs: UploadOutput[];
}

/** An asset came to be: uploaded, registered, pulled from a URL or recorded. */
export interface UploadEvent extends EventAttributes {
  /** media.<kind>.<outcome>, to route and filter by. */
  type: "media.upload.succeeded" | "media.upload.failed" | "media.upload.partial" | "media.upload.cancelled" | "media.upload.unknown";
  /** Name of this schema. Its number grows with a change that could break a reader. */
  dataschema: "urn:media-callbacks:upload:1";
  /** An asset came to be: uploaded, registered, pulled from a URL or recorded. */
  data: Upload;
}

/** What changed. */
export interface AssetOutput {
  /** delete, create, update, archive, restore or refresh. */
  operation: string | null;
  /** The vendor's word, such as video, audio or image. */
  media_type: string | null;
  /** How much of the asset is concerned, in the vendor's words. */
  scope: string | null;
  /** The vendor's word, such as Standard, IA or Archive. */
  storage_class: string | null;
  /** When a restored asset is archived again. */
  restored_until: string | null;
  /** URLs that were refreshed. */
  urls: string[];
}

/** An asset changed: deleted, updated, moved to another storage class, restored or refreshed. */
export interface Asset extends EventData {
  /** What ended, whichever product it came from. */
  kind: "asset";
  /** How it ended; unknown is a status that nobody has seen, never a failure. */
  outcome: "succeeded" | "failed" | "partial" | "cancelled" | "unknown";
  /** What the job left behind; empty when it failed. */
  outputs: AssetOutput[];
}

/** An asset changed: deleted, updated, moved to another storage class, restored or refreshed. */
export interface AssetEvent extends EventAttributes {
  /** media.<kind>.<outcome>, to route and filter by. */
  type: "media.asset.succeeded" | "media.asset.failed" | "media.asset.partial" | "media.asset.cancelled" | "media.asset.unknown";
  /** Name of this schema. Its number grows with a change that could break a reader. */
  dataschema: "urn:media-callbacks:asset:1";
  /** An asset changed: deleted, updated, moved to another storage class, restored or refreshed. */
  data: Asset;
}

/** Nothing ended: a start, a progress, or an authentic message of a type that is not known yet. */
export interface Notice extends EventData {
  /** What ended, whichever product it came from. */
  kind: "notice";
  /** How it ended; unknown is a status that nobody has seen, never a failure. */
  outcome: "received";
  /** What the job left behind; empty when it failed. */
  outputs: [];
}

/** Nothing ended: a start, a progress, or an authentic message of a type that is not known yet. */
export interface NoticeEvent extends EventAttributes {
  /** media.<kind>.<outcome>, to route and filter by. */
  type: "media.notice.received";
  /** Name of this schema. Its number grows with a change that could break a reader. */
  dataschema: "urn:media-callbacks:notice:1";
  /** Nothing ended: a start, a progress, or an authentic message of a type that is not known yet. */
  data: Notice;
}

/** A trouble of the service. Every member is always present, null when unknown. */
export interface Operational {
  /** Always operational. */
  kind: "operational";
  /** began, or ended. */
  outcome: "began" | "ended";
  /** What is the matter, in a fixed word. More are added within a version. Now: sink_disabled, sink_failing, deliveries_dead, events_unrouted, jobs_overdue, jobs_unknown, claims_contradicted, content_differing, certificate_changed, journal_filling, journal_set_aside, disk_low, clock_off, store_clock_doubted, store_clock_behind, source_silent. */
  trouble: string;
  /** What it is the matter with: the name of a sink or a source, a product, a host. */
  trouble_subject: string;
  /** 1 for the first event of this trouble, 2 for its end. */
  revision: number;
  /** When it began, in UTC, to the millisecond; the same in both events. */
  since: string;
  /** When it was seen last; null as long as it lasts. */
  ended_at: string | null;
  /** What is the matter, for people. */
  text: string;
  /** What is known of it beyond that, for people; null where there is nothing. */
  detail: string | null;
  /** The heading of docs/runbook.md that says what to do; null without one. */
  runbook: string | null;
  /** The host that has told. */
  instance: string;
}

/** A CloudEvent 1.0 about the service itself. */
export interface OperationalEvent {
  /** Version of CloudEvents. */
  specversion: "1.0";
  /** The same on every retry and replay: an event with an id that you have seen is a repetition. */
  id: string;
  /** /media-callbacks/<what the trouble is with>. */
  source: string;
  /** media.operational.<trouble>.<outcome>, to route and filter by. */
  type: string;
  /** As in data.trouble_subject: what the trouble is with. */
  subject: string;
  /** When it began, or was seen last; in UTC. */
  time: string;
  /** Media type of data. */
  datacontenttype: "application/json";
  /** Name of this schema. Its number grows with a change that could break a reader. */
  dataschema: "urn:media-callbacks:operational:1";
  /** A trouble of the service. Every member is always present, null when unknown. */
  data: Operational;
}

/** What an event says, of whichever kind; `kind` tells which. */
export type Data =
  | AnimatedImage
  | Snapshot
  | Transcode
  | TranscodeTask
  | MediaInfo
  | Analysis
  | Workflow
  | Production
  | Review
  | Fingerprint
  | Ai
  | Upload
  | Asset
  | Notice;

/** An event of any kind; `data.kind` tells which. */
export type MediaEvent =
  | AnimatedImageEvent
  | SnapshotEvent
  | TranscodeEvent
  | TranscodeTaskEvent
  | MediaInfoEvent
  | AnalysisEvent
  | WorkflowEvent
  | ProductionEvent
  | ReviewEvent
  | FingerprintEvent
  | AiEvent
  | UploadEvent
  | AssetEvent
  | NoticeEvent;

/** The schema of each kind, by which events name it in `dataschema`. */
export const SCHEMAS = {
  animated_image: "urn:media-callbacks:animated_image:1",
  snapshot: "urn:media-callbacks:snapshot:1",
  transcode: "urn:media-callbacks:transcode:1",
  transcode_task: "urn:media-callbacks:transcode_task:1",
  media_info: "urn:media-callbacks:media_info:1",
  analysis: "urn:media-callbacks:analysis:1",
  workflow: "urn:media-callbacks:workflow:1",
  production: "urn:media-callbacks:production:1",
  review: "urn:media-callbacks:review:1",
  fingerprint: "urn:media-callbacks:fingerprint:1",
  ai: "urn:media-callbacks:ai:1",
  upload: "urn:media-callbacks:upload:1",
  asset: "urn:media-callbacks:asset:1",
  notice: "urn:media-callbacks:notice:1",
} as const;

/** The schema of operational events. */
export const OPERATIONAL_SCHEMA = "urn:media-callbacks:operational:1";
