"""
Traces, as OpenTelemetry's own environment variables ask for them; the service has no keys for them.

Read here is what the service decides itself: whether anything is traced, and how much. Where spans go, with which
headers, certificates and attributes of the resource, the exporter reads (``observe.otlp``).

Source: "OpenTelemetry Environment Variable Specification",
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/; "OpenTelemetry Protocol Exporter",
https://opentelemetry.io/docs/specs/otel/protocol/exporter/.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from media_callbacks.extras import explain_missing
from media_callbacks.model.errors import ConfigError

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
# Every span of ours begins a trace, so that what a parent has decided never counts.
_SAMPLERS = {
    "always_on": 1.0,
    "always_off": 0.0,
    "traceidratio": None,
    "parentbased_always_on": 1.0,
    "parentbased_always_off": 0.0,
    "parentbased_traceidratio": None,
}
_INSTEAD = "or set OTEL_TRACES_EXPORTER=none"


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """
    Attributes:
        ratio: Of receipts that are traced, above 0 and at most 1.
        propagates: Whether trace contexts are read from and written into headers.
    """

    ratio: float
    propagates: bool


def read_tracing(environ: Mapping[str, str]) -> TracingSettings | None:
    """
    None where nothing is traced.

    Raises:
        ConfigError: Traces are asked for in a way that can't be had.
    """
    # Empty is as good as unset, and none of these is a secret.
    values = {name: value.strip() for name, value in environ.items() if name.startswith("OTEL_") and value.strip()}
    exporter = values.get("OTEL_TRACES_EXPORTER", "otlp" if any(name in values for name in _ENDPOINTS) else "none")
    if values.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporter == "none":
        return None
    problems = []
    if exporter != "otlp":
        problems.append("OTEL_TRACES_EXPORTER: expected otlp or none, came another one")
    protocol = next((name for name in _PROTOCOLS if name in values), None)
    if protocol is not None and values[protocol] != _PROTOCOL:
        problems.append(f"{protocol}: expected {_PROTOCOL}, came another one; set it so, {_INSTEAD}")
    sampler = values.get("OTEL_TRACES_SAMPLER", "parentbased_always_on")
    ratio = 0.0
    if sampler not in _SAMPLERS:
        problems.append(f"OTEL_TRACES_SAMPLER: expected one of {', '.join(_SAMPLERS)}, came another one")
    elif (known := _SAMPLERS[sampler]) is not None:
        ratio = known
    else:
        try:
            ratio = float(values.get("OTEL_TRACES_SAMPLER_ARG", "1"))
        except ValueError:
            ratio = -1.0
        if not 0 <= ratio <= 1:
            problems.append("OTEL_TRACES_SAMPLER_ARG: expected a number from 0 to 1, came something else")
    if not problems and ratio and (missing := explain_missing("otel")):
        problems.append(f"OTEL_TRACES_EXPORTER, or an endpoint of OTLP, asks for traces: {missing}; {_INSTEAD}")
    if problems:
        raise ConfigError(problems)
    propagators = values.get("OTEL_PROPAGATORS", "tracecontext").split(",")
    propagates = "tracecontext" in [name.strip() for name in propagators]
    return TracingSettings(ratio, propagates) if ratio else None
