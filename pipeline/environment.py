"""What every process of ours sets before it imports anything large: no telemetry to the outside,
fewer threads' fights.

Call `quiet` first thing in an entry point; the jobs inherit it.
"""

from __future__ import annotations

import os
import random
import socket
from contextlib import suppress

QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "GIT_PYTHON_REFRESH": "quiet",  # MLflow looks for git and complains without it
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the journal waits; a job must not, for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "AWS_EC2_METADATA_DISABLED": "true",  # otherwise boto3 waits for a metadata server
}


PORTS = range(15_000, 32_000)
"""Below those that systems give to outgoing connections: whoever is told of a port listens there some
seconds later, and no connection should have it by then."""


def quiet() -> None:
    """Turn the telemetry of Prefect and MLflow off, unless the user's environment says
    otherwise."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def free_port() -> int:
    """A port of the loopback interface that nobody uses now. Raises OSError when there is none."""
    for port in random.SystemRandom().sample(PORTS, 200):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(f"200 ports of {PORTS.start} to {PORTS.stop} are all in use")


def free_cores() -> int:
    """The cores this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def env_rank() -> int:
    """The rank this process was started with; 0 where there is only one. Needs no torch."""
    for name in ("SUBMITIT_LOCAL_GLOBALID", "RANK", "SLURM_PROCID"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0
