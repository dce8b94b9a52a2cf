"""moto's server behind a watch, as AWS, and a page and an API of the console's shape.

There is no console to run here. What stands in for it answers as its published code says: the
page's ``env.js``, ``POST /importmodel`` and ``GET /models/<id>``. It takes an import only if the
files that the console reads first have really arrived in the bucket.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import urllib3

USER, PASSWORD = "racer", "Right-Passw0rd!"
REGION = "eu-west-1"
NEEDED = (
    "model_metadata.json",
    "reward_function.py",
    "ip/hyperparameters.json",
    "training_params.yaml",
)
_HOP_HEADERS = ("transfer-encoding", "connection", "content-length", "date", "server")


@dataclass
class Aws:
    """moto behind a watch that keeps what was asked and can answer with an error once."""

    endpoint: str
    moto: str
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and path; for Cognito the operation and its flow."""
    faults: list[tuple[Callable[[str, str], bool], int, str]] = field(default_factory=list)
    """Answers instead of moto's: to which request, status, body. Each is given once."""
    pool: dict[str, str] = field(default_factory=dict)
    """What the console's page says of them."""
    clients: dict[str, Any] = field(default_factory=dict)

    def client(self, service: str) -> Any:
        """Return a client of the tests' own, past the watch."""
        import boto3

        if service not in self.clients:
            self.clients[service] = boto3.client(
                service,
                endpoint_url=self.moto,
                region_name=REGION,
                aws_access_key_id="test",
                aws_secret_access_key="test",
            )
        return self.clients[service]

    def keys(self) -> list[str]:
        """Return what has arrived in the upload bucket."""
        answer = self.client("s3").list_objects_v2(Bucket=self.pool["uploadBucketName"])
        return [item["Key"] for item in answer.get("Contents", [])]

    def puts(self) -> list[str]:
        """Return the paths of the objects that were sent."""
        return [path.partition("?")[0] for method, path in self.asked if method == "PUT"]

    def flows(self) -> list[str]:
        """Return how it was signed in."""
        return [flow for operation, flow in self.asked if operation == "InitiateAuth"]


@dataclass
class Console:
    """The console's page and API."""

    url: str
    aws: Aws
    statuses: list[dict[str, Any]] = field(default_factory=list)
    """What a model is said to be, one answer after the other; the last one stays."""
    refusals: list[tuple[int, str]] = field(default_factory=list)
    """Answers to the next calls of the API instead."""
    imports: list[dict[str, Any]] = field(default_factory=list)
    signatures: list[str] = field(default_factory=list)


@contextmanager
def running_aws() -> Iterator[Aws]:
    """Yield AWS with a user, a bucket and all that the console's sign-in needs."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("boto3")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    aws = Aws("", f"http://{host}:{port}")
    # moto keeps its buckets and users for the whole process, past any one server.
    urllib3.request("POST", f"{aws.moto}/moto-api/reset")
    try:
        with _listening(_watch(aws)) as aws.endpoint:
            _set_up(aws)
            yield aws
    finally:
        server.stop()


@contextmanager
def running_console(aws: Aws) -> Iterator[Console]:
    """Yield a console whose bucket and users are moto's."""
    console = Console("", aws)
    with _listening(_site(console)) as console.url:
        yield console


def _set_up(aws: Aws) -> None:
    users = aws.client("cognito-idp")
    pool = users.create_user_pool(PoolName="pool")["UserPool"]["Id"]
    client = users.create_user_pool_client(
        UserPoolId=pool,
        ClientName="web",
        ExplicitAuthFlows=["ALLOW_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"],
    )["UserPoolClient"]["ClientId"]
    for name in (USER, "invited"):
        users.admin_create_user(UserPoolId=pool, Username=name, TemporaryPassword=PASSWORD)
    users.admin_set_user_password(UserPoolId=pool, Username=USER, Password=PASSWORD, Permanent=True)
    identities = aws.client("cognito-identity")
    identity_pool = identities.create_identity_pool(
        IdentityPoolName="pool", AllowUnauthenticatedIdentities=False
    )["IdentityPoolId"]
    bucket = "console-uploads"
    aws.client("s3").create_bucket(
        Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    aws.pool = {
        "region": REGION,
        "userPoolId": pool,
        "userPoolClientId": client,
        "identityPoolId": identity_pool,
        "uploadBucketName": bucket,
    }
    aws.asked.clear()


@contextmanager
def _listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in _HOP_HEADERS:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _watch(aws: Aws) -> type[BaseHTTPRequestHandler]:
    pool = urllib3.PoolManager(maxsize=10)

    class Watch(_Quiet):
        def do_any(self) -> None:
            data = self.body()
            operation = (self.headers.get("X-Amz-Target") or "").rpartition(".")[2]
            request = (self.command, self.path)
            if operation:
                request = (operation, str(json.loads(data).get("AuthFlow", "")))
            aws.asked.append(request)
            for fault in aws.faults:
                if fault[0](*request):
                    aws.faults.remove(fault)
                    self.answer(fault[1], fault[2].encode(), {})
                    return
            reply = pool.request(
                self.command,
                aws.moto + self.path,
                body=data,
                headers=dict(self.headers.items()),
                redirect=False,
            )
            self.answer(reply.status, reply.data, dict(reply.headers.items()))

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_any

    return Watch


def _site(console: Console) -> type[BaseHTTPRequestHandler]:
    class Site(_Quiet):
        def do_GET(self) -> None:
            if self.path == "/env.js":
                values = {**console.aws.pool, "apiEndpointUrl": f"{console.url}/prod/"}
                script = f"window.EnvironmentConfig = {json.dumps(values)};"
                self.answer(200, script.encode(), {"Content-Type": "application/javascript"})
                return
            if not self.path.startswith("/prod/models/") or self.is_refused():
                return
            statuses = console.statuses
            model = statuses.pop(0) if len(statuses) > 1 else statuses[0]
            self.say(200, {"model": {"modelId": self.path.rpartition("/")[2], **model}})

        def do_POST(self) -> None:
            request = json.loads(self.body())
            if self.is_refused():
                return
            present = {key.removeprefix(f"{request['s3Path']}/") for key in console.aws.keys()}
            missing = [key for key in NEEDED if key not in present]
            if missing:
                self.say(400, {"message": f"Missing {missing[0]}"})
                return
            console.imports.append(request)
            self.say(200, {"modelId": f"model{len(console.imports)}"})

        def is_refused(self) -> bool:
            signature = self.headers.get("Authorization", "")
            console.signatures.append(signature)
            if console.refusals:
                status, message = console.refusals.pop(0)
                self.say(status, {"message": message})
                return True
            if not (signature.startswith("AWS4-HMAC-SHA256 ") and "/execute-api/" in signature):
                self.say(403, {"message": "Missing Authentication Token"})
                return True
            return False

        def say(self, status: int, value: dict[str, Any]) -> None:
            self.answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    return Site
