"""The console (DeepRacer on AWS) as its own page talks to it: where it is, sign-in, its API.

What the page's ``env.js`` names is all that is needed: a Cognito user pool signs the user in, an
identity pool gives temporary credentials for the upload bucket and the API. The password is kept in
memory only.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from local_trainer.errors import ConfigError, LocalTrainerError, one_line
from local_trainer.store import Credentials

_FIELDS = {
    "region": r"[a-z]{2}(-[a-z]+)+-\d",
    "userPoolId": r"[\w-]+_[0-9A-Za-z]+",
    "userPoolClientId": r"[\w+]+",
    "identityPoolId": r"[\w-]+:[0-9A-Za-z-]+",
    "apiEndpointUrl": r"https?://[^\s@?#]+",
    "uploadBucketName": r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
}
"""What ``env.js`` must say, and of what form it is."""

_MOST_BYTES = 2**20
_TIMEOUT_S = 30.0
_REFRESH_BEFORE = timedelta(minutes=5)
_EXPIRED = ("expired", "ExpiredToken")


class ConsoleError(LocalTrainerError):
    """Raised when the console refuses or cannot be reached; says what it said."""


class SignInFailed(ConsoleError):
    """Raised when the console does not let the user in."""

    exit_status = 2


@dataclass(frozen=True)
class Site:
    """One installation of the console."""

    url: str
    region: str
    user_pool_id: str
    client_id: str
    identity_pool_id: str
    api_url: str
    bucket: str


@dataclass(frozen=True)
class SignIn:
    """Who uploads."""

    user: str
    password: str = field(repr=False)


def discover(url: str) -> Site:
    """Return what the ``env.js`` of an installation says.

    Args:
        url: Address of the console's page; https, or http on this machine.

    Raises:
        ConfigError: If the address is not allowed.
        ConsoleError: If there is no console at it.
    """
    url = _checked_url(url, "The console's address").rstrip("/")
    status, data = _request("GET", f"{url}/env.js")
    if status != 200:
        raise ConsoleError(f"No console at {url}: {url}/env.js answers with status {status}.")
    values = parse_environment(data.decode("utf-8", "replace"))
    wrong = [name for name, form in _FIELDS.items() if not re.fullmatch(form, values.get(name, ""))]
    if wrong:
        raise ConsoleError(f"No console at {url}: its env.js lacks {', '.join(wrong)}.")
    return Site(
        url=url,
        region=values["region"],
        user_pool_id=values["userPoolId"],
        client_id=values["userPoolClientId"],
        identity_pool_id=values["identityPoolId"],
        api_url=_checked_url(values["apiEndpointUrl"], "The console's API").rstrip("/"),
        bucket=values["uploadBucketName"],
    )


def parse_environment(text: str) -> dict[str, str]:
    """Return the texts of ``window.EnvironmentConfig = {…}``, JSON or a JavaScript literal."""
    found = re.search(r"window\.EnvironmentConfig\s*=\s*\{(.*?)\}", text, re.DOTALL)
    if found is None:
        return {}
    pairs = re.findall(r"""["']?(\w+)["']?\s*:\s*(?:"([^"]*)"|'([^']*)')""", found[1])
    return {name: double or single for name, double, single in pairs}


@contextmanager
def _discreet() -> Iterator[None]:
    """Keep botocore from logging what it sends and gets: at DEBUG that is password and tokens."""
    logger = logging.getLogger("botocore")
    before = logger.level
    logger.setLevel(max(logger.getEffectiveLevel(), logging.INFO))
    try:
        yield
    finally:
        logger.setLevel(before)


class ConsoleSession:
    """A signed-in user: temporary credentials that are renewed in time, and calls to the API."""

    def __init__(
        self,
        site: Site,
        sign_in: SignIn,
        aws_endpoint: str | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Sign in.

        Args:
            site: The installation.
            sign_in: Who.
            aws_endpoint: Stands in for AWS's own endpoints; None: AWS.
            now: The clock, with time zone.

        Raises:
            SignInFailed: If the console does not let the user in.
            ConsoleError: If it cannot be reached.
        """
        self.site = site
        self._sign_in = sign_in
        self._now = now
        self._users = _client("cognito-idp", site.region, aws_endpoint)
        self._identities = _client("cognito-identity", site.region, aws_endpoint)
        self._refresh_token = ""
        self._id_token = self._authenticate()
        self._credentials, self._renew_at = self._temporary_credentials()

    @property
    def credentials(self) -> Credentials:
        """Return temporary credentials that have some of their time left."""
        if self._now() >= self._renew_at:
            self.renew()
        return self._credentials

    def renew(self) -> None:
        """Get new temporary credentials, signing in again only if need be.

        Raises:
            SignInFailed: If the user is no longer let in.
        """
        self._id_token = self._refreshed() or self._authenticate()
        self._credentials, self._renew_at = self._temporary_credentials()

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the API's answer; expired credentials are renewed once.

        Args:
            method: ``GET`` or ``POST``.
            path: Below the API's address, with ``/`` in front.
            body: Sent as JSON.

        Raises:
            ConsoleError: If the answer is an error; gives the console's own message.
        """
        for is_last in (False, True):
            status, data = self._signed(method, path, body)
            answer = _json(data)
            message = str(answer.get("message") or answer.get("Message") or "")
            if 200 <= status < 300:
                return answer
            if status in (401, 403) and any(word in message for word in _EXPIRED) and not is_last:
                self.renew()
                continue
            break
        said = message or f"status {status}"
        raise ConsoleError(f"The console refuses {method} {path} ({status}): {said.rstrip('.')}.")

    def import_model(self, prefix: str, name: str, description: str | None = None) -> str:
        """Have the console import what was uploaded; returns the new model's id.

        Raises:
            ConsoleError: If it refuses.
        """
        body = {"s3Bucket": self.site.bucket, "s3Path": prefix, "modelName": name}
        if description:
            body["modelDescription"] = description
        answer = self.call("POST", "/importmodel", body)
        if not isinstance(answer.get("modelId"), str):
            raise ConsoleError(f"The console gives no model id: {json.dumps(answer)[:200]}.")
        return str(answer["modelId"])

    def model(self, model_id: str) -> dict[str, Any]:
        """Return what the console says of a model, ``status`` first of all."""
        answer = self.call("GET", f"/models/{quote(model_id, safe='')}")
        model = answer.get("model", answer)
        return model if isinstance(model, dict) else {}

    def _authenticate(self) -> str:
        parameters = {"USERNAME": self._sign_in.user, "PASSWORD": self._sign_in.password}
        answer = self._ask_users("USER_PASSWORD_AUTH", parameters)
        challenge = answer.get("ChallengeName")
        if challenge == "NEW_PASSWORD_REQUIRED":
            raise SignInFailed(
                f"{self._sign_in.user} must choose a password first: sign in at {self.site.url}."
            )
        if challenge:
            raise SignInFailed(
                f"{self._sign_in.user} is asked for {challenge}, which this command cannot answer."
            )
        result = answer.get("AuthenticationResult") or {}
        self._refresh_token = str(result.get("RefreshToken", ""))
        return str(result["IdToken"])

    def _refreshed(self) -> str | None:
        """Return a new id token, or None if the refresh token is over too."""
        if not self._refresh_token:
            return None
        try:
            answer = self._ask_users("REFRESH_TOKEN_AUTH", {"REFRESH_TOKEN": self._refresh_token})
        except SignInFailed:
            return None
        result = answer.get("AuthenticationResult") or {}
        self._refresh_token = str(result.get("RefreshToken") or self._refresh_token)
        return str(result["IdToken"]) if "IdToken" in result else None

    @_discreet()
    def _ask_users(self, flow: str, parameters: dict[str, str]) -> dict[str, Any]:
        import botocore.exceptions

        try:
            answer = self._users.initiate_auth(
                AuthFlow=flow, AuthParameters=parameters, ClientId=self.site.client_id
            )
        except botocore.exceptions.ClientError as error:
            said = error.response["Error"]
            raise SignInFailed(
                f"The console does not let {self._sign_in.user} in: "
                f"{str(said.get('Message') or said.get('Code')).rstrip('.')}."
            ) from None
        except botocore.exceptions.BotoCoreError as error:
            raise ConsoleError(f"The sign-in cannot be reached: {error}.") from None
        return dict(answer)

    @_discreet()
    def _temporary_credentials(self) -> tuple[Credentials, datetime]:
        """Return credentials for bucket and API, and when to renew them."""
        import botocore.exceptions

        site = self.site
        logins = {f"cognito-idp.{site.region}.amazonaws.com/{site.user_pool_id}": self._id_token}
        try:
            who = self._identities.get_id(IdentityPoolId=site.identity_pool_id, Logins=logins)
            given = self._identities.get_credentials_for_identity(
                IdentityId=who["IdentityId"], Logins=logins
            )["Credentials"]
        except botocore.exceptions.ClientError as error:
            said = error.response["Error"]
            raise SignInFailed(
                f"The console gives {self._sign_in.user} no right to upload: "
                f"{str(said.get('Message') or said.get('Code')).rstrip('.')}."
            ) from None
        except botocore.exceptions.BotoCoreError as error:
            raise ConsoleError(f"The sign-in cannot be reached: {error}.") from None
        credentials = Credentials(
            given["AccessKeyId"], given["SecretKey"], given.get("SessionToken")
        )
        expires = given["Expiration"]
        expires = expires if expires.tzinfo else expires.replace(tzinfo=UTC)
        # Ones that are given for a short time only are used for most of it.
        return credentials, expires - min(_REFRESH_BEFORE, (expires - self._now()) / 5)

    @_discreet()
    def _signed(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, bytes]:
        """Send a request signed as the API asks for."""
        import botocore.auth
        import botocore.awsrequest
        import botocore.credentials

        given = self.credentials
        data = b"" if body is None else json.dumps(body).encode()
        request = botocore.awsrequest.AWSRequest(
            method=method,
            url=self.site.api_url + path,
            data=data,
            headers={"content-type": "application/json"} if data else {},
        )
        botocore.auth.SigV4Auth(
            botocore.credentials.Credentials(
                given.access_key, given.secret_key, given.session_token
            ),
            "execute-api",
            self.site.region,
        ).add_auth(request)
        return _request(method, request.url, dict(request.headers.items()), data)


def _client(service: str, region: str, endpoint: str | None) -> Any:
    session = _boto_session()
    import botocore
    import botocore.config

    config = botocore.config.Config(
        signature_version=botocore.UNSIGNED,
        connect_timeout=10,
        read_timeout=_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": 3},
        # An endpoint set for a local S3 server is none of the console's.
        ignore_configured_endpoint_urls=True,
    )
    return session.client(service, region_name=region, endpoint_url=endpoint, config=config)


@functools.cache
def _boto_session() -> Any:
    """Return one session for all clients: it reads the services' descriptions once."""
    import boto3

    return boto3.session.Session()


def _request(
    method: str, url: str, headers: dict[str, str] | None = None, body: bytes | None = None
) -> tuple[int, bytes]:
    """Return status and body of an answer.

    Raises:
        ConsoleError: If there is none.
    """
    import certifi
    import urllib3

    pool = urllib3.PoolManager(
        cert_reqs="CERT_REQUIRED",
        ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        timeout=urllib3.Timeout(connect=10.0, read=_TIMEOUT_S),
        retries=False,
    )
    place = urlsplit(url)
    with pool:
        try:
            response = pool.request(
                method, url, headers=headers, body=body, preload_content=False, redirect=False
            )
            data = response.read(_MOST_BYTES)
            response.release_conn()
        except urllib3.exceptions.HTTPError as error:
            reason = one_line(error)
            if isinstance(error, urllib3.exceptions.NewConnectionError):
                reason = "nobody answers there"
            raise ConsoleError(
                f"The console at {place.scheme}://{place.netloc} cannot be reached: {reason}."
            ) from None
    return int(response.status), data


def _checked_url(url: str, what: str) -> str:
    parts = urlsplit(url)
    is_local = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if parts.scheme == "https" or (parts.scheme == "http" and is_local):
        if parts.hostname and "@" not in parts.netloc and not parts.query:
            return url
    raise ConfigError(f"{what} is https://host, got {url!r:.80}.")


def _json(data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}
