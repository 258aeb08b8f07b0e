"""A SLURM of our own for a test session: a controller and a few nodes on this machine, on free ports, in a
temporary folder. Nothing of it outlives the session.

`main` is the default partition, whose jobs give way (requeued, told to save first) to those of `high`. There is no
accounting database: states come from `squeue`, as on any cluster without one. Every node claims two GPUs, made of
/dev/null where a device file may be made.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from pipeline.environment import free_port

SBIN = "/usr/sbin"
END_WITH_US = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
"""A session that is killed leaves no daemons."""
GPUS = 2
CONFIGURATION = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
ReturnToService=2
SlurmdTimeout=8
MessageTimeout=4
SlurmctldTimeout=60
InactiveLimit=0
KillWait=3
MinJobAge=7200
Waittime=0
MaxJobCount=500
{gres}
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port={ports} CPUs=4 RealMemory=4000 {gpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=15
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


@dataclass
class Cluster:
    """A running SLURM. `environment` is what its commands need."""

    folder: Path
    nodes: int
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        """Bring everything up. Raises RuntimeError with the end of the log that says why not."""
        for name in ("state", "log"):
            (self.folder / name).mkdir(parents=True)
        self._write_configuration()
        self._begin("slurmctld", ["slurmctld", "-D", "-c"])
        for node in self.names:
            self.revive(node, wait=False)
        idle = ("sinfo", "-h", "-N", "-p", "main", "-t", "idle", "-o", "%N")
        self.wait(lambda: len(self.ask(*idle).split()) == self.nodes)

    @property
    def names(self) -> list[str]:
        return [f"n{number + 1}" for number in range(self.nodes)]

    def ask(self, *command: str) -> str:
        """What one of SLURM's commands prints."""
        environment = {**os.environ, **self.environment}
        answer = subprocess.run(
            command, capture_output=True, text=True, env=environment, check=False
        )
        return answer.stdout.strip()

    def state(self, job_id: str) -> str:
        return self.ask("squeue", "-h", "--states=all", "-j", job_id, "-o", "%T")

    def revive(self, node: str, *, wait: bool = True) -> None:
        """Start the daemon of a node (again)."""
        (self.folder / "spool" / node).mkdir(parents=True, exist_ok=True)
        self._begin(node, ["slurmd", "-D", "-N", node])
        if wait:
            self.wait(
                lambda: "idle" in self.ask("sinfo", "-h", "-n", node, "-p", "main", "-o", "%T")
            )

    def fail(self, node: str) -> None:
        """What pulling the plug of a node does: its daemon and all that runs there are gone at once."""
        self.daemons[node].kill()
        self.daemons.pop(node).wait()
        for process in self._processes(node):
            process.kill()

    def stop(self) -> None:
        """End all jobs and daemons."""
        self.ask("scancel", "--full", "--user", getpass.getuser())
        for daemon in self.daemons.values():
            daemon.terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(2)
            except subprocess.TimeoutExpired:  # it waits for jobs, whose state nobody needs
                daemon.kill()
                daemon.wait()
        for node in self.names:
            for process in self._processes(node):
                process.kill()

    def wait(self, condition: Callable[[], object], seconds: float = 200.0) -> None:
        """Until something holds. Raises RuntimeError with the end of the logs."""
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                logs = sorted((self.folder / "log").glob("*.log"))
                tails = [f"{log.name}: {log.read_text()[-600:]}" for log in logs]
                raise RuntimeError("SLURM did not get there: " + "\n".join(tails))
            time.sleep(0.1)

    def _begin(self, name: str, command: Sequence[str]) -> None:
        with open(self.folder / "log" / f"{name}.out", "ab") as log:
            self.daemons[name] = subprocess.Popen(
                [*END_WITH_US, program(command[0]), *command[1:]],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _processes(self, node: str) -> list[psutil.Process]:
        """What jobs of this cluster have running on one node, and SLURM's keepers of them."""
        spool = str(self.folder / "spool" / node)
        wanted = (self.environment["SLURM_CONF"], node)
        found = []
        for process in psutil.process_iter():
            try:
                values = process.environ()
                if (values.get("SLURM_CONF"), values.get("SLURMD_NODENAME")) == wanted:
                    found.append(process)
                elif process.name() == "slurmstepd":
                    sockets = process.net_connections("unix")
                    found += (
                        [process] if any(str(s.laddr).startswith(spool) for s in sockets) else []
                    )
            except psutil.Error:
                continue
        return found

    def _write_configuration(self) -> None:
        ports = free_ports(self.nodes + 1)
        gpus = self._make_gpus()
        text = CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            user=getpass.getuser(),
            folder=self.folder,
            nodes=self.nodes,
            port=ports[0],
            ports=",".join(str(port) for port in ports[1:]),
            gres="GresTypes=gpu" if gpus else "",
            gpus=f"Gres=gpu:{GPUS}" if gpus else "",
        )
        (self.folder / "slurm.conf").write_text(text)
        if gpus:
            line = f"NodeName=n[1-{self.nodes}] Name=gpu File={self.folder}/gpu[0-{GPUS - 1}]\n"
            (self.folder / "gres.conf").write_text(line)

    def _make_gpus(self) -> bool:
        try:
            for number in range(GPUS):
                null = os.stat("/dev/null")
                os.mknod(self.folder / f"gpu{number}", null.st_mode, null.st_rdev)
        except PermissionError:
            return False
        return True


def program(name: str) -> str:
    """Where a daemon lies; /usr/sbin is not on every user's path."""
    return shutil.which(name) or f"{SBIN}/{name}"


def free_ports(count: int) -> list[int]:
    ports = set[int]()
    while len(ports) < count:
        ports.add(free_port())
    return list(ports)


def why_not() -> str:
    """What keeps SLURM from running here; empty where it can."""
    missing = [
        name for name in ("slurmctld", "slurmd", "sbatch") if not Path(program(name)).exists()
    ]
    return f"no {', '.join(missing)} here: apt-get install slurm-wlm" if missing else ""


@pytest.fixture(scope="session")
def slurm_daemons(tmp_path_factory: pytest.TempPathFactory):
    """Two nodes and a controller, once a session."""
    if reason := why_not():
        pytest.skip(reason)
    cluster = Cluster(tmp_path_factory.mktemp("slurm"), nodes=2)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(slurm_daemons: Cluster, monkeypatch: pytest.MonkeyPatch):
    """The session's cluster with all its nodes up, and the environment of this test pointing to it."""
    for name, value in slurm_daemons.environment.items():
        monkeypatch.setenv(name, value)
    yield slurm_daemons
    slurm_daemons.ask("scancel", "--user", getpass.getuser())
    for node in slurm_daemons.names:
        if node not in slurm_daemons.daemons:
            slurm_daemons.revive(node)
    slurm_daemons.wait(lambda: not slurm_daemons.ask("squeue", "-h"))
