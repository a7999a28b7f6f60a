"""Captured requests are read as they were on the wire, from HTTP text and from curl commands."""

import base64
import hashlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from media_callbacks.explain.captured_request import (
    UnreadableRequest,
    content_md5_spelling,
    read_captured_request,
    read_content_md5,
)
from tests.factories.running import encode_request

BODY = b'{"EventType":"DynamicImageComplete","JobId":"1"}'
HEAD = b"POST /callbacks/vod?a=1&b=%20 HTTP/1.1\r\nHost: cb.example.com\r\nX-Vod-Timestamp:  15 \r\n"


def read(raw):
    return read_captured_request(raw)


@pytest.mark.parametrize("ending", [b"\r\n", b"\n"])
def test_http_text_is_read_with_either_line_end_and_its_body_as_it_is(ending):
    body = b'{\r\n "a": 1\n}\n\n'
    captured = read(HEAD.replace(b"\r\n", ending) + ending + body)
    assert captured.callback.method == "POST"
    assert captured.callback.raw_path == b"/callbacks/vod"
    assert captured.callback.query == b"a=1&b=%20"
    assert list(captured.callback.headers) == [(b"host", b"cb.example.com"), (b"x-vod-timestamp", b"15")]
    assert captured.callback.body == body
    assert captured.notes == ()


@pytest.mark.parametrize("added", [b"\n", b"\r\n", b"\n\n"])
def test_a_final_line_break_that_content_length_does_not_count_is_left_out_and_said(added):
    captured = read(encode_request("POST", "/x", (), BODY) + added)
    assert captured.callback.body == BODY
    assert len(captured.notes) == 1
    assert f"Content-Length ({len(BODY)} bytes)" in captured.notes[0]


def test_a_final_line_break_that_was_sent_stays():
    captured = read(encode_request("POST", "/x", (), BODY + b"\n"))
    assert captured.callback.body == BODY + b"\n"
    assert captured.notes == ()


def spellings(body):
    digest = hashlib.md5(body, usedforsecurity=False)
    text = digest.hexdigest().encode()
    return [base64.b64encode(text), text.upper(), text, base64.b64encode(digest.digest())]


@pytest.mark.parametrize("number", range(4))
def test_content_md5_settles_the_final_line_break_where_there_is_no_length(number):
    value = spellings(BODY)[number]
    captured = read(b"POST /x HTTP/1.1\nContent-MD5: " + value + b"\n\n" + BODY + b"\n")
    assert captured.callback.body == BODY
    assert "Content-MD5" in captured.notes[0]
    assert content_md5_spelling(value, BODY)
    assert content_md5_spelling(value, BODY + b"\n") is None
    assert read_content_md5(value) == hashlib.md5(BODY, usedforsecurity=False).digest()


def test_a_body_that_is_otherwise_not_as_long_as_announced_is_taken_as_it_is_and_said():
    captured = read(b"POST /x HTTP/1.1\nContent-Length: 12\n\n" + BODY)
    assert captured.callback.body == BODY
    assert "Content-Length says 12 bytes" in captured.notes[0]


def test_a_body_without_a_line_break_at_its_end_and_no_body_at_all():
    assert read(b"POST /x HTTP/1.1\nHost: h\n\n{}").callback.body == b"{}"
    captured = read(b"POST /x HTTP/1.1\nHost: h")
    assert captured.callback.body == b""
    assert "no empty line" in captured.notes[0]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_chunks_are_put_together(size):
    captured = read(encode_request("POST", "/x", (), BODY, chunk=size))
    assert captured.callback.body == BODY
    assert "chunks" in captured.notes[0]


def test_a_body_whose_chunks_a_proxy_joined_stays():
    captured = read(b"POST /x HTTP/1.1\nTransfer-Encoding: chunked\n\n" + BODY)
    assert captured.callback.body == BODY


def test_the_absolute_form_gives_path_host_and_url():
    captured = read(b"POST http://h.example:8/p?q=1#f HTTP/1.1\n\n")
    assert (captured.callback.raw_path, captured.callback.query) == (b"/p", b"q=1")
    assert captured.callback.header(b"host") == b"h.example:8"
    assert captured.url == "http://h.example:8/p?q=1#f"
    assert any("fragment" in note for note in captured.notes)


