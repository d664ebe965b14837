"""`make cluster-test`: a cluster is brought up from our own file and used, until one of its machines is taken away.

The machines are hosts in network namespaces (network_hosts.py). Where those cannot be had, that is said, and several
raylets on this machine stand in: they show what a study does on a cluster, and nothing of how a cluster comes up.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest
import yaml
from network_hosts import SHARED, Network, fill_uv_cache, why_not

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
FILE = ROOT / "service" / "deploy" / "own-machines.yaml"
WORKERS = ["one", "two"]
PORTS = {"the service": "8000/readyz", "MLflow": "5000/health", "Ray's dashboard": "8265/api/version"}
SERVICE = "http://127.0.0.1:8000"
SMALL = "--object-store-memory=100000000"

STUDY = """
name: NAME
base:
  dataset: {type: coco, images: data/digits/images, train: data/digits/train.json,
            val: data/digits/val.json, test: data/digits/test.json}
  schedule: {epochs: 10, stage1_epochs: 0, evaluate_every: 5}
search:
  loss.gamma: {type: categorical, choices: [2.4, 6.0]}
resources: {max_concurrent_trials: 2}
sensitivity_check: false
"""
DISTRIBUTED = {
    "search": {"loss.gamma": {"type": "categorical", "choices": [6.0]}},
    "resources": {"num_workers": 2, "max_concurrent_trials": 1},
}


class Cluster(Protocol):
    """A head and two workers with one CPU each; `runs` is where its studies are."""

    runs: Path

    def on_head(self, command: str) -> str: ...

    def submit(self, study: dict[str, Any]) -> None: ...

    def finished(self, name: str) -> bool:
        """Say whether a study is; AssertionError where it failed."""

    def kill(self, worker: str) -> None: ...

    def revive(self, worker: str) -> None: ...


@dataclass
class Hosts:
    """own-machines.yaml, brought up by `ray up` on three hosts."""

    network: Network
    file: Path
    _ids: dict[str, str] = field(default_factory=dict)

    @property
    def runs(self) -> Path:
        return self.network.shared / "runs"

    def ray(self, *arguments: str, timeout: float = 600) -> str:
        """Run a command of Ray or lncis on the launching machine."""
        home = self.network.folder / "launcher"
        done = self.network.run(
            [BIN / arguments[0], *arguments[1:]],
            timeout,
            cwd=ROOT,
            env={"HOME": str(home), "RAY_TMPDIR": str(home), "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def on_head(self, command: str) -> str:
        done = self.network.on("head", f"~/lncis/service/deploy/in-cluster {command}", timeout=120)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def submit(self, study: dict[str, Any]) -> None:
        """POST it to the service."""
        (self.network.shared / f"{study['name']}.yaml").write_text(yaml.safe_dump(study))
        body = f"-H 'Content-Type: application/yaml' --data-binary @{SHARED}/{study['name']}.yaml"
        self._ids[study["name"]] = json.loads(self.on_head(f"curl -sS --fail-with-body {SERVICE}/studies {body}"))["id"]

    def finished(self, name: str) -> bool:
        study = json.loads(self.on_head(f"curl -sS --fail-with-body {SERVICE}/studies/{self._ids[name]}"))
        assert study["state"] not in ("failed", "cancelled"), study["reason"]
        return bool(study["state"] == "succeeded")

    def kill(self, worker: str) -> None:
        self.network.kill(worker)

    def revive(self, worker: str) -> None:
        self.network.start(worker)


@dataclass
class Raylets:
    """A head and two workers as processes of this machine."""

    folder: Path
    _nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.runs, self._address = self.folder / "runs", "127.0.0.1:6399"
        self._environment = os.environ | {
            "RAY_AUTH_MODE": "disabled",
            "RAY_TMPDIR": str(self.folder),
            "RAY_ADDRESS": self._address,
            "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:8299",
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }

    def start(self) -> None:
        self._start("head", "--head", "--port=6399", "--dashboard-port=8299", "--num-cpus=0",
                    '--resources={"trial_driver": 1000}')  # fmt: skip
        for worker in WORKERS:
            self.revive(worker)

    def _start(self, name: str, *options: str) -> None:
        command = [BIN / "ray", "start", "--block", "--disable-usage-stats", SMALL, *options]
        command += ["--dashboard-agent-listen-port=0"]  # the usual one is for one raylet of a machine
        said = self.folder / f"{name}.log"
        with said.open("wb") as log:
            self._nodes[name] = subprocess.Popen(
                command, env=self._environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        # one after another: two that start at once on one machine get in each other's way
        _wait(lambda: "Ray runtime started" in said.read_text(), 120, name)

    def on_head(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command], env=self._environment, cwd=self.folder, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, study: dict[str, Any]) -> None:
        """Make it a job of Ray's."""
        file = self.folder / f"{study['name']}.yaml"
        file.write_text(yaml.safe_dump(study))
        run = f"{BIN}/lncis study run {file} --runs {self.runs}"
        self.on_head(f"ray job submit --no-wait --submission-id {study['name']} -- {run}")

    def finished(self, name: str) -> bool:
        status = self.on_head(f"ray job status {name}").lower()
        assert "failed" not in status, self.on_head(f"ray job logs {name}")
        return "succeeded" in status

    def kill(self, worker: str) -> None:
        process = self._nodes.pop(worker)
        _kill_tree(process.pid)
        process.wait()

    def revive(self, worker: str) -> None:
        self._start(worker, f"--address={self._address}", "--num-cpus=1")

    def close(self) -> None:
        for name in reversed(list(self._nodes)):
            self.kill(name)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    if reason := why_not():
        pytest.skip(f"no hosts in network namespaces: {reason}")
    with tempfile.TemporaryDirectory(prefix="lncis-", dir="/var/tmp", ignore_cleanup_errors=True) as folder:
        if reason := fill_uv_cache(["-r", ROOT / "requirements.lock", "--editable", f"{ROOT}[cluster]"], Path(folder)):
            pytest.fail(reason, pytrace=False)
        sockets = set(Path("/tmp").glob("ray_ssh_*/*"))
        network = Network(Path(folder), ["head", *WORKERS])
        try:
            token = Path(folder) / "launcher" / ".ray" / "auth_token"
            token.parent.mkdir()
            token.write_text(os.urandom(32).hex())
            _prepare_data(network.shared)
            hosts = Hosts(network, _adapted(network))
            print(hosts.ray("lncis", "cluster", "check", str(hosts.file)))
            _told("ray up", lambda: hosts.ray("ray", "up", "-y", "--no-config-cache", str(hosts.file)))
            yield hosts
        finally:
            network.close()
            for left in set(Path("/tmp").glob("ray_ssh_*/*")) - sockets:  # by Ray, for its connections
                shutil.rmtree(left)
                with suppress(OSError):  # others' connections
                    left.parent.rmdir()


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if reason := why_not():
        print(f"\nno hosts in network namespaces ({reason}): three raylets on this machine stand in")
        with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:
            raylets = Raylets(Path(folder))
            try:
                _prepare_data(raylets.folder)
                raylets.start()
                yield raylets
            finally:
                raylets.close()
    else:
        yield request.getfixturevalue("hosts")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], dict[str, list[Any]]]:
    """What a study finds on this machine, without any cluster."""

    def run(study: dict[str, Any]) -> dict[str, list[Any]]:
        folder = tmp_path_factory.mktemp(study["name"])
        _prepare_data(folder)
        (folder / "study.yaml").write_text(yaml.safe_dump(study))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        subprocess.run(
            [BIN / "lncis", "study", "run", "study.yaml"],
            cwd=folder, env=environment | {"PYTHONPATH": str(ROOT)}, check=True, timeout=600,
        )  # fmt: skip
        return _figures(folder / "runs", study["name"])

    return run


