import base64
import json
import math
import re
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from media_callbacks.model.errors import Unparseable
from media_callbacks.sources.products import vod_messages as messages
from media_callbacks.sources.reading.decoding import decode_json, decode_text, parse_time
from media_callbacks.sources.reading.fields import Fields, read_object
from media_callbacks.sources.reading.members import digest, read_values

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(), values, max_size=4),
    max_leaves=20,
)


# Times


@pytest.mark.parametrize(
    "text, moment",
    [
        ("2019-11-05T09:12:58Z", datetime(2019, 11, 5, 9, 12, 58, tzinfo=UTC)),
        ("2024-04-10T01:37:14:627Z", datetime(2024, 4, 10, 1, 37, 14, 627000, tzinfo=UTC)),
        ("2024-04-10T01:37:14.627Z", datetime(2024, 4, 10, 1, 37, 14, 627000, tzinfo=UTC)),
        ("2024-04-10T01:37:14.6Z", datetime(2024, 4, 10, 1, 37, 14, 600000, tzinfo=UTC)),
        ("2024-04-10T01:37:14.123456789Z", datetime(2024, 4, 10, 1, 37, 14, 123456, tzinfo=UTC)),
        ("2024-04-10T01:37:14,627Z", datetime(2024, 4, 10, 1, 37, 14, 627000, tzinfo=UTC)),
        ("2019-11-05t09:12:58z", datetime(2019, 11, 5, 9, 12, 58, tzinfo=UTC)),
        ("2019-11-05t09:12:58", datetime(2019, 11, 5, 9, 12, 58, tzinfo=UTC)),
        ("20191105T091258Z", datetime(2019, 11, 5, 9, 12, 58, tzinfo=UTC)),
        ("20191105t091258,5z", datetime(2019, 11, 5, 9, 12, 58, 500000, tzinfo=UTC)),
        ("20191105T091258.123Z", datetime(2019, 11, 5, 9, 12, 58, 123000, tzinfo=UTC)),
        ("20191105T091258+0800", datetime(2019, 11, 5, 1, 12, 58, tzinfo=UTC)),
        ("20191105T091258", datetime(2019, 11, 5, 9, 12, 58, tzinfo=UTC)),
        ("2016-03-15T02: 53: 41Z", datetime(2016, 3, 15, 2, 53, 41, tzinfo=UTC)),
        (" 2016-03-15 02:53:41 ", datetime(2016, 3, 15, 2, 53, 41, tzinfo=UTC)),
        ("2019-11-05T09:12:58", datetime(2019, 11, 5, 9, 12, 58, tzinfo=UTC)),
        ("2019-11-05T09:12:58+08:00", datetime(2019, 11, 5, 1, 12, 58, tzinfo=UTC)),
        ("2019-11-05T09:12:58-0130", datetime(2019, 11, 5, 10, 42, 58, tzinfo=UTC)),
        ("2024-02-29T00:00:00Z", datetime(2024, 2, 29, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("1572945178", datetime(2019, 11, 5, 9, 12, 58, tzinfo=UTC)),
        ("1572945178120", datetime(2019, 11, 5, 9, 12, 58, 120000, tzinfo=UTC)),
        ("1572945178120.0", datetime(2019, 11, 5, 9, 12, 58, 120000, tzinfo=UTC)),
        ("1572945178.5", datetime(2019, 11, 5, 9, 12, 58, 500000, tzinfo=UTC)),
    ],
)
def test_time(text, moment):
    found = parse_time(text)
    assert found == moment
    assert found is not None
    assert found.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "157294517",
        "15729451781",
        "2019-11-05",
        "2019-13-05T09:12:58Z",
        "2023-02-29T00:00:00Z",
        "2019-11-05T25:12:58Z",
        "2019-11-05T09:12:58Zx",
        "2019-11-05T09:12:58.1234567890Z",
        "2019-11-05T09:12:58+99:00",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "2019-W45-2T09:12:58Z",
        "20191105091258",
        "20191105 091258Z",
        "2019-1105T09:12:58Z",
        "201911-05T09:12:58Z",
        "2019-11-05T091258Z",
        "20191105T09:12:58Z",
        "20191305T091258Z",
        "2019-11-05T09:12:58,Z",
        "2019-11-05T09:12:58Zz",
        "2019-11-05x09:12:58Z",
        "٢٠١٩-11-05T09:12:58Z",
    ],
)
def test_no_time(text):
    assert parse_time(text) is None


