"""The page of a flow run: artifacts that are made once and kept current.

What Prefect's server does not take now is kept and offered again: a slow or absent server neither
stops nor changes a run (law 6), and what was not told is told later.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from pipeline.progress import duration_text
from pipeline.redaction import redact, redacted

LOOK_SECONDS = 2.0
"""A server that did not answer is asked again after this time."""
LARGEST_IMAGE = 1 << 19
"""Bytes; images travel inside their artifact, so that any browser sees them."""

Kind = Literal["markdown", "table", "image", "progress"]


@dataclass
class _Artifact:
    kind: Kind
    flow_run: UUID | None
    task_run: UUID | None
    """Whose page it is on."""
    content: Any = None
    description: str = ""
    id: UUID | None = None
    sent: bool = False


class Page:
    """Artifacts by key. Every method returns soon, whatever the server does."""

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self.logger = logger
        self.artifacts: dict[str, _Artifact] = {}
        self.answered, self.looked = True, 0.0

    def markdown(self, key: str, text: str, description: str) -> None:
        """A text."""
        self._put(key, "markdown", text, description)

    def table(self, key: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
        """A table; every row names its cells."""
        self._put(key, "table", json.dumps([dict(row) for row in rows]), description)

    def image(self, key: str, url: str, description: str) -> None:
        """A picture that a browser finds at `url`; Prefect prints the address, so it is no `data:`."""
        self._put(key, "image", url, description)

    def bar(self, key: str, percent: float, description: str) -> None:
        """A progress bar."""
        self._put(key, "progress", round(min(percent, 100.0), 1), description)

    def flush(self, patience: float = 0.0) -> bool:
        """Offer what was not taken yet, waiting at most `patience` seconds for a server that does
        not answer; whether all is told."""
        until = time.monotonic() + patience
        silent_since = time.time()
        while not self.reachable(at_once=patience > 0) and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
        if self.reachable():
            waited = time.time() - silent_since
            if waited > 2 * LOOK_SECONDS:
                self.logger.info("Prefect answers again after %s", duration_text(waited))
            for key, artifact in self.artifacts.items():
                if not artifact.sent:
                    self._send(key, artifact)
        return all(artifact.sent for artifact in self.artifacts.values())

    def reachable(self, at_once: bool = False) -> bool:
        """Does the server answer? One that does not is asked again only after a while."""
        now = time.monotonic()
        if not self.answered and not at_once and now - self.looked < LOOK_SECONDS:
            return False
        self.answered, self.looked = server_answers(), now
        return self.answered

    def _put(self, key: str, kind: Kind, content: Any, description: str) -> None:
        artifact = self.artifacts.setdefault(key, _Artifact(kind, *_here()))
        content, description = redacted(content), redact(description)
        if (artifact.content, artifact.description) == (content, description):
            return
        artifact.content, artifact.description, artifact.sent = content, description, False
        self.flush()

    def _send(self, key: str, artifact: _Artifact) -> None:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

        content: dict[str, Any] = {"data": artifact.content, "description": artifact.description}
        try:
            with get_client(sync_client=True) as client:
                if artifact.id is None:
                    new = ArtifactCreate(
                        type=artifact.kind,
                        key=key,
                        flow_run_id=artifact.flow_run,
                        task_run_id=artifact.task_run,
                        **content,
                    )
                    artifact.id = client.create_artifact(new).id
                else:
                    client.update_artifact(artifact.id, ArtifactUpdate(**content))
            artifact.sent = True
        except Exception as error:  # whatever ails the server must not end the run
            self.logger.warning("Prefect did not take %s now (%s)", key, error)


def _here() -> tuple[UUID | None, UUID | None]:
    """The flow run and the task run that this is called in."""
    from prefect.runtime import flow_run, task_run

    found = (flow_run.id, task_run.id)
    return tuple(UUID(str(name)) if name else None for name in found)  # type: ignore[return-value]


def server_answers(seconds: float = 2.0) -> bool:
    """Is there a Prefect server at the address this process uses?"""
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if not url:  # a server inside this process
        return True
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=seconds):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # its certificates are Prefect's affair
    except OSError:
        return False


def image_url(file: Path) -> str:
    """A PNG or JPEG file as an address that holds it whole; empty for one that is too large."""
    data = file.read_bytes()
    kind = "png" if file.suffix.lower() == ".png" else "jpeg"
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return url if len(data) <= LARGEST_IMAGE else ""


def artifact_key(*parts: str) -> str:
    """A key of the letters Prefect allows, `[a-z0-9-]`."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")
