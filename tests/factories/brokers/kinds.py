"""Which brokers there are."""

from collections.abc import Mapping

from tests.factories.brokers.broker import Broker
from tests.factories.brokers.nats import NatsBroker

BROKERS: Mapping[str, type[Broker]] = {broker.kind: broker for broker in (NatsBroker,)}
