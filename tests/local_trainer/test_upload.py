"""Models reach a bucket and the console whole, whatever interrupts them, and no secret leaks."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from console_server import PASSWORD, REGION, USER, Aws, Console, running_aws, running_console

import local_trainer.store as store_module
import local_trainer.upload as upload_module
from local_trainer.checkpoints import BestAndLast, Checkpoint, write_pointers
from local_trainer.console_api import (
    ConsoleError,
    ConsoleSession,
    SignIn,
    SignInFailed,
    discover,
    parse_environment,
)
from local_trainer.errors import ConfigError, RunFailed
from local_trainer.runs import Run
from local_trainer.store import PART_BYTES, CredentialsExpired, StoreError, open_store
from local_trainer.upload import (
    ConsoleUpload,
    UploadState,
    check_name,
    upload_run,
    upload_to_console,
)

READY = {"status": "READY"}
IMPORTING = {"status": "IMPORTING"}
EXPIRED = "<Error><Code>ExpiredToken</Code><Message>The token has expired.</Message></Error>"
BROKEN = "<Error><Code>InvalidRequest</Code><Message>because</Message></Error>"


@pytest.fixture(scope="module")
def running() -> Iterator[Aws]:
    with running_aws() as aws:
        yield aws


@pytest.fixture
def aws(running: Aws, monkeypatch: pytest.MonkeyPatch) -> Aws:
    """AWS with an empty bucket, without anything of the user's environment."""
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(store_module, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(upload_module, "_POLL_S", 0.01)
    bucket = running.client("s3")
    for key in running.keys():
        bucket.delete_object(Bucket=running.pool["uploadBucketName"], Key=key)
    running.asked.clear()
    running.faults.clear()
    return running


@pytest.fixture
def console(aws: Aws) -> Iterator[Console]:
    with running_console(aws) as site:
        site.statuses = [IMPORTING, READY]
        yield site


@pytest.fixture
def session(console: Console) -> ConsoleSession:
    return sign_in(console)


def sign_in(console: Console, user: str = USER, password: str = PASSWORD) -> ConsoleSession:
    return ConsoleSession(discover(console.url), SignIn(user, password), console.aws.endpoint)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with two checkpoints; what is in its weights does not matter here."""
    made = Run(tmp_path / "runs" / "mine")
    old, new = Checkpoint(1, 10), Checkpoint(2, 20)
    for checkpoint in (Checkpoint(0, 0), old, new):
        paths = [*checkpoint.files(made.model_dir), checkpoint.frozen_graph(made.model_dir)]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(path.name)
    write_pointers(made.model_dir, BestAndLast(old, 50.0, new, 40.0))
    traces = ("training-simtrace/0-iteration.csv", "1/training-simtrace/0-iteration.csv")
    records = ("steps/0.npz", "resume/2.json", "logs/a.log", *traces)
    for key in ("config.yaml", "status.json", *records):
        (made.path / key).parent.mkdir(parents=True, exist_ok=True)
        (made.path / key).write_text(key)
    return made


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A console export: the files the console reads, one large enough to go in parts."""
    folder = tmp_path / "export"
    keys = ("model_metadata.json", "reward_function.py", "ip/hyperparameters.json")
    left_out = ("left_out.zip", ".DS_Store", "model/Thumbs.db")
    for key in (*keys, "training_params.yaml", "model/.coach_checkpoint", *left_out):
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_text(key)
    (folder / "model" / "big").write_bytes(os.urandom(PART_BYTES + 1000))
    return folder


def send(session: ConsoleSession, run: Run, export: Path, **more: Any) -> ConsoleUpload:
    console = session._users.meta.endpoint_url
    return upload_to_console(run, export, session, "My-Model", endpoint=console, **more)


# --- the console -----------------------------------------------------------------------------


def test_a_model_reaches_the_console(
    session: ConsoleSession, console: Console, run: Run, export: Path
) -> None:
    total: list[int] = []
    sent: list[int] = []

    def begin(num_bytes: int) -> Any:
        total.append(num_bytes)
        return sent.append

    done = send(session, run, export, description="two words", progress=begin)
    assert (done.model_id, done.status) == ("model1", "READY")
    (request,) = console.imports
    assert request["modelName"] == "My-Model"
    assert request["modelDescription"] == "two words"
    assert request["s3Bucket"] == console.aws.pool["uploadBucketName"]
    prefix = request["s3Path"]
    assert prefix.startswith("uploads/models/") and len(prefix) == 15 + 36
    expected = sorted(
        f"{prefix}/{path.relative_to(export)}"
        for path in export.rglob("*")
        if path.is_file() and not path.name.endswith((".zip", ".DS_Store", "Thumbs.db"))
    )
    assert console.aws.keys() == expected
    assert total == [sum(sent)]
    assert f"/{REGION}/execute-api/aws4_request" in console.signatures[0]
    assert not (run.path / "upload").exists()


def test_readers_find_the_pointer_last(
    session: ConsoleSession, console: Console, run: Run, export: Path
) -> None:
    send(session, run, export)
    assert console.aws.puts()[-1].endswith("/model/.coach_checkpoint")


def test_an_interrupted_upload_goes_on_where_it_ended(
    session: ConsoleSession, console: Console, run: Run, export: Path
) -> None:
    aws = console.aws
    aws.faults.append((lambda method, path: method == "PUT" and "reward" in path, 400, BROKEN))
    with pytest.raises(StoreError, match="Cannot write .*reward_function.py.*InvalidRequest"):
        send(session, run, export)
    arrived = {path.partition("uploads/")[2] for path in aws.puts()[:-1]}
    assert len(arrived) == 3 and console.imports == []
    first = set(aws.keys())
    aws.asked.clear()
    done = send(session, run, export)
    assert done.files.num_skipped == 3
    assert not arrived & {path.partition("uploads/")[2] for path in aws.puts()}
    assert first < set(aws.keys())
    assert len({key.split("/")[2] for key in aws.keys()}) == 1
    assert len(console.imports) == 1


def test_an_export_that_changed_since_is_sent_anew_and_whole(
    session: ConsoleSession, console: Console, run: Run, export: Path
) -> None:
    aws = console.aws
    aws.faults.append(
        (lambda method, path: method == "PUT" and "training_params" in path, 400, BROKEN)
    )
    with pytest.raises(StoreError):
        send(session, run, export)
    before = {key.split("/")[2] for key in aws.keys()}
    (export / "reward_function.py").write_text("another")
    assert send(session, run, export).files.num_skipped == 0
    (request,) = console.imports
    assert request["s3Path"].split("/")[2] not in before


def test_an_interrupted_wait_does_not_import_twice(
    session: ConsoleSession, console: Console, run: Run, export: Path
) -> None:
    console.statuses = [IMPORTING]
    with pytest.raises(ConsoleError, match="still imports the model model1"):
        send(session, run, export, most_minutes=0.0)
    console.aws.asked.clear()
    console.statuses = [READY]
    assert send(session, run, export).model_id == "model1"
    assert len(console.imports) == 1
    assert console.aws.puts() == []


def test_another_checkpoint_under_the_same_name_is_not_taken_for_the_first(
    session: ConsoleSession, console: Console, run: Run, export: Path
) -> None:
    console.statuses = [IMPORTING]
    with pytest.raises(ConsoleError, match="still imports the model model1"):
        send(session, run, export, most_minutes=0.0)
    (export / "model" / "big").write_bytes(b"other weights")
    console.statuses = [READY]
    assert send(session, run, export).model_id == "model2"
    first, second = (request["s3Path"] for request in console.imports)
    assert first != second
    assert f"{second}/model/big" in console.aws.keys()


def test_credentials_that_expire_during_the_upload_are_renewed(
    session: ConsoleSession, console: Console, run: Run, export: Path
) -> None:
    aws = console.aws
    aws.faults.append((lambda method, path: method == "PUT" and "reward" in path, 400, EXPIRED))
    aws.asked.clear()
    assert send(session, run, export).status == "READY"
    assert aws.flows() == ["REFRESH_TOKEN_AUTH"]


def test_credentials_that_expire_during_the_wait_are_renewed(
    session: ConsoleSession, console: Console, run: Run, export: Path
) -> None:
    console.refusals = [(403, "The security token included in the request is expired")]
    console.aws.asked.clear()
    assert send(session, run, export).status == "READY"
    assert console.aws.flows() == ["REFRESH_TOKEN_AUTH"]
    assert len(console.imports) == 1


def test_credentials_are_renewed_before_they_expire(console: Console) -> None:
    hours = [0]
    session = ConsoleSession(
        discover(console.url),
        SignIn(USER, PASSWORD),
        console.aws.endpoint,
        now=lambda: datetime.now(UTC) + timedelta(hours=hours[0]),
    )
    assert session.credentials is session.credentials
    assert console.aws.flows() == ["USER_PASSWORD_AUTH"]
    first = session.credentials
    hours[0] = 24
    assert session.credentials is not first
    assert "REFRESH_TOKEN_AUTH" in console.aws.flows()


def test_a_refresh_token_that_is_over_signs_in_again(
    session: ConsoleSession, console: Console
) -> None:
    said = {"__type": "NotAuthorizedException", "message": "Refresh Token has expired"}
    console.aws.faults.append(
        (lambda operation, flow: flow == "REFRESH_TOKEN_AUTH", 400, json.dumps(said))
    )
    session.renew()
    assert console.aws.flows()[-2:] == ["REFRESH_TOKEN_AUTH", "USER_PASSWORD_AUTH"]


def test_a_wrong_password_is_refused_and_not_shown(
    console: Console, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(SignInFailed) as raised:
        sign_in(console, password="Wrong-Passw0rd!")
    assert f"does not let {USER} in" in str(raised.value)
    assert raised.value.exit_status == 2
    assert "Wrong-Passw0rd!" not in str(raised.value)
    assert "Wrong-Passw0rd!" not in caplog.text
    with pytest.raises(SignInFailed, match="does not let nobody in"):
        sign_in(console, user="nobody")


def test_an_invited_user_is_told_to_choose_a_password(console: Console) -> None:
    with pytest.raises(SignInFailed, match="invited must choose a password first: sign in at"):
        sign_in(console, user="invited")


def test_no_secret_is_logged(console: Console, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        session = sign_in(console)
        session.model("none")
    given = session.credentials
    assert given.session_token
    for secret in (PASSWORD, given.secret_key, given.session_token, session._id_token):
        assert secret not in caplog.text
    assert logging.getLogger("botocore").level == logging.NOTSET


def test_secrets_are_in_no_representation(session: ConsoleSession) -> None:
    shown = repr(session._sign_in) + repr(session.credentials)
    assert PASSWORD not in shown
    assert session.credentials.secret_key not in shown


def test_the_consoles_own_error_is_shown(
    session: ConsoleSession, console: Console, run: Run, export: Path
) -> None:
    console.statuses = [IMPORTING, {"status": "ERROR", "importErrorMessage": "Reward is bad."}]
    with pytest.raises(RunFailed, match="could not import the model: Reward is bad.$"):
        send(session, run, export)
    # The next attempt begins anew.
    console.statuses = [READY]
    assert send(session, run, export).model_id == "model2"


def test_a_refused_import_is_shown_with_its_reason(
    session: ConsoleSession, console: Console, run: Run, export: Path
) -> None:
    (export / "training_params.yaml").unlink()
    with pytest.raises(ConsoleError, match=r"POST /importmodel \(400\): Missing training_params"):
        send(session, run, export)


def test_a_few_failed_looks_do_not_end_the_wait(
    session: ConsoleSession, console: Console, run: Run, export: Path
) -> None:
    console.statuses = [IMPORTING, READY]
    with pytest.raises(ConsoleError, match="still imports"):
        send(session, run, export, most_minutes=0.0)
    console.refusals = [(502, "Bad gateway")] * 4
    assert send(session, run, export).status == "READY"
    console.statuses = [IMPORTING]
    with pytest.raises(ConsoleError, match="still imports"):
        send(session, run, export, most_minutes=0.0)
    console.refusals = [(502, "Bad gateway")] * 5
    with pytest.raises(ConsoleError, match=r"\(502\): Bad gateway"):
        send(session, run, export)


def test_a_local_s3_server_in_the_environment_is_none_of_the_consoles(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert sign_in(console).credentials.session_token


@pytest.mark.parametrize("name", ["", "a_b", "a b", "ä", "x" * 65])
def test_a_name_the_console_does_not_take_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="letters, digits and hyphens"):
        check_name(name)


def test_a_description_the_console_does_not_take_is_refused() -> None:
    check_name("name", "fine words")
    with pytest.raises(ConfigError, match="description"):
        check_name("name", "so-so!")


# --- finding the console ---------------------------------------------------------------------


def test_env_js_is_read_as_json_and_as_javascript() -> None:
    plain = 'window.EnvironmentConfig = {"region": "eu-west-1", "userPoolId": "eu-west-1_a"};'
    script = "window.EnvironmentConfig={region:'eu-west-1',\n userPoolId: \"eu-west-1_a\",}"
    expected = {"region": "eu-west-1", "userPoolId": "eu-west-1_a"}
    assert parse_environment(plain) == parse_environment(script) == expected
    assert parse_environment("<html></html>") == {}


def test_a_page_that_is_no_console_is_refused(console: Console, aws: Aws) -> None:
    with pytest.raises(ConsoleError, match="No console at .* answers with status"):
        discover(aws.endpoint)
    aws.pool, kept = {**aws.pool, "region": "no region"}, aws.pool
    try:
        with pytest.raises(ConsoleError, match="its env.js lacks region"):
            discover(console.url)
    finally:
        aws.pool = kept


@pytest.mark.parametrize(
    "url", ["", "console.example.com", "http://console.example.com", "https://u:pw@h", "ftp://h"]
)
def test_an_address_without_tls_or_with_a_password_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="The console's address is https://host"):
        discover(url)


def test_a_console_that_does_not_answer_is_told() -> None:
    with pytest.raises(ConsoleError, match="http://127.0.0.1:9 cannot be reached: nobody"):
        discover("http://127.0.0.1:9")


# --- a bucket --------------------------------------------------------------------------------


def bucket_environment(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", REGION)
    return f"s3://{aws.pool['uploadBucketName']}/models/mine"


def test_a_run_goes_to_a_bucket_without_its_records(
    aws: Aws, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = bucket_environment(aws, monkeypatch)
    report = upload_run(run, place, endpoint=aws.endpoint)
    keys = [item.key for item in open_store(place, aws.endpoint).objects()]
    assert "config.yaml" in keys and "status.json" in keys
    records = ("steps/", "resume/", "logs/", "upload/", "training-simtrace/", "1/")
    assert not [key for key in keys if key.startswith(records)]
    checkpoints = {key for key in keys if key.endswith(".index")}
    assert checkpoints == {"model/1_Step-10.ckpt.index", "model/2_Step-20.ckpt.index"}
    assert "model/model_0.pb" not in keys
    assert aws.puts()[-1].endswith("model/deepracer_checkpoints.json")
    assert aws.puts()[-2].endswith("model/.coach_checkpoint")
    assert (report.location, report.num_files) == (place, len(keys))
    assert not (run.path / "upload").exists()


def test_one_checkpoint_or_everything_can_be_sent(
    aws: Aws, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = bucket_environment(aws, monkeypatch)
    upload_run(run, place, "last", aws.endpoint)
    found = [item.key for item in open_store(place, aws.endpoint).objects("model/")]
    assert [key for key in found if key.endswith(".index")] == ["model/2_Step-20.ckpt.index"]
    upload_run(run, place, None, aws.endpoint, is_everything=True)
    keys = [item.key for item in open_store(place, aws.endpoint).objects()]
    assert {"steps/0.npz", "resume/2.json", "logs/a.log", "model/model_0.pb"} <= set(keys)


def test_an_interrupted_upload_to_a_bucket_goes_on(
    aws: Aws, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = bucket_environment(aws, monkeypatch)
    aws.faults.append((lambda method, path: "model_2.pb" in path, 400, BROKEN))
    with pytest.raises(StoreError, match="InvalidRequest"):
        upload_run(run, place, endpoint=aws.endpoint)
    before = len(aws.puts()) - 1
    aws.asked.clear()
    report = upload_run(run, place, endpoint=aws.endpoint)
    assert report.num_skipped == before > 0
    assert len(aws.puts()) == report.num_files


def test_what_arrived_at_one_server_is_not_skipped_at_another(
    aws: Aws, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = bucket_environment(aws, monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.endpoint)
    aws.faults.append((lambda method, path: "model_2.pb" in path, 400, BROKEN))
    with pytest.raises(StoreError, match="InvalidRequest"):
        upload_run(run, place)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", aws.moto)
    assert upload_run(run, place).num_skipped == 0


def test_a_running_run_is_not_sent(aws: Aws, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    place = bucket_environment(aws, monkeypatch)
    with run.lock(), pytest.raises(ConfigError, match="is running"):
        upload_run(run, place, endpoint=aws.endpoint)


def test_an_upload_goes_to_a_bucket_only(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="An upload goes to s3://bucket/prefix"):
        upload_run(run, str(tmp_path))


def test_a_damaged_state_begins_anew(run: Run) -> None:
    state = UploadState.load(run, "somewhere")
    state.arrived["a"] = "b"
    state.save()
    assert UploadState.load(run, "somewhere").arrived == {"a": "b"}
    assert UploadState.load(run, "elsewhere").arrived == {}
    state.path.write_text('{"arrived": 3}')
    assert UploadState.load(run, "somewhere").arrived == {}
    assert "secret" not in state.path.read_text()


# --- a real server ---------------------------------------------------------------------------


@pytest.fixture
def minio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "contract")
    from s3_server import running_minio

    (tmp_path / "minio").mkdir()
    with running_minio(tmp_path / "minio") as server:
        yield server


def upload_command(run: Run, place: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    arguments = ["upload", "s3", "mine", place, "--runs-dir", str(run.path.parent)]
    return subprocess.Popen(
        [sys.executable, "-m", "local_trainer", *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.services
def test_an_upload_that_is_killed_goes_on_and_arrives_whole(minio: Any, run: Run) -> None:
    for number in range(60):
        (run.path / f"plots/{number:02}.png").parent.mkdir(exist_ok=True)
        (run.path / f"plots/{number:02}.png").write_bytes(os.urandom(2**20))
    (run.path / "model" / "deepracer.bin").write_bytes(os.urandom(PART_BYTES + 1000))
    place = f"s3://{minio.new_bucket()}/models/mine"
    first = upload_command(run, place, minio.environment)
    states = run.path / "upload"
    deadline = time.monotonic() + 60.0
    while not list(states.glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    first.kill()
    first.communicate()
    (state,) = states.glob("*.json")
    num_arrived = len(json.loads(state.read_text(encoding="utf-8"))["arrived"])
    second = upload_command(run, place, minio.environment)
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert f"{num_arrived} file" in out and "had arrived before" in out
    assert not states.exists()
    store = open_store(place, minio.endpoint, minio.credentials, "us-east-1")
    keys = {item.key for item in store.objects()}
    assert {f"plots/{number:02}.png" for number in range(60)} < keys
    for key in ("model/deepracer.bin", "plots/00.png", "plots/59.png"):
        assert store.get(key) == (run.path / key).read_bytes()


@pytest.mark.services
@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_one_line_and_nothing_arrives(
    minio: Any, run: Run, name: str
) -> None:
    bucket = minio.new_bucket()
    wrong = {**minio.environment, name: "wrong-wrong-wrong"}
    process = upload_command(run, f"s3://{bucket}/models/mine", wrong)
    _, err = process.communicate(timeout=60)
    lines = [line for line in err.splitlines() if line.strip()]
    assert process.returncode == 2, err
    assert len(lines) == 1 and "Check the credentials and what they allow" in lines[0]
    assert "wrong-wrong-wrong" not in err
    assert minio.credentials.secret_key not in err
    assert list(minio.client().list_objects_v2(bucket, recursive=True)) == []


def test_a_token_that_is_over_says_so(aws: Aws, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    place = bucket_environment(aws, monkeypatch)
    aws.faults.append((lambda method, path: method == "PUT" and "reward" in path, 400, EXPIRED))
    (run.path / "reward_function.py").write_text("# later")
    with pytest.raises(CredentialsExpired, match=r"the credentials expired \(ExpiredToken\)"):
        upload_run(run, place, endpoint=aws.endpoint)
    report = upload_run(run, place, endpoint=aws.endpoint)  # with new ones
    assert report.num_skipped > 0
