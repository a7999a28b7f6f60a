"""The vendor's own SDKs, unchanged, against the fake cloud over a real socket."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from alibabacloud_ice20201109 import models as ice
from alibabacloud_ice20201109.client import Client as IceClient
from alibabacloud_mts20140618 import models as mts
from alibabacloud_mts20140618.client import Client as MtsClient
from alibabacloud_multimediaai20190810 import models as multimediaai
from alibabacloud_multimediaai20190810.client import Client as MultimediaAiClient
from alibabacloud_tea_openapi import models as open_api
from alibabacloud_tea_openapi.exceptions import AlibabaCloudException
from alibabacloud_vod20170321 import models as vod
from alibabacloud_vod20170321.client import Client as VodClient

from media_callbacks.rehearsal.fake_cloud.cloud import FakeCloud
from media_callbacks.rehearsal.fake_cloud.faults import Faults, Timing
from media_callbacks.rehearsal.fake_cloud.gateway import AccessKey
from tests.rehearsal.fake_cloud.clouds import GIF, MTS_QUEUE, Clock, make_settings

KEY_ID, SECRET = "fake-id-1", "fake-secret-1"
TEMPORARY_KEY_ID, TOKEN = "STS.fake-id-2", "fake-token-2"
UNKNOWN_JOB = "0" * 32
DURATION_S = 60.0


@pytest.fixture
async def cloud() -> AsyncIterator[FakeCloud]:
    keys = {KEY_ID: AccessKey(SECRET), TEMPORARY_KEY_ID: AccessKey(SECRET, TOKEN)}
    settings = make_settings(mts=MTS_QUEUE, gif=GIF)
    cloud = FakeCloud(settings, access_keys=keys, clock=Clock(), timing=Timing(duration_s=(DURATION_S, DURATION_S)))
    async with cloud.running():
        yield cloud


def connect(kind, cloud, *, key_id=KEY_ID, secret=SECRET, token=None):
    config = open_api.Config(
        access_key_id=key_id,
        access_key_secret=secret,
        security_token=token,
        endpoint=cloud.url.removeprefix("http://"),
        protocol="http",
        region_id="cn-shanghai",
    )
    return kind(config)


# Every product: one call, to be refused in every way.


async def ask_vod(client, job_id=UNKNOWN_JOB):
    return await client.get_job_detail_async(vod.GetJobDetailRequest(job_id=job_id, job_type="snapshot"))


async def ask_ice(client, job_id=UNKNOWN_JOB):
    return await client.get_dynamic_image_job_async(ice.GetDynamicImageJobRequest(job_id=job_id))


async def ask_mts(client, job_id=UNKNOWN_JOB):
    return await client.query_job_list_async(mts.QueryJobListRequest(job_ids=job_id))


async def ask_multimediaai(client, job_id=UNKNOWN_JOB):
    return await client.get_task_status_async(multimediaai.GetTaskStatusRequest(task_id=int(job_id)))


PRODUCTS = [
    pytest.param(VodClient, ask_vod, id="vod"),
    pytest.param(IceClient, ask_ice, id="ice"),
    pytest.param(MtsClient, ask_mts, id="mts"),
    pytest.param(MultimediaAiClient, ask_multimediaai, id="multimediaai"),
]


@pytest.mark.parametrize(("kind", "ask"), PRODUCTS)
@pytest.mark.parametrize(
    ("credentials", "code"),
    [
        ({"secret": "another-secret"}, "SignatureDoesNotMatch"),
        ({"key_id": "nobody"}, "InvalidAccessKeyId.NotFound"),
        ({"key_id": TEMPORARY_KEY_ID}, "MissingSecurityToken"),
        ({"key_id": TEMPORARY_KEY_ID, "token": "expired"}, "InvalidSecurityToken.MismatchWithAccessKey"),
    ],
)
async def test_wrong_credentials_are_refused(cloud, kind, ask, credentials, code):
    with pytest.raises(AlibabaCloudException) as refused:
        await ask(connect(kind, cloud, **credentials))
    assert refused.value.code == code


@pytest.mark.parametrize(("kind", "ask"), PRODUCTS)
@pytest.mark.parametrize(("fault", "code"), [("throttling", "Throttling.User"), ("server_errors", "InternalError")])
async def test_faults_are_what_the_sdk_takes_them_for(cloud, kind, ask, fault, code):
    cloud.faults = replace(cloud.faults, **{fault: 1.0})
    with pytest.raises(AlibabaCloudException) as refused:
        await ask(connect(kind, cloud))
    assert refused.value.code == code


@pytest.mark.parametrize(("kind", "ask"), PRODUCTS)
async def test_a_clock_that_is_wrong(cloud, kind, ask):
    cloud.clock.advance(16 * 60)
    with pytest.raises(AlibabaCloudException) as refused:
        await ask(connect(kind, cloud))
    assert refused.value.code == "InvalidTimeStamp.Expired"


@pytest.mark.parametrize(
    ("kind", "ask", "code"),
    [
        pytest.param(VodClient, ask_vod, "InvalidJob.NotFound", id="vod"),
        pytest.param(IceClient, ask_ice, "ResourceNotFound", id="ice"),
        pytest.param(MultimediaAiClient, ask_multimediaai, "ResourceNotFound", id="multimediaai"),
    ],
)
async def test_a_job_that_does_not_exist(cloud, kind, ask, code):
    with pytest.raises(AlibabaCloudException) as refused:
        await ask(connect(kind, cloud))
    assert refused.value.code == code


async def test_temporary_credentials_are_taken_with_their_token(cloud):
    temporary = {"key_id": TEMPORARY_KEY_ID, "token": TOKEN}
    body = (await ask_mts(connect(MtsClient, cloud, **temporary))).body
    assert body.non_exist_job_ids.string == [UNKNOWN_JOB]
    task = cloud.submit("multimediaai", "animated_image")
    body = (await ask_multimediaai(connect(MultimediaAiClient, cloud, **temporary), task.job_id)).body
    assert body.status == 1


# VOD


async def test_vod_snapshot(cloud):
    client = connect(VodClient, cloud)
    request = vod.SubmitSnapshotJobRequest(video_id="video-1", count=3, user_data='{"Extend":{"order":7}}')
    job_id = (await client.submit_snapshot_job_async(request)).body.snapshot_job.job_id
    detail = (await ask_vod(client, job_id)).body.snapshot_job_detail
    assert (detail.status, detail.complete_time) == ("Processing", None)
    cloud.clock.advance(DURATION_S)
    detail = (await ask_vod(client, job_id)).body.snapshot_job_detail
    assert (detail.job_id, detail.video_id, detail.status) == (job_id, "video-1", "Success")
    assert detail.complete_time is not None
    assert cloud.find(job_id).user_data == '{"order": 7}'


async def test_vod_animated_images_are_listed_when_they_are_there(cloud):
    client = connect(VodClient, cloud)
    request = vod.SubmitDynamicImageJobRequest(video_id="video-1", dynamic_image_template_id="template")
    job_id = (await client.submit_dynamic_image_job_async(request)).body.dynamic_image_job.job_id
    cloud.submit("vod", "animated_image", media_id="video-1", outcome="failed")
    by_video = vod.ListDynamicImageRequest(video_id="video-1")
    assert (await client.list_dynamic_image_async(by_video)).body.dynamic_image_list == []
    cloud.clock.advance(DURATION_S)
    (image,) = (await client.list_dynamic_image_async(by_video)).body.dynamic_image_list
    assert (image.job_id, image.video_id, image.format, image.width) == (job_id, "video-1", "gif", "200")


async def test_vod_transcode_task(cloud):
    client = connect(VodClient, cloud)
    request = vod.SubmitTranscodeJobsRequest(video_id="video-1", template_group_id="group")
    submitted = (await client.submit_transcode_jobs_async(request)).body
    job_ids = [job.job_id for job in submitted.transcode_jobs.transcode_job]
    cloud.clock.advance(DURATION_S)
    by_task = vod.GetTranscodeTaskRequest(transcode_task_id=submitted.transcode_task_id)
    task = (await client.get_transcode_task_async(by_task)).body.transcode_task
    assert (task.task_status, task.video_id) == ("CompleteAllSucc", "video-1")
    assert [job.transcode_job_id for job in task.transcode_job_info_list] == job_ids
    by_jobs = vod.GetTranscodeTaskRequest(job_ids=f"{job_ids[0]},{UNKNOWN_JOB}")
    reply = (await client.get_transcode_task_async(by_jobs)).body
    (job,) = reply.transcode_job_info_list
    assert (job.transcode_job_status, job.output_file.filesize, job.output_file.width) == (
        "TranscodeSuccess",
        1815321,
        "1280",
    )
    assert reply.non_exist_job_ids == [UNKNOWN_JOB]


@pytest.mark.parametrize(
    ("family", "outcome", "detail"),
    [
        ("snapshot", "failed", ("snapshot", "snapshot_job_detail", "Fail")),
        ("transcode", "cancelled", ("transcode", "transcode_job_detail", "TranscodeCancelled")),
        ("transcode", "succeeded", ("transcode", "transcode_job_detail", "TranscodeSuccess")),
        ("AIMediaAuditComplete", "failed", ("ai", "aijob_detail", "fail")),
        ("WorkflowTaskComplete", "failed", ("workflow", "workflow_task_detail", "Failed")),
    ],
)
async def test_vod_job_detail(cloud, family, outcome, detail):
    job_type, member, word = detail
    job = cloud.submit("vod", family, outcome=outcome)
    cloud.clock.advance(DURATION_S)
    request = vod.GetJobDetailRequest(job_id=job.job_id, job_type=job_type)
    body = (await connect(VodClient, cloud).get_job_detail_async(request)).body
    assert (body.job_type, getattr(body, member).status) == (job_type, word)


async def test_vod_snapshots_are_listed_of_the_last_job(cloud):
    client = connect(VodClient, cloud)
    earlier, later = (cloud.submit("vod", "snapshot", media_id="video-1", duration_s=n) for n in (10.0, 20.0))
    request = vod.ListSnapshotsRequest(video_id="video-1", snapshot_type="NormalSnapshot", page_size="2")
    assert (await client.list_snapshots_async(request)).body.media_snapshot is None
    for seconds, job in ((10.0, earlier), (10.0, later)):
        cloud.clock.advance(seconds)
        series = (await client.list_snapshots_async(request)).body.media_snapshot
        assert (series.job_id, series.total) == (job.job_id, 3)
        pictures = series.snapshots.snapshot
        assert [picture.url for picture in pictures] == [
            series.regular.replace("{SnapshotCount}", f"0000{n}") for n in (1, 2)
        ]
    covers = vod.ListSnapshotsRequest(video_id="video-1")
    assert (await client.list_snapshots_async(covers)).body.media_snapshot is None
    with pytest.raises(AlibabaCloudException) as refused:
        await client.list_snapshots_async(vod.ListSnapshotsRequest(video_id="video-2"))
    assert refused.value.code == "InvalidVideo.NotFound"


@pytest.mark.parametrize(("outcome", "status"), [("succeeded", "success"), ("failed", "fail")])
async def test_vod_reviews(cloud, outcome, status):
    client = connect(VodClient, cloud)
    job = cloud.submit("vod", "AIMediaAuditComplete", outcome=outcome)
    request = vod.GetAIMediaAuditJobRequest(job_id=job.job_id)
    assert (await client.get_aimedia_audit_job_async(request)).body.media_audit_job.status == "processing"
    cloud.clock.advance(DURATION_S)
    found = (await client.get_aimedia_audit_job_async(request)).body.media_audit_job
    assert (found.job_id, found.media_id, found.status) == (job.job_id, job.media_id, status)
    by_media = vod.GetMediaAuditResultRequest(media_id=job.media_id)
    last = (await client.get_media_audit_result_async(by_media)).body.media_audit_result
    if outcome == "failed":
        assert (found.data, found.message is not None, last) == (None, True, None)
    else:
        assert (found.data.suggestion, found.data.video_result.porn_result.max_score) == ("review", "92.48")
        assert (last.suggestion, last.label) == ("review", "porn")
    with pytest.raises(AlibabaCloudException) as refused:
        await client.get_aimedia_audit_job_async(vod.GetAIMediaAuditJobRequest(job_id=UNKNOWN_JOB))
    assert refused.value.code == "InvalidJob.NotFound"


async def test_vod_fingerprints_and_tags(cloud):
    client = connect(VodClient, cloud)
    dna, tags = (
        cloud.submit("vod", family, outcome=outcome)
        for family, outcome in (("AIMediaDNAComplete", "succeeded"), ("AIVideoTagComplete", "succeeded"))
    )
    failed = cloud.submit("vod", "AIVideoTagComplete", outcome="failed")
    cloud.clock.advance(DURATION_S)
    request = vod.ListAIJobRequest(job_ids=f"{dna.job_id},{tags.job_id},{failed.job_id},{UNKNOWN_JOB}")
    body = (await client.list_aijob_async(request)).body
    jobs = {job.job_id: job for job in body.aijob_list.aijob}
    assert {(job.type, job.status) for job in jobs.values()} == {
        ("AIMediaDNA", "success"),
        ("AIVideoTag", "success"),
        ("AIVideoTag", "fail"),
    }
    assert (jobs[failed.job_id].code, jobs[failed.job_id].data) == ("InvalidVideo.NotFound", None)
    assert body.non_exist_aijob_ids.string == [UNKNOWN_JOB]
    by_media = vod.GetMediaDNAResultRequest(media_id=dna.media_id)
    (match,) = (await client.get_media_dnaresult_async(by_media)).body.dnaresult.video_dna
    assert json.loads(jobs[dna.job_id].data)["VideoDNA"][0]["PrimaryKey"] == match.primary_key
    by_media = vod.GetAIVideoTagResultRequest(media_id=tags.media_id)
    (keyword,) = (await client.get_aivideo_tag_result_async(by_media)).body.video_tag_result.keyword
    assert (keyword.tag, keyword.times) == ("气垫", ["3260", "4000"])


async def test_vod_uploads_by_url(cloud):
    client = connect(VodClient, cloud)
    done = cloud.submit("vod", "UploadByURLComplete", user_data="order 7")
    failed = cloud.submit("vod", "UploadByURLComplete", outcome="failed")
    ids = f"{done.job_id},{failed.job_id},{UNKNOWN_JOB}"
    request = vod.GetURLUploadInfosRequest(job_ids=ids)
    body = (await client.get_urlupload_infos_async(request)).body
    assert [one.status for one in body.urlupload_info_list] == ["PROCESSING", "PROCESSING"]
    cloud.clock.advance(DURATION_S)
    body = (await client.get_urlupload_infos_async(request)).body
    one, other = body.urlupload_info_list
    assert (one.status, one.media_id, one.file_size, json.loads(one.user_data)) == (
        "SUCCESS",
        done.media_id,
        "1439213",
        {"Extend": "order 7"},
    )
    assert (other.status, other.error_code, other.media_id) == ("FAIL", "URLInvalidError", None)
    assert body.non_exists == [UNKNOWN_JOB]


async def test_vod_files(cloud):
    client = connect(VodClient, cloud)
    upload = cloud.submit("vod", "FileUploadComplete", media_id="video-1")
    cloud.submit("vod", "FileUploadComplete", media_id="video-2", outcome="failed")
    cloud.submit("vod", "VideoAnalysisComplete", media_id="video-1")
    request = vod.GetMezzanineInfoRequest(video_id="video-1", output_type="oss")
    assert (await client.get_mezzanine_info_async(request)).body.mezzanine.status == "Uploading"
    cloud.clock.advance(DURATION_S)
    file = (await client.get_mezzanine_info_async(request)).body.mezzanine
    assert (file.video_id, file.status, file.width, file.duration) == ("video-1", "Normal", 630, "12")
    assert file.file_url.partition("?")[0].endswith(f"{upload.job_id}.mp4")
    request = vod.GetMezzanineInfoRequest(video_id="video-2")
    assert (await client.get_mezzanine_info_async(request)).body.mezzanine.status == "UploadFail"
    with pytest.raises(AlibabaCloudException) as refused:
        await client.get_mezzanine_info_async(vod.GetMezzanineInfoRequest(video_id="video-3"))
    assert refused.value.code == "InvalidVideo.NotFound"


# ICE


async def test_ice_animated_image(cloud):
    client = connect(IceClient, cloud)
    request = ice.SubmitDynamicImageJobRequest(
        input=ice.SubmitDynamicImageJobRequestInput(type="Media", media="media-1"),
        output=ice.SubmitDynamicImageJobRequestOutput(type="OSS", media="oss://bucket/out.gif"),
        template_config=ice.SubmitDynamicImageJobRequestTemplateConfig(template_id="template"),
        user_data='{"order":7}',
    )
    job_id = (await client.submit_dynamic_image_job_async(request)).body.job_id
    assert (await ask_ice(client, job_id)).body.dynamic_image_job.status == "Init"
    cloud.clock.advance(DURATION_S)
    job = (await ask_ice(client, job_id)).body.dynamic_image_job
    assert (job.job_id.strip(), job.status, job.user_data) == (job_id, "Success", '{"order":7}')
    assert (job.input.media, json.loads(job.template_config)["Format"]) == ("media-1", "gif")
    assert job.output_url.endswith(".gif")


async def test_ice_snapshot(cloud):
    client = connect(IceClient, cloud)
    request = ice.SubmitSnapshotJobRequest(
        input=ice.SubmitSnapshotJobRequestInput(type="Media", media="media-1"),
        output=ice.SubmitSnapshotJobRequestOutput(type="OSS", media="oss://bucket/{Count}.jpg"),
    )
    job_id = (await client.submit_snapshot_job_async(request)).body.job_id
    urls = ice.GetSnapshotUrlsRequest(job_id=job_id)
    assert (await client.get_snapshot_urls_async(urls)).body.total == 0
    cloud.clock.advance(DURATION_S)
    job = (await client.get_snapshot_job_async(ice.GetSnapshotJobRequest(job_id=job_id))).body.snapshot_job
    assert (job.status, job.count, job.async_) == ("Success", 3, True)
    assert len((await client.get_snapshot_urls_async(urls)).body.snapshot_urls) == 3


@pytest.mark.parametrize(("outcome", "words"), [("succeeded", ("Success",) * 2), ("failed", ("Fail",) * 2)])
async def test_ice_transcode(cloud, outcome, words):
    job = cloud.submit("ims", "TranscodeParentComplete", outcome=outcome)
    cloud.clock.advance(DURATION_S)
    request = ice.GetTranscodeJobRequest(parent_job_id=job.job_id)
    parent = (await connect(IceClient, cloud).get_transcode_job_async(request)).body.transcode_parent_job
    (sub,) = parent.transcode_job_list
    assert (parent.status, sub.status) == words
    assert (sub.parent_job_id, sub.out_file_meta is not None) == (job.job_id, outcome == "succeeded")


@pytest.mark.parametrize(
    ("outcome", "convert", "produce", "workflow"),
    [("succeeded", "Complete", "Success", "Succeed"), ("failed", "Error", "Failed", "Failed")],
)
async def test_ice_other_jobs(cloud, outcome, convert, produce, workflow):
    client = connect(IceClient, cloud)
    ids = [
        cloud.submit("ims", family, outcome=outcome).job_id
        for family in ("MediaConvertComplete", "ProduceMediaComplete", "WorkflowTaskComplete")
    ]
    cloud.clock.advance(DURATION_S)
    convert_job = (await client.get_media_convert_job_async(ice.GetMediaConvertJobRequest(job_id=ids[0]))).body.job
    assert (convert_job.state, bool(convert_job.output_details)) == (convert, outcome == "succeeded")
    produce_request = ice.GetMediaProducingJobRequest(job_id=ids[1])
    production = (await client.get_media_producing_job_async(produce_request)).body.media_producing_job
    assert (production.status, bool(production.media_url)) == (produce, outcome == "succeeded")
    batch = cloud.submit("ims", "BatchProduceMediaComplete", outcome=outcome, duration_s=0.0).job_id
    batch_request = ice.GetBatchMediaProducingJobRequest(job_id=batch)
    batch_job = (await client.get_batch_media_producing_job_async(batch_request)).body.editing_batch_job
    assert (batch_job.status == "Finished", bool(batch_job.sub_job_list[0].media_url)) == (outcome == "succeeded",) * 2
    task_request = ice.GetWorkflowTaskRequest(task_id=ids[2])
    task = (await client.get_workflow_task_async(task_request)).body.workflow_task
    assert (task.status, task.task_id) == (workflow, ids[2])


@pytest.mark.parametrize(("outcome", "state"), [("succeeded", "Finished"), ("failed", "Failed")])
async def test_ice_smart_job(cloud, outcome, state):
    client = connect(IceClient, cloud)
    job = cloud.submit("ims", "SmartJobComplete", outcome=outcome)
    request = ice.GetSmartHandleJobRequest(job_id=job.job_id)
    assert (await client.get_smart_handle_job_async(request)).body.state == "Executing"
    cloud.clock.advance(DURATION_S)
    body = (await client.get_smart_handle_job_async(request)).body
    assert (body.job_id, body.state, body.error_code is None) == (job.job_id, state, outcome == "succeeded")
    assert (body.job_result.media_id if body.job_result else None) == (job.media_id if outcome == "succeeded" else None)


@pytest.mark.parametrize(("outcome", "word"), [("succeeded", "Success"), ("failed", "Fail")])
async def test_ice_ai_jobs(cloud, outcome, word):
    client = connect(IceClient, cloud)
    families = ("AIMediaAuditComplete", "AIVideoTagComplete", "AIMediaDNAComplete", "AIProduceComplete")
    ids = {family: cloud.submit("ims", family, outcome=outcome).job_id for family in families}
    cloud.clock.advance(DURATION_S)
    censor = ice.QueryMediaCensorJobDetailRequest(job_id=ids["AIMediaAuditComplete"])
    review = (await client.query_media_censor_job_detail_async(censor)).body.media_censor_job_detail
    tag_request = ice.QuerySmarttagJobRequest(job_id=ids["AIVideoTagComplete"])
    tags = (await client.query_smarttag_job_async(tag_request)).body
    (dna,) = (await client.query_dnajob_list_async(ice.QueryDNAJobListRequest(ids["AIMediaDNAComplete"]))).body.job_list
    production_request = ice.QueryIProductionJobRequest(job_id=ids["AIProduceComplete"])
    production = (await client.query_iproduction_job_async(production_request)).body
    assert [review.state, tags.job_status, dna.status, production.status] == [word] * 4
    found = (review.suggestion, tags.results and tags.results.result[0].type, dna.dnaresult is not None)
    made = production.output_urls and len(production.output_urls)
    assert (*found, made) == (("review", "Meta", True, 1) if outcome == "succeeded" else (None, None, False, None))


# MTS


async def test_mts_snapshot(cloud):
    client = connect(MtsClient, cloud)
    request = mts.SubmitSnapshotJobRequest(
        input='{"Bucket":"bucket","Location":"oss-cn-hangzhou","Object":"in.mp4"}',
        snapshot_config='{"Num":"2"}',
        pipeline_id="pipeline",
        user_data="order 7",
    )
    job_id = (await client.submit_snapshot_job_async(request)).body.snapshot_job.id
    cloud.clock.advance(DURATION_S)
    request = mts.QuerySnapshotJobListRequest(snapshot_job_ids=f"{job_id},{UNKNOWN_JOB}")
    body = (await client.query_snapshot_job_list_async(request)).body
    (job,) = body.snapshot_job_list.snapshot_job
    assert (job.id, job.state, job.count, job.user_data) == (job_id, "Success", "2", "order 7")
    assert job.mnsmessage_result.message_id
    assert body.non_exist_snapshot_job_ids.string == [UNKNOWN_JOB]


async def test_mts_transcode(cloud):
    client = connect(MtsClient, cloud)
    request = mts.SubmitJobsRequest(
        input='{"Bucket":"bucket","Location":"oss-cn-hangzhou","Object":"in.mp4"}',
        outputs='[{"OutputObject":"1.mp4","UserData":"one"},{"OutputObject":"2.mp4"}]',
        output_bucket="bucket",
        pipeline_id="pipeline",
    )
    results = (await client.submit_jobs_async(request)).body.job_result_list.job_result
    assert [(result.success, result.job.state) for result in results] == [(True, "Submitted")] * 2
    cloud.clock.advance(DURATION_S)
    job_ids = ",".join([*(result.job.job_id for result in results), UNKNOWN_JOB])
    body = (await ask_mts(client, job_ids)).body
    assert [(job.state, job.output.user_data) for job in body.job_list.job] == [
        ("TranscodeSuccess", "one"),
        ("TranscodeSuccess", None),
    ]
    assert body.job_list.job[0].output.properties.width == "1280"
    assert body.non_exist_job_ids.string == [UNKNOWN_JOB]


async def test_mts_media_info_and_analysis(cloud):
    client = connect(MtsClient, cloud)
    media_info, analysis = cloud.submit("mts", "mediainfo"), cloud.submit("mts", "analysis", outcome="failed")
    cloud.clock.advance(DURATION_S)
    request = mts.QueryMediaInfoJobListRequest(media_info_job_ids=media_info.job_id)
    (job,) = (await client.query_media_info_job_list_async(request)).body.media_info_job_list.media_info_job
    assert (job.job_id, job.state, job.properties.fps) == (media_info.job_id, "Success", "30")
    request = mts.QueryAnalysisJobListRequest(analysis_job_ids=f"{analysis.job_id},{UNKNOWN_JOB}")
    body = (await client.query_analysis_job_list_async(request)).body
    (job,) = body.analysis_job_list.analysis_job
    assert (job.id, job.state, job.code) == (analysis.job_id, "Fail", "InvalidParameter.ResourceContentBad")
    assert body.non_exist_analysis_job_ids.string == [UNKNOWN_JOB]


@pytest.mark.parametrize(
    ("outcome", "words"),
    [("succeeded", ("Completed", "Success")), ("partial", ("Completed", "Fail")), ("failed", ("Fail", "Fail"))],
)
async def test_mts_run(cloud, outcome, words):
    client = connect(MtsClient, cloud)
    run = cloud.submit("mts", "run", outcome=outcome, media_id="media-1")
    request = mts.QueryMediaWorkflowExecutionListRequest(run_ids=f"{run.job_id},{UNKNOWN_JOB}")
    body = (await client.query_media_workflow_execution_list_async(request)).body
    assert body.media_workflow_execution_list.media_workflow_execution[0].state == "Running"
    cloud.clock.advance(DURATION_S)
    body = (await client.query_media_workflow_execution_list_async(request)).body
    (execution,) = body.media_workflow_execution_list.media_workflow_execution
    activities = {activity.type: activity for activity in execution.activity_list.activity}
    assert (execution.state, activities["Transcode"].state) == words
    assert (execution.media_id, activities["Report"].mnsmessage_result.message_id is not None) == ("media-1", True)
    assert body.non_exist_run_ids.run_id == [UNKNOWN_JOB]


async def test_mts_younger_families(cloud):
    client = connect(MtsClient, cloud)
    ids = {name: cloud.submit("mts", name).job_id for name in ("fpshot", "iproduction", "smarttag", "mediacensor")}
    cloud.clock.advance(DURATION_S)
    request = mts.QueryFpShotJobListRequest(job_ids=f"{ids['fpshot']},{UNKNOWN_JOB}")
    body = (await client.query_fp_shot_job_list_async(request)).body
    (job,) = body.fp_shot_job_list.fp_shot_job
    assert (job.id, job.state, job.fp_shot_result.fp_shots.fp_shot[0].primary_key) == (
        ids["fpshot"],
        "Success",
        "known-1",
    )
    assert body.non_exist_ids.string == [UNKNOWN_JOB]
    production = (await client.query_iproduction_job_async(mts.QueryIProductionJobRequest(ids["iproduction"]))).body
    assert (production.job_id, production.state) == (ids["iproduction"], "Success")
    tags = (await client.query_smarttag_job_async(mts.QuerySmarttagJobRequest(ids["smarttag"]))).body
    assert (tags.job_status, tags.results.result[0].type) == ("Success", "Meta")
    request = mts.QueryMediaCensorJobDetailRequest(ids["mediacensor"])
    review = (await client.query_media_censor_job_detail_async(request)).body.media_censor_job_detail
    assert (review.job_id, review.state, review.suggestion) == (ids["mediacensor"], "Success", "review")


# Multimedia AI


@pytest.mark.parametrize(("failures", "status"), [(0.0, 2), (1.0, 3)])
async def test_gif_task(cloud, failures, status):
    cloud.faults = Faults(failures=failures)
    client = connect(MultimediaAiClient, cloud)
    request = multimediaai.CreateGifTaskRequest(
        application_id="application-7",
        callback_url="https://elsewhere.example.com/",
        template_id=1,
        video_name="in.mp4#nonce",
        video_url="https://media.example.com/in.mp4?a=b&c=d",
    )
    task_id = (await client.create_gif_task_async(request)).body.task_id
    assert (await ask_multimediaai(client, task_id)).body.status == 1
    cloud.clock.advance(DURATION_S)
    reply = (await client.get_task_result_async(multimediaai.GetTaskResultRequest(task_id=task_id))).body
    assert (reply.status, reply.result.application_id) == (status, "application-7")
    assert (reply.result.video_name, reply.result.video_url) == (request.video_name, request.video_url)
    assert (reply.result.process_result_url is None, reply.result.error_code) == (
        (False, None) if status == 2 else (True, "1000")
    )