@given(st.text() | st.from_regex(r"[0-9TtZz:.,+ -]{15,30}", fullmatch=True))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_time_in_utc_or_none(text):
    moment = parse_time(text)
    assert moment is None or moment.utcoffset() == timedelta(0)


@given(st.datetimes(timezones=st.just(UTC)))
@settings(max_examples=200, deadline=None)
def test_a_time_written_is_read_back(moment):
    assert parse_time(moment.isoformat()) == moment


# Keys


@pytest.mark.parametrize("key", ["JobId", "jobId", "jobid", "JOBID", " JobId", "JobId ", "\tJobId\n"])
def test_keys_are_found_whatever_their_case_and_blanks(key):
    assert Fields({key: "x"}).text("JobId") == "x"


@pytest.mark.parametrize(
    "values, text, warnings",
    [
        ({"jobId": "lower", "JobId": "upper"}, "lower", 1),
        ({"JobId": "upper", "jobId": "lower"}, "lower", 1),
        ({"JobId": "upper", " jobId ": "lower"}, "lower", 1),
        ({"jobId": "same", "JobId": "same"}, "same", 0),
        ({"jobId": None, "JobId": "upper"}, "upper", 0),
        ({"jobId": "", "JobId": "upper"}, "upper", 0),
        ({"JobId": "upper", "jobId": ""}, "upper", 0),
        ({"JobId": "upper", "jobId": None}, "upper", 0),
        ({"jobId": "lower", "JobId": None}, "lower", 0),
    ],
)
def test_of_two_spellings_the_lower_case_one_wins(values, text, warnings):
    fields = Fields(values)
    assert fields.text("JobId") == text
    assert len(fields.warnings) == warnings


# Text


@pytest.mark.parametrize(
    "value, text",
    [
        ("x", "x"),
        ("  x\n", "x"),
        (12, "12"),
        (0, "0"),
        (1.5, "1.5"),
        (["x"], "x"),
        ("", None),
        ("  ", None),
        (None, None),
    ],
)
def test_text(value, text):
    fields = Fields({"Name": value})
    assert fields.text("Name") == text
    assert fields.warnings == ()


@pytest.mark.parametrize("value", [True, {}, [], ["a", "b"], [1], math.inf])
def test_what_is_no_text_is_noted(value):
    fields = Fields({"Name": value})
    assert fields.text("Name") is None
    assert fields.warnings == ("Name",)


def test_the_first_of_several_names_that_has_any_text():
    fields = Fields({"A": "", "B": {}, "C": "x", "D": "y"})
    assert fields.text("A", "B", "C", "D") == "x"
    assert fields.warnings == ("B",)


@pytest.mark.parametrize(
    "value, text",
    [(" x\n", " x\n"), ("", ""), ('{"a": 1}', '{"a": 1}'), ({"a": [1, "ä"]}, '{"a":[1,"ä"]}'), (5, "5"), (None, None)],
)
def test_verbatim(value, text):
    assert Fields({"UserData": value}).verbatim("UserData") == text


# Numbers


@pytest.mark.parametrize(
    "value, number",
    [
        (12, 12.0),
        (15.0, 15.0),
        ("12", 12.0),
        (" 12 ", 12.0),
        ("52.233433", 52.233433),
        ("1e3", 1000.0),
        ("+5", 5.0),
        ("0012", 12.0),
        ([7], 7.0),
        (["7"], 7.0),
        (2**53, float(2**53)),
        ("", None),
        ("  ", None),
        (None, None),
    ],
)
def test_number(value, number):
    fields = Fields({"Size": value})
    assert fields.number("Size") == number
    assert fields.warnings == ()


