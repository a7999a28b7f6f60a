"""
What applications import, to register jobs with the standard library alone; ``webhooks`` besides, to verify and read
what they receive, and ``minting``, for URLs of GIF tasks.
"""

from media_callbacks.client.jobs import ExpectedJobStatus, JobsClient, JobsClientError, JobToExpect

__all__ = ["ExpectedJobStatus", "JobToExpect", "JobsClient", "JobsClientError"]
