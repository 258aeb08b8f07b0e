"""Where the ranks of a SLURM job meet, anew in every life of the job.

Rank 0 opens a store on a free port of whichever node it is on, and leaves the port and all its
node's addresses in the folder of the attempt; the others take the first address that answers with
this life's word. So nothing is fixed before the job runs, a requeue may land on other nodes, and
the names of nodes need not resolve.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch.distributed as dist

from pipeline.errors import StageError
from pipeline.storage import read_json, write_json

PROBE_SECONDS = 3.0
PAUSE = 0.2


def meet(rank: int, size: int, timeout: timedelta) -> dist.TCPStore:
    """The store that all ranks of this life of the job share.

    Also tells gloo which network interface leads to the others, unless GLOO_SOCKET_IFNAME does.
    Raises StageError when rank 0 cannot be reached within `timeout`.
    """
    folder, environment = Path(os.environ["SUBMITIT_FOLDER"]), os.environ
    life = f"{environment['SLURM_JOB_ID']}-{environment.get('SLURM_RESTART_COUNT', '0')}"
    note = folder / f"rendezvous-{life}.json"
    if rank == 0:
        store = _open(note, size, timeout)
        _use_interface("127.0.0.1")
        return store
    return _join(note, rank, size, timeout)


def candidates(environment: Mapping[str, str]) -> list[str]:
    """What this node may be called by others, likeliest first: what the user says, the address
    SLURM itself uses, names, and the address of every interface."""
    first = [environment.get("MASTER_ADDR", ""), environment.get("SLURM_LAUNCH_NODE_IPADDR", "")]
    if environment.get("SLURM_JOB_NUM_NODES") == "1":
        first.insert(0, "127.0.0.1")
    names = [environment.get("SLURMD_NODENAME", ""), socket.gethostname()]
    own = [address for address in _interfaces() if not address.startswith("127.")]
    return list(dict.fromkeys(word for word in (*first, *names, *own) if word))


def _open(note: Path, size: int, timeout: timedelta) -> dist.TCPStore:
    store = dist.TCPStore("127.0.0.1", 0, size, True, timeout, wait_for_workers=False)
    word = f"life {secrets.token_hex(8)}"
    store.set(word, "here")
    values = {"addresses": candidates(os.environ), "port": store.port, "word": word}
    write_json(note, values)
    return store


def _join(note: Path, rank: int, size: int, timeout: timedelta) -> dist.TCPStore:
    until = time.monotonic() + timeout.total_seconds()
    found: dict[str, Any] | None = None
    while time.monotonic() < until:
        os.listdir(note.parent)  # a network disk may remember that the file was not there
        found = read_json(note)
        if found is not None:
            for address in found["addresses"]:
                store = _try(address, found["port"], found["word"], size, timeout)
                if store is not None:
                    return store
        time.sleep(PAUSE)
    where = f"rank {rank} on {socket.gethostname()} waited {timeout.total_seconds():.0f} s"
    if found is None:
        raise StageError(f"{where} for rank 0, which left no {note}; see the log of rank 0")
    raise StageError(
        f"{where} and reached rank 0 at none of {', '.join(found['addresses'])}, port "
        f"{found['port']}; open the ports between the nodes, or name the address of the first node "
        "with `export MASTER_ADDR=…` in launch.setup"
    )


def _try(address: str, port: int, word: str, size: int, timeout: timedelta) -> dist.TCPStore | None:
    """The store behind an address, if it is that of this life: another node may have the same
    address on a network of its own."""
    try:
        with socket.create_connection((address, port), timeout=PROBE_SECONDS) as probe:
            local = probe.getsockname()[0]
        patience = timedelta(seconds=PROBE_SECONDS)
        store: Any = dist.TCPStore(address, port, size, False, patience, wait_for_workers=False)
        if not store.check([word]):
            return None
    except (OSError, RuntimeError):  # no name, no answer, or not a store
        return None
    store.set_timeout(timeout)
    _use_interface(local)
    return store


def _use_interface(address: str) -> None:
    """Let gloo talk over the interface of this address of ours. The loopback leads to no other
    node: where there are several, a rank beside rank 0 takes what rank 0 takes, the interface SLURM
    uses or else the first one."""
    own = _interfaces()
    if address.startswith("127.") and os.environ.get("SLURM_JOB_NUM_NODES") != "1":
        outward = [one for one in candidates(os.environ) if one in own and one[:4] != "127."]
        address = outward[0] if outward else address
    if address in own:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", own[address])


def _interfaces() -> dict[str, str]:
    """Name of the network interface by its IPv4 address."""
    found: Mapping[str, Sequence[Any]] = psutil.net_if_addrs()
    return {
        entry.address: name
        for name, entries in found.items()
        for entry in entries
        if entry.family == socket.AF_INET
    }