@pytest.mark.parametrize(
    "value",
    [-1, "-1", "12px", "NaN", "Infinity", "1e999", "²", "١٢", "0x10", "1_000", True, {}, [], [1, 2], 2**53 + 2, math.inf, math.nan, "9" * 400],
)  # fmt: skip
def test_what_is_no_number_is_noted(value):
    fields = Fields({"Size": value})
    assert fields.number("Size") is None
    assert fields.warnings == ("Size",)


@pytest.mark.parametrize(
    "value, numbers, warnings",
    [
        ([10050, "50000", 0.5], (10050.0, 50000.0, 0.5), 0),
        ("[1,2]", (1.0, 2.0), 0),
        ([], (), 0),
        (None, (), 0),
        ([1, "x"], (), 1),
        ([1, None], (), 1),
        ([1, True], (), 1),
        (5, (), 1),
        ("text", (), 1),
        ({}, (), 0),
        ({"a": 1}, (), 1),
    ],
)
def test_numbers(value, numbers, warnings):
    fields = Fields({"TimeArray": value})
    assert fields.numbers("TimeArray") == numbers
    assert len(fields.warnings) == warnings


@pytest.mark.parametrize("value, number", [("200", 200), (200.0, 200), ("200.0", 200), (0, 0)])
def test_integer(value, number):
    found = Fields({"Width": value}).integer("Width")
    assert (found, type(found)) == (number, int)


def test_a_fraction_is_no_integer():
    fields = Fields({"Width": "1.5"})
    assert fields.integer("Width") is None
    assert fields.warnings == ("Width",)


@pytest.mark.parametrize(
    "value, flag, warnings",
    [
        (True, True, 0),
        (False, False, 0),
        ("True", True, 0),
        ("false", False, 0),
        (1, True, 0),
        ("0", False, 0),
        ("", None, 0),
        (None, None, 0),
        ("maybe", None, 1),
        (2, None, 1),
    ],
)
def test_flags(value, flag, warnings):
    found = read_values(messages.Stream, {"Encrypt": value})
    assert found.message.get("Encrypt") is flag
    assert len(found.warnings) == warnings


def test_a_time_that_is_none_is_noted():
    fields = Fields({"EventTime": "yesterday"})
    assert fields.time("EventTime") is None
    assert fields.warnings == ("EventTime",)


# Objects

INFO = {"JobId": "j"}


@pytest.mark.parametrize("value", [INFO, json.dumps(INFO), [INFO], json.dumps([INFO]), [json.dumps(INFO)]])
def test_an_object_in_every_wrapping(value):
    fields = Fields({"Info": value})
    info = fields.object("Info")
    assert info is not None
    assert info.text("JobId") == "j"
    assert fields.warnings == ()


@pytest.mark.parametrize("value", [None, "", []])
def test_no_object(value):
    fields = Fields({"Info": value})
    assert fields.object("Info") is None
    assert fields.warnings == ()


@pytest.mark.parametrize("value", ["text", 5, True, [1], [INFO, INFO], '"{}"'])
def test_what_is_no_object_is_noted(value):
    fields = Fields({"Info": value})
    assert fields.object("Info") is None
    assert fields.warnings == ("Info",)


@pytest.mark.parametrize("value", [[INFO, INFO], json.dumps([INFO, INFO]), [json.dumps(INFO), INFO]])
def test_objects(value):
    assert [info.text("JobId") for info in Fields({"Infos": value}).objects("Infos")] == ["j", "j"]


def test_a_single_object_without_its_list():
    assert [info.text("JobId") for info in Fields({"Infos": INFO}).objects("Infos")] == ["j"]


def test_elements_that_are_no_objects_are_noted_by_their_place():
    fields = Fields({"Infos": [INFO, 5, "x"]})
    assert len(fields.objects("Infos")) == 1
    assert fields.warnings == ("Infos[1]", "Infos[2]")


def test_warnings_give_the_path():
    fields = Fields({"Infos": [{"Size": "big"}], "Info": {"Size": "big"}})
    fields.objects("Infos")[0].number("Size")
    info = fields.object("Info")
    assert info is not None
    info.number("Size")
    assert fields.warnings == ("Infos[0].Size", "Info.Size")


