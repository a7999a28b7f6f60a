"""Every metric with its labels and what it says, as it is registered."""

from media_callbacks.observe.metrics import Metrics


def render() -> str:
    lines = ["| metric | type | labels | |", "|---|---|---|---|"]
    for collector in Metrics()._registry._collector_to_names:
        labels = getattr(collector, "_labelnames", None) or getattr(collector, "_labels", None) or ()
        for family in collector.collect():
            name = family.name + ("_total" if family.type == "counter" else "")
            shown = ", ".join(f"`{label}`" for label in labels)
            lines.append(f"| `{name}` | {family.type} | {shown} | {family.documentation} |")
    return "\n".join(lines)
