"""What applications import to register jobs: the standard library alone; ``minting`` besides, for URLs of GIF tasks."""

from media_callbacks.client.jobs import ExpectedJobStatus, JobsClient, JobsClientError, JobToExpect

__all__ = ["ExpectedJobStatus", "JobToExpect", "JobsClient", "JobsClientError"]
