"""Registering the deployments of prefect.yaml, without undoing what was changed on the server."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import flows
from flows.home import api_secret, prefect_settings, program
from pipeline.errors import StageError
from pipeline.storage import read_json, sha256, write_json

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.responses import DeploymentResponse

POOL = "sam2-local"
PROJECT = Path(flows.__file__).resolve().parent.parent
"""The checkout; prefect.yaml with the deployments lies here."""
EDITED: Mapping[str, Any] = {
    **dict.fromkeys(("description", "tags", "parameters", "job_variables", "paused"), True),
    "concurrency_options": True,
    "schedules": {"__all__": {"schedule", "active", "max_scheduled_runs", "parameters", "slug"}},
}
"""What a person may change on a deployment's page, besides the concurrency limit."""


def make_pool(state: Path, api_url: str) -> None:
    """Make the work pool, where a worker takes its runs from, unless there is one: it may be paused
    or limited by a person."""
    from prefect.exceptions import ObjectNotFound

    with _client(api_url) as client:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound:
            _prefect(state, api_url, "work-pool", "create", POOL, "--type", "process")


def register(state: Path, api_url: str, note: Callable[[str], None]) -> None:
    """Register the deployments.

    What was changed on the server stays as it is there, unless prefect.yaml has changed since it
    was registered last. Registering overwrites it first, so it is kept in `state` meanwhile:
    whoever is killed in between loses nothing.

    state: the state folder. note: takes what a person should know. Raises StageError when Prefect
    does not take them.
    """
    file, mark = PROJECT / "prefect.yaml", state / "prefect" / "deployed"
    aside = state / "prefect" / "changed.json"
    known = mark.is_file() and mark.read_text(encoding="utf-8") == sha256(file)
    if known and not aside.exists():
        with _client(api_url) as client:
            write_json(aside, {"deployments": [_kept(found) for found in _ours(client)]})
    _prefect(state, api_url, "deploy", "--all", "--prefect-file", str(file))
    if known:
        with _client(api_url) as client:
            for one in (read_json(aside) or {}).get("deployments", []):
                _put_back(client, one, note)
    aside.unlink(missing_ok=True)
    mark.write_text(sha256(file), encoding="utf-8")


def worker_online(api_url: str) -> bool:
    """Whether a worker takes runs from the pool."""
    with _client(api_url) as client:
        return any(one.status == "ONLINE" for one in client.read_workers_for_work_pool(POOL))


@contextmanager
def _client(api_url: str) -> Iterator[SyncPrefectClient]:
    """One that asks again when the server's database is locked. Raises StageError when that, or
    anything else, does not pass."""
    import httpx
    from prefect.client.orchestration import SyncPrefectClient

    try:
        with SyncPrefectClient(api_url, auth_string=api_secret() or None) as client:
            yield client
    except httpx.HTTPError as error:
        said = str(error).partition("\n")[0]
        raise StageError(
            f"the Prefect server {api_url} does not do its part ({said}); "
            "nothing is lost, run `sam2-pipeline up` again"
        ) from error


def _ours(client: SyncPrefectClient) -> list[DeploymentResponse]:
    """The deployments of the pool."""
    from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName

    return client.read_deployments(
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL]))
    )


def _kept(found: DeploymentResponse) -> dict[str, Any]:
    """A deployment's id, its name, and what a person may have changed of it."""
    limit = found.global_concurrency_limit
    fields = found.model_dump(mode="json", include=EDITED)
    fields["concurrency_limit"] = limit.limit if limit else None
    return {"id": str(found.id), "name": found.name, "fields": fields}


def _put_back(client: SyncPrefectClient, kept: dict[str, Any], note: Callable[[str], None]) -> None:
    from prefect.client.schemas.actions import DeploymentUpdate
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

    fields = kept["fields"]
    try:
        client.update_deployment(UUID(kept["id"]), DeploymentUpdate.model_validate(fields))
    except ObjectNotFound:  # deleted on the server, and registered anew
        return
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in (409, 422):
            raise
        note(
            f"deployment {kept['name']}: what was changed on the server no longer fits the flow, "
            f"prefect.yaml's counts; it was {json.dumps(fields)}"
        )


def _prefect(state: Path, api_url: str, *words: str) -> None:
    """Call the `prefect` command. Raises StageError with what it said when it fails."""
    answer = subprocess.run(
        [program("prefect"), "--no-prompt", *words],
        env={**os.environ, **prefect_settings(state, api_url)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if answer.returncode != 0:
        log = state / "logs" / "prefect-command.log"
        log.write_text(answer.stdout + answer.stderr, encoding="utf-8")
        said = " ".join(answer.stderr.split() or answer.stdout.split())[:400]
        raise StageError(f"`prefect {words[0]}` failed ({said} …); all of it is in {log}")