def test_doubled_headers_stay_apart_and_a_folded_one_is_joined():
    captured = read(b"POST /x HTTP/1.1\nA: 1\nA: 2\nB: 3\n  4\n\n")
    assert list(captured.callback.headers) == [(b"a", b"1"), (b"a", b"2"), (b"b", b"3 4")]


@pytest.mark.parametrize(
    "raw, message",
    [
        (b"", "came an empty file"),
        (b" \r\n\n", "came an empty file"),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", "came a response"),
        (b'{"EventType": "x"}', "came JSON"),
        (b"<Notification/>", "came XML"),
        (b"Host: h\n\n", "came a header"),
        (b"POST x HTTP/1.1\n\n", "expected a request line"),
        (b"POST http://user:secret-pass@/x HTTP/1.1\n\n", "with a host"),
        (b"\x16\x03\x01\x00\x00rest", "binary data"),
        ("POST /x HTTP/1.1".encode("utf-16"), "UTF-16"),
        (b"POST /x HTTP/1.1\nA: b\nsecret-line\n\n", "line 3: expected a header"),
        (b"POST /x HTTP/1.1\nsecret key: b\n\n", "line 2: expected a header"),
        (b"curl", "expected one URL in the curl command, came none"),
        (b"curl 'https://h/x", "expected a closing quote"),
        (b'curl "https://h/x', "expected a closing quote"),
        (b"curl $'https://h/x\\'", "expected a closing quote"),
        (b"curl https://h/x -d @secret-file", "another file is not read"),
        (b"curl https://h/x --data-binary @secret-file", "another file is not read"),
        (b"curl https://h/x --json @secret-file", "another file is not read"),
        (b"curl https://h/x -H @secret-file", "another file is not read"),
        (b"curl https://h/x --data-urlencode a@secret-file", "another file is not read"),
        (b"curl https://h/x -F a=secret-value", "multipart"),
        (b"curl https://h/x -T secret-file", "put the body itself"),
        (b"curl -K secret-file", "put its options"),
        (b"curl https://h/x --next https://h/y", "a file of its own"),
        (b"curl https://h/x https://h/y", "came 2"),
        (b"curl https://h/x -X", "expected a value after --request"),
        (b"curl https://h/x -H secret-value", "came text without a colon"),
        (b"curl https://h/x -d `secret-command`", "another command in it"),
        (b'curl https://h/x -d "$(secret-command)"', "another command in it"),
        (b"curl https://h/x ^\r\n -d x", "cURL (bash)"),
        (b"curl 'https://h/a b'", "without blanks"),
        (b"curl ftp://h/x", "http:// or https://"),
    ],
)
def test_what_is_no_request_is_told_with_what_was_expected_and_nothing_secret(raw, message):
    with pytest.raises(UnreadableRequest) as caught:
        read(raw)
    assert message in str(caught.value)
    assert "secret-" not in str(caught.value)


