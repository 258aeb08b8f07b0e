"""Ranks find each other by whichever address answers, and only those of the same life of a job."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline import rendezvous
from pipeline.errors import StageError
from pipeline.rendezvous import candidates, meet
from pipeline.storage import read_json, write_json

SHORT = timedelta(seconds=1)


@pytest.fixture(autouse=True)
def a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes whose names nobody knows."""
    values = {
        "SUBMITIT_FOLDER": str(tmp_path),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURMD_NODENAME": "no-such-node.invalid",
    }
    for name in ("MASTER_ADDR", "SLURM_LAUNCH_NODE_IPADDR", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "given")  # put back afterwards
    monkeypatch.setattr(rendezvous, "PROBE_SECONDS", 0.5)


def test_the_first_address_that_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = meet(0, 2, SHORT)
    note = tmp_path / "rendezvous-7-0.json"
    values = read_json(note)
    assert values is not None and values["addresses"][0] == "no-such-node.invalid"
    write_json(note, {**values, "addresses": ["no-such-node.invalid", "127.0.0.1"]})
    second = meet(1, 2, SHORT)
    first.set("from 0", "here")
    assert second.get("from 0") == b"here"
    assert os.environ["GLOO_SOCKET_IFNAME"] == "given"


def test_a_life_has_a_place_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = meet(0, 2, SHORT)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with pytest.raises(StageError, match=r"left no .*rendezvous-7-1.json; see the log of rank 0"):
        meet(1, 2, SHORT)
    values = {"addresses": ["127.0.0.1"], "port": before.port, "word": "life of another job"}
    write_json(tmp_path / "rendezvous-7-1.json", values)
    with pytest.raises(StageError, match=r"at none of 127.0.0.1, port \d+; open the ports"):
        meet(1, 2, SHORT)


def test_what_a_user_says_comes_first_and_names_last() -> None:
    found = candidates(
        {
            "MASTER_ADDR": "mine",
            "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",
            "SLURMD_NODENAME": "n1",
            "SLURM_JOB_NUM_NODES": "2",
        }
    )
    assert found[:3] == ["mine", "10.0.0.1", "n1"]
    assert not any(address.startswith("127.") for address in found)
    assert candidates({"SLURM_JOB_NUM_NODES": "1"})[0] == "127.0.0.1"


def test_gloo_takes_the_interface_that_leads_out(monkeypatch: pytest.MonkeyPatch) -> None:
    interfaces = {"127.0.0.1": "lo", "10.0.0.1": "ib0", "192.168.0.1": "eth0"}
    monkeypatch.setattr(rendezvous, "_interfaces", lambda: interfaces)
    for local, nodes, expected in (
        ("127.0.0.1", "1", "lo"),
        ("127.0.0.1", "2", "ib0"),
        ("192.168.0.1", "2", "eth0"),
    ):
        monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
        monkeypatch.setenv("SLURM_JOB_NUM_NODES", nodes)
        rendezvous._use_interface(local)
        assert os.environ["GLOO_SOCKET_IFNAME"] == expected
