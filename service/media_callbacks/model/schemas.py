"""
What consumers can rely on, as documents: a JSON Schema for each kind of event, one for all of them, and one AsyncAPI
document for all sinks.

All are made from the models in ``events``, whose docstrings and descriptions are their texts. The schemas are
open: a consumer that validates with them accepts members that are added later. ``schema_changes`` says which
changes are not of that sort.

The schemas hold no references and only keywords that mean the same in draft 2020-12 and in draft 7, so that they can be
AsyncAPI Schema Objects, which are draft 7, as they are.

Source: "JSON Schema 2020-12", https://json-schema.org/draft/2020-12; "AsyncAPI 3.0.0",
https://www.asyncapi.com/docs/reference/specification/v3.0.0; its HTTP, SQS, Kafka, NATS and AMQP bindings,
https://github.com/asyncapi/bindings; "CloudEvents 1.0.2", https://github.com/cloudevents/spec, "JSON Event Format".
"""

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from media_callbacks.model.events import (
    CONTENT_TYPE,
    DATA_MODELS,
    SCHEMA_VERSION,
    TRACEPARENT_PATTERN,
    Event,
    EventData,
)
from media_callbacks.model.kinds import KINDS, OPERATIONAL, OUTCOMES, AnyKind, Kind, Outcome
from media_callbacks.model.operational import OperationalData, OperationalEvent

Json = dict[str, Any]

ASYNCAPI_FILE = "asyncapi.json"

# Of all kinds together: what no kind is called.
EVENT: Literal["event"] = "event"

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schema_urn(name: AnyKind | Literal["event"]) -> str:
    """The ``$id`` of this schema; of a kind's, also the ``dataschema`` of its events."""
    return f"urn:media-callbacks:{name}:{SCHEMA_VERSION}"


def schema_file(name: AnyKind | Literal["event"]) -> str:
    return f"{name}.{SCHEMA_VERSION}.schema.json"


def event_schema() -> Json:
    """The JSON Schema of an event of any kind: that of its kind, which ``data.kind`` tells."""
    return {
        "$schema": _DRAFT,
        "$id": schema_urn(EVENT),
        "title": f"media.*, version {SCHEMA_VERSION}",
        "description": "An event of any kind; data.kind tells which. Expect others than these: within a version kinds"
        " are added, as members are.",
        "oneOf": [_schema_object(kind) for kind in KINDS],
    }


def allowed_outcomes(kind: Kind) -> tuple[Outcome, ...]:
    """A notice was received and nothing else; nothing else was only received."""
    return tuple(outcome for outcome in OUTCOMES if (outcome == "received") == (kind == "notice"))


def kind_schema(kind: Kind) -> Json:
    """The JSON Schema, draft 2020-12, of a whole structured CloudEvent of this kind."""
    model = DATA_MODELS[kind]
    definitions = _definitions((Event, *DATA_MODELS.values()))
    context = _flatten(definitions[Event.__name__], definitions)["properties"]
    # In JSON a context attribute without a value is absent, not null.
    for name in _OPTIONAL:
        context[name]["type"] = "string"
    context["type"]["enum"] = [f"media.{kind}.{outcome}" for outcome in allowed_outcomes(kind)]
    context["dataschema"]["const"] = schema_urn(kind)
    context["data"] = data = _flatten(definitions[model.__name__], definitions)
    for name, member in data["properties"].items():
        member.setdefault("description", EventData.model_fields[name].description)
    _restrict_outcomes(data["properties"], kind)
    return {
        "$schema": _DRAFT,
        "$id": schema_urn(kind),
        "title": f"media.{kind}, version {SCHEMA_VERSION}",
        "description": inspect.getdoc(model),
        "type": "object",
        "required": [name for name in context if name not in _OPTIONAL],
        "properties": context,
    }


def operational_schema() -> Json:
    """The JSON Schema of an operational event, which is of no kind that tells of jobs."""
    definitions = _definitions((OperationalEvent,))
    event = _flatten(definitions[OperationalEvent.__name__], definitions)
    context = event["properties"]
    context["dataschema"]["const"] = schema_urn(OPERATIONAL)
    return {
        "$schema": _DRAFT,
        "$id": schema_urn(OPERATIONAL),
        "title": f"media.{OPERATIONAL}, version {SCHEMA_VERSION}",
        "description": event["description"],
        "type": "object",
        "required": event["required"],
        "properties": context,
    }


