"""How an explanation is printed: each line with its style."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_MARKS: Mapping[str, tuple[str, str]] = {
    "ok": ("ok  ", "green"),
    "failed": ("FAIL", "bold red"),
    "not checked": ("--  ", "yellow"),
    "note": ("note", "cyan"),
}


def step_lines(steps: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    width = max((len(step["name"]) for step in steps), default=0)
    for step in steps:
        mark, style = _MARKS.get(step["status"], ("?   ", "yellow"))
        came = step["came"] or ""
        if step["expected"] is not None and step["status"] != "ok":
            yield f"{mark}  {step['name']:<{width}}  expected {step['expected']}", style
            yield f"      {'':<{width}}  came     {came}", style
        else:
            yield f"{mark}  {step['name']:<{width}}  {came}", style if step["status"] != "ok" else ""
        for line in step["lines"]:
            yield f"      {'':<{width}}    {line}", "dim"


def finding_lines(findings: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    yield "what explains this", "bold"
    for finding in findings:
        yield f"  {finding['cause']}: {finding['text']}", "yellow"
        yield f"    do: {finding['remedy']}", ""
