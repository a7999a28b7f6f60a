"""Lines that anybody can cause are few, however often it is done."""

from structlog.testing import capture_logs

from media_callbacks.timing.limited_log import LimitedLog


def test_of_a_kind_a_few_lines_come_at_once_and_then_one_now_and_then():
    now = [0.0]
    limited = LimitedLog(burst=3, every_s=2.0, monotonic=lambda: now[0])
    with capture_logs() as lines:
        for _ in range(10):
            limited.warning("refused", ("a",), reason="a")
        limited.warning("refused", ("b",), reason="b")
        now[0] += 2
        for _ in range(10):
            limited.info("refused", ("a",), reason="a")
        now[0] += 1000
        for _ in range(10):
            limited.warning("refused", ("a",), reason="a")
    assert [(line["reason"], line["log_level"], line.get("omitted")) for line in lines] == [
        *[("a", "warning", None)] * 3,
        ("b", "warning", None),
        ("a", "info", 7),
        ("a", "warning", 9),
        *[("a", "warning", None)] * 2,
    ]