def test_at_most_a_hundred_warnings():
    fields = Fields({"Infos": [0] * 1000})
    fields.objects("Infos")
    assert len(fields.warnings) == 100


def test_the_digest_depends_on_content_and_not_on_order():
    first, second = {"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}
    assert digest(first) == digest(second) != digest(first | {"a": 2})
    assert len(digest(first)) == 32


# Bodies


@pytest.mark.parametrize(
    "body", [b'{"a":1}', b'\xef\xbb\xbf{"a":1}', b' \n{"a":1}\n', b'[{"a":1}]', base64.b64encode(b'{"a":1}')]
)
def test_read_object(body):
    assert read_object(body).integer("a") == 1


def test_raw_line_breaks_inside_a_string():
    assert read_object(b'{"a":"x\ny"}').text("a") == "x\ny"


@pytest.mark.parametrize(
    "body, message",
    [
        (b"", "the body is empty"),
        (b" \n", "the body is empty"),
        (b"\xff", "found byte 0xff at offset 0"),
        (b'{"a":"\xc3"}', "UTF-8"),
        (b"hello", "expected a JSON object"),
        (b'{"a":1', "expected a JSON object"),
        (b'{"a":1}x', "expected a JSON object"),
        (b"5", "found int"),
        (b"null", "found NoneType"),
        (b'"{}"', "found str"),
        (b"[]", "found list"),
        (b"[{},{}]", "found list"),
        (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "nested deeper than 64 levels"),
        (b"[" * 100_000, "nested deeper"),
    ],
)
def test_no_object_to_read(body, message):
    with pytest.raises(Unparseable, match=message):
        read_object(body)


def test_sixty_four_levels_are_deep_enough_wherever_they_are():
    deepest = b"[" * 63 + b"]" * 63
    assert read_object(b'{"a":' + deepest + b"}").value("a")
    flat = b",".join([b"{}"] * 100)
    with pytest.raises(Unparseable, match="deeper"):
        read_object(b'{"a":[' + flat + b'],"b":[' + deepest + b"]}")


def test_brackets_inside_strings_are_no_depth():
    text = "[{" * 100 + '"[' * 100
    assert read_object(json.dumps({"a": text}).encode()).text("a") == text


def test_many_objects_side_by_side_are_no_depth():
    assert len(read_object(json.dumps({"a": [{"b": []}] * 1000}).encode()).objects("a")) == 1000


def test_a_hostile_megabyte_is_refused_in_linear_time():
    """Escaped quotes in a string that never ends: a pattern that backtracks takes hours for this one."""
    started = time.process_time()
    with pytest.raises(Unparseable):
        read_object(b'{"a":' + b"[" * 65 + b'"' + b'\\"' * 500_000)
    assert time.process_time() - started < 5


def test_what_can_not_be_stored_is_replaced():
    fields = read_object(rb'{"a":"x\ud800y","b":"x\u0000y","c":"\ud83d\ude00","\uDFFFd":["\udfff"]}')
    assert (fields.text("a"), fields.text("b"), fields.text("c")) == ("x\ufffdy", "x\ufffdy", "\U0001f600")
    assert fields.text("\ufffdd") == "\ufffd"
    assert read_object(b'{"a":"x\0y"}').text("a") == "x\ufffdy"
    inner = json.dumps(json.dumps({"b": "x\0y"}))
    found = read_object(f'{{"a":{inner}}}'.encode()).object("a")
    assert found is not None
    assert found.text("b") == "x\ufffdy"


def test_a_number_of_very_many_digits_costs_only_itself():
    fields = read_object(b'{"a":' + b"9" * 5000 + b',"b":1e999,"c":NaN,"d":-Infinity,"e":"x"}')
    assert [fields.number(name) for name in "abcd"] == [None] * 4
    assert fields.text("e") == "x"


@pytest.mark.parametrize("body", [b"MTIz!", "ünïcode".encode(), b"a=1&b=2", b"aGVsbG8="])
def test_text_that_is_not_json_in_base64_stays_as_it_is(body):
    assert decode_text(body) == body.decode()


@given(st.binary())
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_an_object_or_refused(body):
    try:
        fields = read_object(body)
    except Unparseable:
        return
    assert isinstance(fields, Fields)


@given(st.dictionaries(st.text(), JSON, max_size=5), st.text())
@settings(max_examples=300, deadline=None)
def test_every_accessor_takes_any_value(values, extra):
    """Nothing is raised, whatever is there; what is text can be encoded."""
    fields = read_object(json.dumps(values).encode())
    for name in [*values, extra]:
        text = fields.text(name)
        assert text is None or text == text.strip() != ""
        (f"{text}{fields.verbatim(name)}").encode()
        number = fields.number(name)
        assert number is None or 0 <= number <= 2**53
        fields.integer(name)
        fields.numbers(name)
        fields.time(name)
        fields.decoded(name)
        fields.object(name)
        fields.objects(name)
    assert len(digest(values)) == 32
    "".join(fields.warnings).encode()


# One decoder

# Pieces of what is hardly JSON.
_PIECES = [
    '{"a":',
    "}",
    "[",
    "]",
    '"',
    ",",
    ":",
    " ",
    "\n",
    "\ufeff",
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "-0",
    "01",
    "1.",
    "9" * 50,
    "9" * 5000,
    "0.1",
    "true",
    "null",
    '"\\ud83d\\ude00"',
    '"\\ud800"',
    '"\\u0000"',
    '"\x00"',
    '"\x7f"',
    '"x\ty"',
    '"\\\\ud800"',
    '"é"',
    '"a":2',
    '{"a":1,"a":2}',
    '"{\\"b\\":1}"',
]


def as_python_reads_it(text):
    """The tolerant reading of the standard library, without what can't be stored."""

    def cleaned(value):
        if isinstance(value, str):
            return re.sub("[\0\ud800-\udfff]", "\ufffd", value)
        if isinstance(value, list):
            return [cleaned(item) for item in value]
        if isinstance(value, dict):
            return {cleaned(key): cleaned(item) for key, item in value.items()}
        return value

    def is_readable(text):
        return len(text.lstrip("-").partition(".")[0].lower().partition("e")[0]) <= 4300

    integer, number = ((lambda text, read=read: read(text) if is_readable(text) else None) for read in (int, float))
    decoder = json.JSONDecoder(strict=False, parse_int=integer, parse_float=number, parse_constant=lambda _: None)
    return cleaned(decoder.decode(text))


@settings(max_examples=600, deadline=None)
@example("9" * 5000 + "1.")
@given(st.lists(st.sampled_from(_PIECES), max_size=8).map("".join) | JSON.map(lambda value: json.dumps({"a": value})))
def test_the_decoder_reads_what_the_standard_library_reads_with_patience(text):
    try:
        expected = as_python_reads_it(text)
    except ValueError:
        with pytest.raises(ValueError):
            decode_json(text)
        return
    assert decode_json(text) == expected
    assert decode_json(text.encode()) == expected


@pytest.mark.parametrize("text", ["\ud800", '{"a": "\ud800"}'])
def test_half_a_character_in_text_is_no_json(text):
    """No bytes become such text; what made it has made a mistake."""
    with pytest.raises(ValueError):
        decode_json(text)


@pytest.mark.parametrize("digits", [39, 40, 41, 400, 4300, 4301, 6000])
@pytest.mark.parametrize("mended", ["", '"x\ny"'])
def test_a_message_has_one_identity_however_many_digits_are_in_it(digits, mended):
    """The number and the text that has to be mended must not have to do with one another."""
    number = "7" * digits
    plain = decode_json(f'{{"a":{number},"b":"x"}}')
    assert (plain["a"] is None) == (digits > 4300)
    if mended:
        assert decode_json(f'{{"a":{number},"b":{mended}}}')["a"] == plain["a"]


def test_a_number_of_a_thousand_digits_is_no_text():
    found = read_object(b'{"JobId": ' + b"9" * 1000 + b"}")
    assert found.text("JobId") is None
    assert found.warnings == ("JobId",)