def asyncapi_document() -> Json:
    """One AsyncAPI 3.0 document: what each kind of sink sends, and how."""
    return {
        "asyncapi": "3.0.0",
        "id": "urn:media-callbacks",
        "info": {
            "title": "media-callbacks",
            "version": f"{SCHEMA_VERSION}.0.0",
            "description": "Every media job submitted to Alibaba Cloud ends in exactly one typed, verified event."
            " Events of the kind `operational` tell of troubles of the service itself, and are sent to sinks that ask"
            " for them alone."
            " Events are CloudEvents 1.0 in structured JSON, sent at least once to every sink that matches: the same"
            " `id` is the same event. New members may be added to events; nothing else changes within a version.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {name: _channel(channel) for name, channel in _CHANNELS.items()},
        "operations": {f"send_{name}": _operation(name, channel) for name, channel in _CHANNELS.items()},
        "components": {
            "schemas": {kind: _schema_object(kind) for kind in _SENT},
            "messages": {_message_name(sink, kind): _message(sink, kind) for sink in _SINK_TITLES for kind in _SENT},
            "messageTraits": _MESSAGE_TRAITS,
        },
    }


# JSON Schema


@cache
def _definitions(models: tuple[type[BaseModel], ...]) -> Mapping[str, Json]:
    # All together, once: this takes far longer than the rest. `_flatten` leaves them as they are.
    definitions: dict[str, Json] = models_json_schema([(model, "validation") for model in models])[1]["$defs"]
    return definitions


def _flatten(schema: Json, definitions: Mapping[str, Json]) -> Json:
    """
    A schema as pydantic makes it, without references, titles and defaults, and with every member required, because
    events are always written in full.
    """
    flat = {key: value for key, value in schema.items() if key not in _DROPPED}
    if "$ref" in schema:
        flat = _flatten(definitions[schema["$ref"].rpartition("/")[2]], definitions) | flat
    if "anyOf" in schema:
        # What may be one of two things in an event is something or null.
        value, null = (_flatten(choice, definitions) for choice in schema["anyOf"])
        assert null == {"type": "null"}, schema
        assert "enum" not in value, schema
        flat = value | {"type": [value["type"], "null"]} | flat
    if "properties" in schema:
        flat["required"] = list(schema["properties"])
        flat["properties"] = {name: _flatten(member, definitions) for name, member in schema["properties"].items()}
    if "items" in schema:
        flat["items"] = _flatten(schema["items"], definitions)
    return {key: flat[key] for key in sorted(flat, key=_ORDER.index)}


_OPTIONAL = ("subject", "traceparent")
# References are followed, and data, which is one of many models, is put in by kind.
_DROPPED = frozenset({"$defs", "$ref", "anyOf", "oneOf", "discriminator", "title", "default", "minItems"})
# As people read them. A keyword that is not here is an error: see the module's docstring.
_ORDER = (
    "description", "type", "const", "enum", "format", "pattern", "minimum", "maxItems", "required", "properties",
    "items",
)  # fmt: skip


def _restrict_outcomes(properties: Json, kind: Kind) -> None:
    """The outcome of the event, and of its outputs where these have one."""
    properties["outcome"]["enum"] = list(allowed_outcomes(kind))
    output = properties["outputs"].get("items", {}).get("properties", {})
    if "outcome" in output:
        output["outcome"]["enum"] = list(allowed_outcomes(kind))


# AsyncAPI

_SENT: tuple[AnyKind, ...] = (*KINDS, OPERATIONAL)
_SINK_TITLES = {
    "webhook": "webhook",
    "sqs": "SQS message",
    "sns": "SNS message",
    "eventbridge": "EventBridge event",
    "kinesis": "Kinesis record",
    "mns-queue": "MNS message",
    "mns-topic": "MNS message of a topic",
    "aliyun-eventbridge": "EventBridge event of Alibaba Cloud",
    "kafka": "Kafka message",
    "nats": "NATS message",
    "rabbitmq": "RabbitMQ message",
    "stdout": "line",
}
_GROUP = (
    "MessageGroupId is the `subject`, or its SHA-256 in lower-case hex where it is not 1 to 128 printable ASCII"
    " characters without blanks, or the `id` where there is no subject: the events of one job stay in order."
    " MessageDeduplicationId is the `id`; a replay appends `:replay-<n>`."
)

_CHANNELS: Mapping[str, Json] = {
    "webhook": {
        "sink": "webhook",
        "title": "Webhook",
        "description": "The `url` of a sink of kind `webhook`.",
        "operation": "One POST for each event, signed as [Standard Webhooks](https://www.standardwebhooks.com) says."
        " Any 2xx is a delivery; redirects are not followed; everything else is tried again, after `Retry-After` where"
        " a 429 or 503 has it.",
        "operation_bindings": {"http": {"method": "POST", "bindingVersion": "0.3.0"}},
    },
    "sqs": {
        "sink": "sqs",
        "title": "SQS, standard queue",
        "description": "The `queue_url` of a sink of kind `sqs`. The name of the queue is an example.",
        "operation": "One message for each event. The queue may deliver it again and out of order: compare `id` and"
        " `data.revision`.",
        "bindings": {"sqs": {"queue": {"name": "media", "fifoQueue": False}, "bindingVersion": "0.2.0"}},
    },
    "sqs_fifo": {
        "sink": "sqs",
        "title": "SQS, FIFO queue",
        "description": "The `queue_url` of a sink of kind `sqs`, where it ends in `.fifo`. The name of the queue is an"
        " example.",
        "operation": f"One message for each event. {_GROUP}",
        "bindings": {"sqs": {"queue": {"name": "media.fifo", "fifoQueue": True}, "bindingVersion": "0.2.0"}},
    },
    "sns": {
        "sink": "sns",
        "title": "SNS, standard topic",
        "description": "The `topic_arn` of a sink of kind `sns`.",
        "operation": "One message for each event, for whoever subscribes; subscriptions may filter by its attributes."
        " Subscribers may get it again and out of order: compare `id` and `data.revision`.",
    },
    "sns_fifo": {
        "sink": "sns",
        "title": "SNS, FIFO topic",
        "description": "The `topic_arn` of a sink of kind `sns`, where it ends in `.fifo`.",
        "operation": f"One message for each event. {_GROUP}",
    },
    "eventbridge": {
        "sink": "eventbridge",
        "title": "EventBridge",
        "description": "The `event_bus_name` of a sink of kind `eventbridge`.",
        "operation": "One event for each: `source` is `media-callbacks`, `detail-type` the `type`, and `detail` the"
        " CloudEvent itself. The bus may deliver it again and out of order: compare `id` and `data.revision`.",
    },
    "kinesis": {
        "sink": "kinesis",
        "title": "Kinesis",
        "description": "The `stream_name` of a sink of kind `kinesis`.",
        "operation": "One record for each event; its partition key is the `subject`, or its SHA-256 in lower-case hex"
        " where it is longer than 256 characters, or the `id` where there is no subject. A record may come again:"
        " compare `id`.",
    },
    "mns-queue": {
        "sink": "mns-queue",
        "title": "Simple Message Queue (formerly MNS), queue",
        "description": "The `queue` of a sink of kind `mns-queue`, at its `endpoint`.",
        "operation": "One message for each event; its body is the CloudEvent in Base64. The queue may deliver it again"
        " and out of order: compare `id` and `data.revision`.",
    },
    "mns-topic": {
        "sink": "mns-topic",
        "title": "Simple Message Queue (formerly MNS), topic",
        "description": "The `topic` of a sink of kind `mns-topic`, at its `endpoint`.",
        "operation": "One message for each event; what is published is the CloudEvent in Base64. Its tag is"
        " `data.kind`, which a subscription's FilterTag may ask for. What a subscriber gets is that text as it is"
        " (NotifyContentFormat SIMPLIFIED), or as `Message` in an envelope of JSON or XML. It may come again and out of"
        " order: compare `id` and `data.revision`.",
    },
    "aliyun-eventbridge": {
        "sink": "aliyun-eventbridge",
        "title": "EventBridge of Alibaba Cloud",
        "description": "The `event_bus` of a sink of kind `aliyun-eventbridge`, at its `endpoint`.",
        "operation": "One event for each: the CloudEvent itself, with the name of the bus as `aliyuneventbusname`;"
        " EventBridge adds extensions of its own, which begin with `aliyun`. The bus may deliver it again and out of"
        " order: compare `id` and `data.revision`.",
    },
    "kafka": {
        "sink": "kafka",
        "title": "Kafka",
        "description": "The `topic` of a sink of kind `kafka`.",
        "operation": "One message for each event, whose key is the `subject`, or the `id` where there is no subject."
        " With `content_mode` `structured` the value is the CloudEvent; with `binary` it is its `data`, and the other"
        " attributes are headers with the prefix `ce_`. The events of one job are written in order, as far as they go"
        " to one topic. A message may come again: compare `id`.",
        "bindings": {"kafka": {"bindingVersion": "0.5.0"}},
    },
    "nats": {
        "sink": "nats",
        "title": "NATS JetStream",
        "description": "The `subject` of a sink of kind `nats`, by default `media.<product>.<kind>.<outcome>`.",
        "operation": "One message of JetStream for each event, the CloudEvent in structured mode. A stream knows"
        " repetitions by `Nats-Msg-Id` for as long as its `duplicate_window`; later ones are known by `id`. The events"
        " of one job are stored in order.",
        "operation_bindings": {"nats": {"bindingVersion": "0.1.0"}},
    },
    "rabbitmq": {
        "sink": "rabbitmq",
        "title": "RabbitMQ",
        "description": "The `exchange` and the `routing_key` of a sink of kind `rabbitmq`, the latter by default the"
        " `type` of the event. The name of the exchange is an example.",
        "operation": "One message for each event, the CloudEvent in structured mode. It is sent again until all queues"
        " that are bound for its routing key have it, and one at least is: a message may come again, compare"
        " `message_id`, which is the `id`. A queue gets the events of one job in order.",
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {"name": "media", "type": "topic", "durable": True},
                "bindingVersion": "0.3.0",
            }
        },
        "operation_bindings": {"amqp": {"deliveryMode": 2, "mandatory": True, "bindingVersion": "0.3.0"}},
    },
    "stdout": {
        "sink": "stdout",
        "title": "Standard output",
        "description": "The standard output of the service, for a sink of kind `stdout`.",
        "operation": "One line of JSON for each event.",
    },
}

