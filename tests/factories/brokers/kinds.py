"""Which brokers there are."""

from collections.abc import Mapping

from tests.factories.brokers.broker import Broker
from tests.factories.brokers.kafka import KafkaBroker
from tests.factories.brokers.nats import NatsBroker
from tests.factories.brokers.rabbitmq import RabbitMqBroker
from tests.factories.tools import go_without

BROKERS: Mapping[str, type[Broker]] = {broker.kind: broker for broker in (KafkaBroker, NatsBroker, RabbitMqBroker)}


def need_broker(kind: str) -> None:
    """For tests with a broker of this kind: see ``tools``."""
    if reason := BROKERS[kind].missing():
        go_without(f"can't be run: {reason}")
