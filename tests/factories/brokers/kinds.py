"""Which brokers there are."""

import os
from collections.abc import Mapping

import pytest

from tests.factories.brokers.broker import Broker
from tests.factories.brokers.kafka import KafkaBroker
from tests.factories.brokers.nats import NatsBroker
from tests.factories.brokers.rabbitmq import RabbitMqBroker

BROKERS: Mapping[str, type[Broker]] = {broker.kind: broker for broker in (KafkaBroker, NatsBroker, RabbitMqBroker)}

# Read now: the tests' environment is emptied of our variables.
_REQUIRED = {kind for kind in BROKERS if os.environ.get(f"MEDIA_CALLBACKS_REQUIRE_{kind.upper()}")}


def need_broker(kind: str) -> None:
    """Where it is not installed the test is skipped, and fails where it is required to be, as in CI."""
    if reason := BROKERS[kind].missing():
        if kind in _REQUIRED:
            pytest.fail(f"MEDIA_CALLBACKS_REQUIRE_{kind.upper()} is set and {reason}")
        pytest.skip(reason)
