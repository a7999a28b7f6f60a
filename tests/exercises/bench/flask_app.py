"""One commit a request under Flask."""

from flask import Flask, Response, request

from tests.exercises.bench.callbacks import PATH
from tests.exercises.bench.one_commit import ANSWER, is_genuine, store

app = Flask(__name__)


@app.post(PATH)
def callback() -> Response:
    if not is_genuine(request.headers["X-VOD-TIMESTAMP"], request.headers["X-VOD-SIGNATURE"]):
        return Response(status=403)
    store(request.get_data())
    return Response(ANSWER, mimetype="application/json")
