"""No secret reaches what others read, and nothing else is lost on the way."""

import logging

import pytest

from pipeline.errors import ConfigError
from pipeline.redaction import (
    RedactingFilter,
    redact,
    redact_logs,
    redacted,
    require_no_secrets,
)

LOOKS = {
    "postgresql://mlflow:hunter2secret@db/mlflow": "postgresql://***@db/mlflow",
    "https://token123@host/x": "https://***@host/x",
    "s3://bucket/a?X-Amz-Signature=abc123&versionId=7": "s3://bucket/a?X-Amz-Signature=***&versionId=7",
    "key AKIAIOSFODNN7EXAMPLE is": "key *** is",
    "Authorization: Bearer abcdef123456": "Authorization: *** ***",
    "datasets.train.password=hunter2 seed=1": "datasets.train.password=*** seed=1",
    "AWS_SECRET_ACCESS_KEY=wJalrXUtn": "AWS_SECRET_ACCESS_KEY=***",
    '{"api_key": "12ab", "lr": 1}': '{"api_key": ***, "lr": 1}',
    "ghp_0123456789abcdefghij at": "*** at",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.sig": "***",
}
HARMLESS = [
    "sqlite:////runs/mlflow.db",
    "stages.video_train.optim.lr=0.1 tokens=7 max_tokens: 12",
    "stage_key=0a1b2c3d4e",
    "token: 5, obj_token: true",
    "user@host.org wrote s3://bucket/key",
    "image_encoder.trunk.blocks.0.attn.qkv.weight",
]


@pytest.mark.parametrize("text", LOOKS)
def test_what_looks_like_a_secret_is_blotted_out(text: str):
    assert redact(text) == LOOKS[text]
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_none_stays(text: str):
    assert redact(text) == text


def test_what_the_environment_holds_is_found_anywhere(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("STORE_PASSWORD", "correct horse battery")
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    assert redact("it says correct horse battery; abc") == "it says ***; abc"


def test_settings_are_told_by_name():
    settings = {
        "store": {"access_key": "AB", "endpoint": "http://u:p@h", "parts": ["x", "token=y"]},
        "secret": "z",
        "token": 5,
        "clientSecret": "q",
        "keys": ["a"],
    }
    assert redacted(settings) == {
        "store": {"access_key": "***", "endpoint": "http://***@h", "parts": ["x", "token=***"]},
        "secret": "***",
        "token": 5,
        "clientSecret": "***",
        "keys": ["a"],
    }


def test_logs_and_their_tracebacks(caplog: pytest.LogCaptureFixture):
    caplog.handler.addFilter(RedactingFilter())
    logger = logging.getLogger("redaction")
    try:
        raise ValueError("s3://me:mysecret@host")
    except ValueError:
        logger.exception("asked %s", "http://u:mysecret@h")
    assert "mysecret" not in caplog.text
    assert "http://***@h" in caplog.text and "ValueError: s3://***@host" in caplog.text


def test_every_handler_gets_the_filter_once(caplog: pytest.LogCaptureFixture):
    logger = logging.getLogger("redaction.own")
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    try:
        for _ in range(2):
            redact_logs()
        assert [type(item) for item in handler.filters] == [RedactingFilter]
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize(
    "settings",
    [
        {"tracking": {"uri": "https://lab:hunter2secret@mlflow.lab"}},
        {"datasets": {"train": {"root": "s3://bucket/a?X-Amz-Signature=abc123hunter2"}}},
        {"launch": {"setup": ["export HF=hf_0123456789abcdefghijhunter2"]}},
    ],
)
def test_settings_with_a_secret_are_refused_without_showing_it(settings: dict):
    with pytest.raises(
        ConfigError, match=r"looks like a secret .* through the environment"
    ) as said:
        require_no_secrets(settings)
    assert "hunter2" not in str(said.value)
    assert str(said.value).startswith(next(iter(settings)))


def test_ordinary_settings_pass():
    require_no_secrets({"a": ["s3://bucket/key", 1, None], "b": {"uri": "http://127.0.0.1:5050"}})