_TRACEPARENT: Json = {
    "type": "string",
    "pattern": TRACEPARENT_PATTERN,
    "description": "Only of attempts that are traced: their W3C trace context.",
}

_ATTRIBUTES: Json = {
    "headers": {
        "type": "object",
        "description": "Message attributes, of data type String, for filters.",
        "required": ["type", "kind", "outcome"],
        "properties": {
            "type": {"type": "string", "description": "The `type` of the event."},
            "product": {"type": "string", "description": "`data.product`; absent in operational events."},
            "kind": {"type": "string", "description": "`data.kind`"},
            "outcome": {"type": "string", "description": "`data.outcome`"},
            "job_id": {"type": "string", "description": "`data.job_id`; absent when null."},
            "traceparent": _TRACEPARENT,
        },
    },
}

_REPLAY: Json = {
    "type": "string",
    "pattern": "^[1-9][0-9]*$",
    "description": "Only when somebody asked for the event again: how many times by now.",
}

_MESSAGE_TRAITS: Json = {
    "webhook": {
        "headers": {
            "type": "object",
            "description": "As Standard Webhooks names them.",
            "required": ["webhook-id", "webhook-timestamp", "webhook-signature"],
            "properties": {
                "webhook-id": {
                    "type": "string",
                    "pattern": "^evt_[0-9a-f]{34}$",
                    "description": "The `id` of the event.",
                },
                "webhook-timestamp": {
                    "type": "string",
                    "pattern": "^[0-9]+$",
                    "description": "UNIX time of this attempt, in seconds.",
                },
                "webhook-signature": {
                    "type": "string",
                    "pattern": "^v1,[A-Za-z0-9+/]{43}=( v1,[A-Za-z0-9+/]{43}=)*$",
                    "description": "For each configured secret `v1,` and the base64 of HMAC-SHA256 over"
                    " `<webhook-id>.<webhook-timestamp>.<body>`; verify with any of them.",
                },
                "media-callbacks-replay": _REPLAY,
                "traceparent": _TRACEPARENT,
            },
        },
        "bindings": {
            "http": {
                "headers": {
                    "type": "object",
                    "required": ["Content-Type"],
                    "properties": {"Content-Type": {"type": "string", "const": CONTENT_TYPE}},
                },
                "bindingVersion": "0.3.0",
            }
        },
    },
    **dict.fromkeys(("sqs", "sns"), _ATTRIBUTES),
    "mns-topic": {
        "headers": {
            "type": "object",
            "description": "The message's tag.",
            "required": ["MessageTag"],
            "properties": {"MessageTag": {"type": "string", "maxLength": 16, "description": "`data.kind`"}},
        },
    },
    "kafka": {
        "headers": {
            "type": "object",
            "required": ["content-type"],
            "properties": {
                "content-type": {
                    "type": "string",
                    "enum": [CONTENT_TYPE, "application/json"],
                    "description": "The latter in binary mode.",
                },
                **{
                    f"ce_{name}": {"type": "string", "description": f"In binary mode: `{name}` of the event."}
                    for name in ("specversion", "id", "source", "type", "subject", "time", "dataschema")
                },
                "traceparent": _TRACEPARENT,
            },
        },
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": "The `subject` of the event, else its `id`."},
                "bindingVersion": "0.5.0",
            }
        },
    },
    "nats": {
        "headers": {
            "type": "object",
            "required": ["Nats-Msg-Id", "content-type"],
            "properties": {
                "Nats-Msg-Id": {
                    "type": "string",
                    "pattern": "^evt_[0-9a-f]{34}(:replay-[1-9][0-9]*)?$",
                    "description": "The `id` of the event; a replay appends `:replay-<n>`.",
                },
                "content-type": {"type": "string", "const": CONTENT_TYPE},
                "Nats-Expected-Stream": {"type": "string", "description": "Only with `stream`: its name."},
                "traceparent": _TRACEPARENT,
            },
        },
    },
    "rabbitmq": {
        "headers": {
            "type": "object",
            "properties": {
                "media-callbacks-replay": _REPLAY,
                "traceparent": _TRACEPARENT,
            },
        },
    },
}


