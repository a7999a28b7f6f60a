"""One commit a request under FastAPI, which runs what blocks in threads."""

from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response

from tests.exercises.bench.callbacks import PATH
from tests.exercises.bench.one_commit import ANSWER, is_genuine, store

app = FastAPI()


async def read(request: Request) -> bytes:
    return await request.body()


@app.post(PATH)
def callback(request: Request, body: Annotated[bytes, Depends(read)]) -> Response:
    if not is_genuine(request.headers["X-VOD-TIMESTAMP"], request.headers["X-VOD-SIGNATURE"]):
        return Response(status_code=403)
    store(body)
    return Response(ANSWER, media_type="application/json")
