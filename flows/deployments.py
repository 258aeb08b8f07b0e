"""Registering the deployments of prefect.yaml, without undoing what was changed on the server."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import flows
from flows.home import api_secret, prefect_settings, program
from pipeline.errors import StageError
from pipeline.storage import read_json, sha256, write_json

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

POOL = "sam2-local"
PROJECT = Path(flows.__file__).resolve().parent.parent
"""The checkout; prefect.yaml with the deployments lies here."""
SCHEDULE_FIELDS = ("schedule", "active", "max_scheduled_runs", "parameters", "slug")


def make_pool(state: Path, api_url: str) -> None:
    """Make the work pool, where a worker takes its runs from."""
    _prefect(state, api_url, "work-pool", "create", POOL, "--type", "process", "--overwrite")


def register(state: Path, api_url: str, note: Callable[[str], None]) -> None:
    """Register the deployments.

    Parameters and schedules that were changed on the server stay as they are there, unless
    prefect.yaml has changed since it was registered last. Registering overwrites them first, so
    they are kept in `state` meanwhile: whoever is killed in between loses nothing.

    state: the state folder. note: takes what a person should know. Raises StageError when Prefect
    does not take them.
    """
    file, mark = PROJECT / "prefect.yaml", state / "prefect" / "deployed"
    aside = state / "prefect" / "changed.json"
    known = mark.is_file() and mark.read_text(encoding="utf-8") == sha256(file)
    if known and not aside.exists():
        with _client(api_url) as client:
            write_json(aside, {"deployments": _changeable(client)})
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


def _client(api_url: str) -> AbstractContextManager[SyncPrefectClient]:
    """One that asks again when the server's database is locked."""
    from prefect.client.orchestration import SyncPrefectClient

    return SyncPrefectClient(api_url, auth_string=api_secret() or None)


def _changeable(client: SyncPrefectClient) -> list[dict[str, Any]]:
    """What a person may change in each deployment of the pool."""
    from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName

    ours = WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL]))
    return [
        {
            "id": str(found.id),
            "name": found.name,
            "parameters": found.parameters,
            "schedules": [
                one.model_dump(mode="json", include=set(SCHEDULE_FIELDS)) for one in found.schedules
            ],
        }
        for found in client.read_deployments(work_pool_filter=ours)
    ]


def _put_back(client: SyncPrefectClient, kept: dict[str, Any], note: Callable[[str], None]) -> None:
    from prefect.client.schemas.actions import DeploymentUpdate
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

    fields = {"parameters": kept["parameters"], "schedules": kept["schedules"]}
    try:
        client.update_deployment(UUID(kept["id"]), DeploymentUpdate.model_validate(fields))
    except ObjectNotFound:  # deleted on the server, and registered anew
        return
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in (409, 422):
            raise StageError(
                f"Prefect did not take back what was changed in deployment {kept['name']} "
                f"({error.response.status_code}); it is kept, run `sam2-pipeline up` again"
            ) from error
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
