"""Secrets stay out of what is written for others to read: MLflow, Prefect's pages, logs.

Three things give a secret away: what it is called (`password=…`), how it looks (a key of AWS, a signed URL, a
`user:password@` before a host), and that the environment of this process holds it. Each is blotted out; what
surrounds it stays readable.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import ConfigError

BLOT = "***"
NAMES = (
    r"(?:password|passwd|passphrase|pwd|secret|token|credentials?|authorization|signature|"
    r"(?:api|access|private|secret|account|shared|encryption|auth)_?key)"
)
SECRET_NAME = re.compile(rf"(?:^|[._\-\s]|(?<=[a-z0-9])(?=[A-Z])){NAMES}(?:_?id)?$", re.IGNORECASE)
ENVIRONMENT_NAME = re.compile(
    r"(?:PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIALS?|API_?KEY|ACCESS_KEY(?:_ID)?|PRIVATE_KEY|ACCOUNT_KEY)$"
)
SHORTEST = 8
"""Values of the environment shorter than this are not looked for in texts: they would be found everywhere."""

_NAMED = re.compile(
    rf"(?P<before>(?<![A-Za-z0-9])(?:[A-Za-z0-9]+[._\-])*{NAMES}(?:_?id)?[\"']?\s*[=:]\s*)"
    r"(?P<value>\"[^\"]*\"|'[^']*'|[^\s,;&\"'}\]]+)",
    re.IGNORECASE,
)
_LOOKS: Sequence[tuple[re.Pattern[str], str]] = (
    # in a URL: what stands before the host, and signatures behind the question mark
    (re.compile(r"(?<=://)[^/@\s'\"]+(?=@)"), BLOT),
    (
        re.compile(
            r"(?i)([?&](?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|sig|signature|"
            r"token|access_token|key|AWSAccessKeyId)=)[^&\s'\"]+"
        ),
        rf"\1{BLOT}",
    ),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/_.~=-]{8,}"), rf"\1 {BLOT}"),
    (re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[0-9A-Z]{12,}\b"), BLOT),  # ids of AWS keys
    (re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|hf_|xox[abprs]-|sk-)[\w-]{16,}"), BLOT),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), BLOT),  # JSON web tokens
    (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S
        ),
        BLOT,
    ),
)


def redact(text: str, name: str = "") -> str:
    """`text` with its secrets blotted out; all of it when `name`, what it is called, names a secret."""
    if name and text and SECRET_NAME.search(name):
        return BLOT
    for value in _environment_secrets():
        text = text.replace(value, BLOT)
    for pattern, instead in _LOOKS:
        text = pattern.sub(instead, text)
    return _NAMED.sub(_blot_value, text)


def _blot_value(found: re.Match[str]) -> str:
    """Numbers, truths and nothings are settings that happen to be called so, not secrets."""
    value = found["value"]
    harmless = re.fullmatch(r"[\d.]+|true|false|null|none|\*\*\*", value.strip("\"'"), re.I)
    return found[0] if harmless else f"{found['before']}{BLOT}"


def redacted(value: Any, name: str = "") -> Any:
    """Nested settings with the secrets of their texts blotted out; numbers and truths stay."""
    if isinstance(value, Mapping):
        return {key: redacted(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(inner, name) for inner in value]
    return redact(value, name) if isinstance(value, str) else value


def require_no_secrets(values: Any, where: str = "") -> None:
    """Refuse settings that hold a secret: they are written to run folders, MLflow and Prefect. Raises
    ConfigError naming the setting, without its value."""
    if isinstance(values, Mapping):
        for key, inner in values.items():
            require_no_secrets(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(values, list | tuple):
        for inner in values:
            require_no_secrets(inner, where)
    elif isinstance(values, str) and _looks_secret(values):
        raise ConfigError(
            f"{where}: found what looks like a secret ({redact(values)}); settings are written to files "
            "that others read. Give it through the environment: AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY for storage, MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD for MLflow"
        )


def _looks_secret(text: str) -> bool:
    return any(pattern.sub(instead, text) != text for pattern, instead in _LOOKS)


class RedactingFilter(logging.Filter):
    """Blots secrets out of whatever passes a handler, the text of an exception included."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; it always passes."""
        message = record.getMessage()
        clean = redact(message)
        if clean != message:
            record.msg, record.args = clean, None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact(record.exc_text)
        return True


def redact_logs() -> None:
    """Put the filter before every handler there is now, of all loggers; again does nothing more."""
    loggers = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    handlers = [handler for found in loggers for handler in getattr(found, "handlers", ())]
    for handler in filter(None, [*handlers, logging.lastResort]):
        if not any(isinstance(item, RedactingFilter) for item in handler.filters):
            handler.addFilter(RedactingFilter())


def _environment_secrets() -> list[str]:
    """Values of this process's environment that are secret by name, the longest first."""
    found = {
        value
        for name, value in os.environ.items()
        if len(value) >= SHORTEST and ENVIRONMENT_NAME.search(name)
    }
    return sorted(found, key=len, reverse=True)