@pytest.mark.parametrize(
    "command, method, target, body",
    [
        ("curl https://h/x?y=1", "GET", "/x?y=1", ""),
        ("curl 'https://h/x' -X POST --data-raw '{\"a\": 1}'", "POST", "/x", '{"a": 1}'),
        ("curl -XPUT https://h/x", "PUT", "/x", ""),
        ("curl -sSLk -d a -d b=c https://h/x", "POST", "/x", "a&b=c"),
        ("curl --request=DELETE --url=https://h/x", "DELETE", "/x", ""),
        ("curl -G -d a=1 --data-urlencode 'b=x y&' 'https://h/x?z=0'", "GET", "/x?z=0&a=1&b=x%20y%26", ""),
        ("curl -I h/x", "HEAD", "/x", ""),
        ("curl https://h --data-raw @name", "POST", "/", "@name"),
        ("curl https://h/x --json '{\"a\":' --json '1}'", "POST", "/x", '{"a":1}'),
        ("curl \\\n  'https://h/x' \\\r\n  -d 'a\nb' \\  \n --compressed", "POST", "/x", "a\nb"),
        ('$ /usr/bin/curl \'https://h/x\' -d "a\\"\\$b\\\nc\\n"', "POST", "/x", 'a"$bc\\n'),
        (r"curl https://h/x -d $'it\'s\n\t\x41\101é\ud83d\ude00\\'", "POST", "/x", "it's\n\tAAé😀\\"),
        ("curl https://h/x -d 'it'\\''s'", "POST", "/x", "it's"),
        ("curl https://h/x --data-raw ''", "POST", "/x", ""),
        ("curl -m 5 --proxy http://p:1 -o out --unknown value https://h/x -d a", "POST", "/x", "a"),
        ("curl --strange https://h/x", "GET", "/x", ""),
        ("curl https://h/x -d a | jq .", "POST", "/x", "a"),
        ("curl https://h/x?a=1&b=2", "GET", "/x?a=1", ""),
        ("curl https://h/x\n-d a", "POST", "/x", "a"),
        ("curl https://h/x # -d a\n", "GET", "/x", ""),
    ],
)
def test_curl_commands_are_read_as_curl_would_send_them(command, method, target, body):
    callback = read(command.encode()).callback
    query = b"?" + callback.query if callback.query else b""
    assert (callback.method, callback.raw_path + query, callback.body) == (method, target.encode(), body.encode())


def test_headers_of_curl():
    captured = read(
        b"curl https://u:p@h:8/x -H 'A: b' --header=\"C:d\" -H 'E;' -H 'Accept:' -A agent -b c=1 -d x -H 'a: 2'"
    )
    assert list(captured.callback.headers) == [
        (b"host", b"h:8"),
        (b"a", b"b"),
        (b"c", b"d"),
        (b"e", b""),
        (b"user-agent", b"agent"),
        (b"cookie", b"c=1"),
        (b"a", b"2"),
        (b"content-type", b"application/x-www-form-urlencoded"),
    ]
    assert any("Content-Type" in note for note in captured.notes)


def test_ignored_options_are_named_without_their_values():
    notes = " ".join(read(b"curl https://h/x --compressed -u me:secret --cacert secret --odd secret").notes)
    assert "--compressed, -u, --cacert, --odd" in notes
    assert "secret" not in notes


def test_bytes_that_are_no_utf8_survive_in_both_forms():
    body = b'{"a":"\xff\xe4\xb8\xad"}'
    assert read(b"POST /x HTTP/1.1\n\n" + body).callback.body == body
    assert read(b"curl h/x --data-raw '" + body + b"'").callback.body == body
    assert read(b"curl h/x --data-raw $'\\xff\\xe4\\xb8\\xad'").callback.body == b"\xff\xe4\xb8\xad"


@settings(max_examples=400, deadline=None)
@given(raw=st.binary(max_size=300))
@example(raw=b"POST / HTTP/1.1\nTransfer-Encoding: chunked\n\nffffffff\n")
@example(raw=b"POST http://[::1/x HTTP/1.1\n\n")
@example(raw=b"POST /x HTTP/1.1\nContent-Length: \xb2\n\n")
def test_any_bytes_are_a_request_or_a_clear_error(raw):
    try:
        read(raw)
    except UnreadableRequest as error:
        assert "expected" in str(error)  # noqa: PT017 - either way is right


@settings(max_examples=400, deadline=None)
@given(
    words=st.lists(
        st.sampled_from(
            [
                "-H",
                "-d",
                "'",
                '"',
                "$'",
                "\\",
                "\n",
                " ",
                "https://h/",
                "a: b",
                "--x",
                "-sX",
                "`",
                "|",
                "\\u12",
                "@",
                "é",
                "\0",
            ]
        ),
        max_size=20,
    )
)
def test_any_command_is_a_request_or_a_clear_error(words):
    try:
        read(("curl " + "".join(words)).encode())
    except UnreadableRequest:
        pass


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=200), target=st.from_regex(r"/[a-z%/]{0,20}(\?[a-z=&]{1,10})?", fullmatch=True))
def test_what_is_written_as_http_is_read_back(body, target):
    callback = read(encode_request("POST", target, [(b"A", b"b")], body)).callback
    assert callback.body == body
    assert callback.raw_path + (b"?" + callback.query if callback.query else b"") == target.encode()
