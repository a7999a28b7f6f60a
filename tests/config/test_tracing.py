"""Which environment asks for which traces, and what is said of one that asks for what can't be had."""

from collections.abc import Mapping

import pytest

from media_callbacks.config import tracing
from media_callbacks.config.tracing import TracingSettings, read_tracing
from media_callbacks.model.errors import ConfigError

ON = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
ALL = TracingSettings(ratio=1.0, propagates=True)
TABLE: list[tuple[str, Mapping[str, str], TracingSettings | None]] = [
    ("nothing", {}, None),
    ("nothing of traces", {"OTEL_SERVICE_NAME": "orders", "OTEL_TRACES_SAMPLER": "always_on"}, None),
    ("an endpoint", ON, ALL),
    ("an endpoint of traces", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, ALL),
    ("another signal's", {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:4318/v1/metrics"}, None),
    ("an empty one is none", {"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, None),
    ("the default endpoint", {"OTEL_TRACES_EXPORTER": "otlp"}, ALL),
    ("an endpoint of others", ON | {"OTEL_TRACES_EXPORTER": "none"}, None),
    ("disabled", ON | {"OTEL_SDK_DISABLED": "TRUE"}, None),
    ("disabled, and wrong besides", ON | {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_SAMPLER": "x"}, None),
    ("not disabled", ON | {"OTEL_SDK_DISABLED": "yes"}, ALL),
    ("the protocol", ON | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, ALL),
    (
        "that of traces counts",
        ON | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
        ALL,
    ),
    ("always", ON | {"OTEL_TRACES_SAMPLER": "always_on"}, ALL),
    ("never", ON | {"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, None),
    (
        "a ratio",
        ON | {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"},
        TracingSettings(0.25, True),
    ),
    ("a ratio of no parent", ON | {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}, ALL),
    ("a ratio of 0", ON | {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, None),
    ("an argument that nobody reads", ON | {"OTEL_TRACES_SAMPLER_ARG": "x"}, ALL),
    ("propagators", ON | {"OTEL_PROPAGATORS": "b3, tracecontext"}, ALL),
    ("other propagators", ON | {"OTEL_PROPAGATORS": "b3"}, TracingSettings(1.0, False)),
]


@pytest.mark.parametrize(("environ", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_what_is_asked_for(environ, expected):
    assert read_tracing(environ) == expected


WRONG: list[tuple[str, str, str]] = [
    ("OTEL_TRACES_EXPORTER", "console", "expected otlp or none"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "expected http/protobuf"),
    ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "expected http/protobuf"),
    ("OTEL_TRACES_SAMPLER", "jaeger_remote", "expected one of always_on"),
    ("OTEL_TRACES_SAMPLER_ARG", "2", "expected a number from 0 to 1"),
    ("OTEL_TRACES_SAMPLER_ARG", "half", "expected a number from 0 to 1"),
    ("OTEL_TRACES_SAMPLER_ARG", "nan", "expected a number from 0 to 1"),
]


@pytest.mark.parametrize(("name", "value", "sentence"), WRONG)
def test_what_can_not_be_had_is_said_and_not_repeated(name, value, sentence):
    environ = ON | ({"OTEL_TRACES_SAMPLER": "traceidratio"} if name.endswith("_ARG") else {}) | {name: value}
    with pytest.raises(ConfigError) as found:
        read_tracing(environ)
    (problem,) = found.value.problems
    assert problem.startswith(f"{name}: {sentence}")
    assert value == "2" or value not in problem


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ConfigError) as found:
        read_tracing({"OTEL_TRACES_EXPORTER": "console", "OTEL_TRACES_SAMPLER": "x"})
    assert len(found.value.problems) == 2


def test_the_start_says_which_extra_is_missing(monkeypatch):
    monkeypatch.setattr(tracing, "explain_missing", lambda extra: f"this needs the extra {extra}")
    assert read_tracing({}) is None
    assert read_tracing(ON | {"OTEL_TRACES_SAMPLER": "always_off"}) is None
    with pytest.raises(
        ConfigError, match="asks for traces: this needs the extra otel; or set OTEL_TRACES_EXPORTER=none"
    ):
        read_tracing(ON)
