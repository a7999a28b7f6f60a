"""
What many people write: Flask, sqlite3 and one commit per request. It makes the same promise with less comfort: the
signature is checked, a job is stored once, and what was answered with 200 is on disk.
"""

import hashlib
import hmac
import json
import os
import sqlite3
import threading

from flask import Flask, Response, request

from tests.exercises.bench.callbacks import KEY, PATH, URL

DATABASE = "BENCH_FLASK_DATABASE"

app = Flask(__name__)
_local = threading.local()


def connection() -> sqlite3.Connection:
    """One per thread: kinder than one per request, as Flask's tutorial has it."""
    found: sqlite3.Connection | None = getattr(_local, "connection", None)
    if found is None:
        found = _local.connection = sqlite3.connect(os.environ[DATABASE], timeout=60)
        found.execute("PRAGMA journal_mode = WAL")
        found.execute("PRAGMA synchronous = FULL")
        found.execute("CREATE TABLE IF NOT EXISTS jobs (job_id TEXT PRIMARY KEY, body BLOB NOT NULL)")
    return found


@app.post(PATH)
def callback() -> Response:
    signed = f"{URL}|{request.headers['X-VOD-TIMESTAMP']}|{KEY}".encode()
    if not hmac.compare_digest(
        hashlib.md5(signed, usedforsecurity=False).hexdigest(), request.headers["X-VOD-SIGNATURE"]
    ):
        return Response(status=403)
    body = request.get_data()
    with connection() as transaction:
        transaction.execute("INSERT OR IGNORE INTO jobs VALUES (?, ?)", (json.loads(body)["JobId"], body))
    return Response(b'{"code":"OK"}', mimetype="application/json")