def test_head_and_workers_are_there(cluster):
    _wait(lambda: cluster.on_head("ray status").count("/2.0 CPU") == 1, 300, "two workers")


def test_what_has_a_page_answers_on_the_heads_loopback_alone(hosts):
    for what, page in PORTS.items():
        _wait(lambda page=page: _answers(hosts, f"http://127.0.0.1:{page}"), 120, what)
        outside = f"http://{hosts.network.addresses['head']}:{page}"
        assert hosts.network.run(["curl", "-s", "-m", "5", "-o", "/dev/null", outside]).returncode == 7, f"{what}: open"


def test_data_are_on_every_node(hosts):
    for name in hosts.network.addresses:
        there = hosts.network.on(name, "~/lncis/service/deploy/in-cluster ls data/digits")
        assert "train.json" in there.stdout, f"{name}: {there.stdout}"


def test_a_server_that_dies_is_started_again(hosts):
    before = hosts.network.processes("head", "mlflow server")
    hosts.network.on("head", "pkill -KILL -f '[m]lflow server'; pkill -KILL -f '[m]lflow.server'")
    _wait(lambda: _answers(hosts, "http://127.0.0.1:5000/health"), 120, "MLflow")
    assert not set(before) & set(hosts.network.processes("head", "mlflow server"))