def _schema_object(kind: AnyKind) -> Json:
    schema = operational_schema() if kind == OPERATIONAL else kind_schema(kind)
    # An `$id` within a document would be the base of every reference in it.
    return {key: value for key, value in schema.items() if key not in ("$schema", "$id")}


def _channel(channel: Json) -> Json:
    document = {
        # Known to the operator of the service alone.
        "address": None,
        "title": channel["title"],
        "description": channel["description"],
        "messages": {kind: {"$ref": f"#/components/messages/{_message_name(channel['sink'], kind)}"} for kind in _SENT},
    }
    return document | ({"bindings": channel["bindings"]} if "bindings" in channel else {})


def _operation(name: str, channel: Json) -> Json:
    document = {
        "action": "send",
        "channel": {"$ref": f"#/channels/{name}"},
        "title": f"Send to {channel['title']}",
        "description": channel["operation"],
        "messages": [{"$ref": f"#/channels/{name}/messages/{kind}"} for kind in _SENT],
    }
    return document | ({"bindings": channel["operation_bindings"]} if "operation_bindings" in channel else {})


def _message_name(sink: str, kind: AnyKind) -> str:
    return f"{sink}_{kind}"


def _message(sink: str, kind: AnyKind) -> Json:
    document = {
        "name": f"media.{kind}",
        "title": f"media.{kind}, as a {_SINK_TITLES[sink]}",
        "summary": inspect.getdoc(OperationalData if kind == OPERATIONAL else DATA_MODELS[kind]),
        "contentType": CONTENT_TYPE,
        "payload": {"$ref": f"#/components/schemas/{kind}"},
    }
    return document | ({"traits": [{"$ref": f"#/components/messageTraits/{sink}"}]} if sink in _MESSAGE_TRAITS else {})
