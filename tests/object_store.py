"""An S3-compatible server on this machine (moto's), with a bucket; what it holds outlives its absence."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from typing import Any
from urllib.parse import quote

import boto3
from moto.server import ThreadedMotoServer
from werkzeug.serving import BaseWSGIServer

BaseWSGIServer.serve_forever = partialmethod(BaseWSGIServer.serve_forever, 0.02)  # else to stop takes half a second

KEY, SECRET = "AKIAEXAMPLE", "a-secret-of-the-tests"


class ObjectStore:
    def __init__(self) -> None:
        self.bucket, self._port = f"bucket-{secrets.token_hex(4)}", 0
        self.start()
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )
        self.client.create_bucket(Bucket=self.bucket)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def url(self, folder: str, bucket: str = "") -> str:
        where = f"endpoint_override={quote(self.endpoint, safe='')}&scheme=http&region=us-east-1"
        return f"s3://{KEY}:{SECRET}@{bucket or self.bucket}/{folder}?{where}"

    def start(self) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", self._port, verbose=False)
        self._server.start()
        _, self._port = self._server.get_host_and_port()

    def stop(self) -> None:
        self._server.stop()
        self._server._server.server_close()  # else the kernel goes on accepting for it

    @contextmanager
    def failing(
        self, status: int, times: int | None = None, methods: str = "GET HEAD POST PUT DELETE"
    ) -> Iterator[None]:
        """Within the block requests by these methods, all or the first, are answered by this status and no body."""
        server, answered = self._server._server, 0
        real = server.app

        def app(environ: Any, start_response: Any) -> Any:
            nonlocal answered
            if answered != times and environ["REQUEST_METHOD"] in methods.split():
                answered += 1
                start_response(f"{status} as told", [("Content-Length", "0")])
                return [b""]
            return real(environ, start_response)

        server.app = app
        try:
            yield
            assert times in (None, answered), "it was asked as often"
        finally:
            server.app = real

    def objects(self, folder: str) -> dict[str, bytes]:
        found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=f"{folder}/").get("Contents", [])
        return {
            item["Key"].removeprefix(f"{folder}/"): self.client.get_object(Bucket=self.bucket, Key=item["Key"])[
                "Body"
            ].read()
            for item in found
            if not item["Key"].endswith("/")  # pyarrow marks a folder by an object of no bytes
        }

    def put(self, folder: str, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"{folder}/{name}", Body=content)


@contextmanager
def serving() -> Iterator[ObjectStore]:
    store = ObjectStore()
    try:
        yield store
    finally:
        store.client.close()
        store.stop()