def test_trials_run_on_different_nodes_and_survive_the_loss_of_one(cluster, alone):
    study = yaml.safe_load(STUDY) | {"name": "spread"}
    cluster.submit(study)
    _wait(lambda: len(_nodes_with_trials(cluster)) == 2, 240, "trials on two nodes")
    _wait(lambda: _epochs(cluster, "spread") >= 3, 240, "three epochs")
    cluster.kill("two")
    killed_after = _epochs(cluster, "spread")
    assert killed_after < 20, "the study was over before its node was killed"
    cluster.revive("two")
    _wait(lambda: cluster.finished("spread"), 600, "the end of the study")
    assert _results(cluster.runs, "spread")["cost"]["lost_seconds"] > 0, "the node was killed with nothing to lose"
    assert _figures(cluster.runs, "spread") == alone(study)


def test_a_training_shared_by_two_nodes_gives_what_two_processes_of_one_machine_give(cluster, alone):
    _wait(lambda: cluster.on_head("ray status").count("/2.0 CPU") == 1, 300, "both workers again")
    study = yaml.safe_load(STUDY) | DISTRIBUTED | {"name": "shared"}
    cluster.submit(study)
    _wait(lambda: len(_nodes_with_trials(cluster)) == 2, 240, "a training on two nodes")
    _wait(lambda: cluster.finished("shared"), 600, "the end of the study")
    assert _figures(cluster.runs, "shared") == alone(study)


def test_ray_down_leaves_no_ray(hosts):
    _told("ray down", lambda: hosts.ray("ray", "down", "-y", str(hosts.file)))
    for name in hosts.network.addresses:
        _wait(lambda name=name: not hosts.network.processes(name, "raylet/raylet"), 120, f"{name} without Ray")


def _adapted(network: Network) -> Path:
    """Return own-machines.yaml with what its user has to change, and with small nodes."""
    head, *workers = network.addresses.values()
    text = FILE.read_text()
    for pattern, ours in {
        r"head_ip: .*": f"head_ip: {head}",
        r"worker_ips: .*": f"worker_ips: [{', '.join(workers)}]",
        r"ssh_user: .*": "ssh_user: root",
        r"ssh_private_key: .*": f"ssh_private_key: {network.key}",
        r"/mnt/lncis\b": str(SHARED),
        r"LNCIS_DATA_SOURCE=": f"LNCIS_DATA_SOURCE={SHARED}/data",
        r"--num-cpus=0": f"--num-cpus=0 {SMALL}",
        r"(start --address=\S+)": rf"\1 --num-cpus=1 {SMALL}",
    }.items():
        text, changed = re.subn(pattern, ours, text)
        assert changed, pattern
    file = network.folder / "cluster.yaml"
    file.write_text(text)
    return file


def _prepare_data(folder: Path) -> None:
    """Write the files that the studies name below `folder`."""
    scenes = ["--train-scenes", "24", "--val-scenes", "4", "--test-scenes", "8"]
    subprocess.run([BIN / "lncis", "data", "prepare", "digits", *scenes, "--out", folder / "data/digits"], check=True)


def _answers(hosts: Hosts, url: str) -> bool:
    # with a token the dashboard refuses those who have none: it is there all the same
    status = hosts.network.on("head", f"curl -s -m 5 -o /dev/null -w '%{{http_code}}' {url}").stdout
    return status in ("200", "401")


def _nodes_with_trials(cluster: Cluster) -> set[str]:
    listed = cluster.on_head("ray list actors --filter class_name=RayTrainWorker --filter state=ALIVE --format json")
    return {actor["node_id"] for actor in json.loads(listed[listed.index("[") :])} if "[" in listed else set()


def _journal(cluster: Cluster, name: str) -> str:
    return "".join(file.read_text() for file in cluster.runs.glob(f"{name}-*/journal*"))


def _epochs(cluster: Cluster, name: str) -> int:
    return _journal(cluster, name).count('"epoch_finished"')


def _figures(runs: Path, name: str) -> dict[str, list[Any]]:
    """Return what each trial reached in each epoch, without the time it took."""
    trials = _results(runs, name)["trials"]
    return {t["label"]: [{k: v for k, v in r.items() if k != "seconds"} for r in t["records"]] for t in trials}


def _results(runs: Path, name: str) -> dict[str, Any]:
    (file,) = runs.glob(f"{name}-*/results.json")
    results: dict[str, Any] = json.loads(file.read_text())
    return results


def _told(what: str, do: Callable[[], object]) -> None:
    begun = time.monotonic()
    do()
    print(f"{what}: {time.monotonic() - begun:.0f} s")


def _wait(condition: Callable[[], bool], seconds: float, what: str) -> None:
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > seconds:
            raise TimeoutError(f"{what}: not there after {seconds:g} s")
        time.sleep(1)
    print(f"{what}: {time.monotonic() - begun:.0f} s")


def _kill_tree(process: int) -> None:
    root = psutil.Process(process)
    for one in [*root.children(recursive=True), root]:
        with suppress(psutil.NoSuchProcess):
            one.kill()
