"""Our cluster files against Ray's own schema, bootstrap and scheduler, and their shell commands against bash."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private import command_runner
from ray.autoscaler._private.util import prepare_config, validate_config

from lncis.commands import cluster as cluster_check
from lncis.execution.cluster import TRIAL_DRIVER

ROOT = Path(__file__).parents[1]
AWS, OWN = ROOT / "cluster.yaml", ROOT / "service" / "deploy" / "own-machines.yaml"
SCRIPTS = sorted(file for file in OWN.parent.iterdir() if file.is_file() and file.read_text().startswith("#!"))
REGION = "us-east-1"


def load(file: Path) -> dict:
    return prepare_config(yaml.safe_load(file.read_text()))


@pytest.fixture(scope="module")
def bootstrapped(tmp_path_factory) -> Iterator[dict]:
    """cluster.yaml as `ray up` has it before the first launch, in an account that moto plays."""
    from moto import mock_aws
    from moto.ec2.models.instance_types import InstanceTypeBackend
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    ours = re.findall(r"InstanceType: ([\w.]+)", AWS.read_text())
    sold = [offer for offer in InstanceTypeBackend.instance_types if offer["InstanceType"] in ours]
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setattr(InstanceTypeBackend, "instance_types", sold)  # of 1,000, which Ray asks for one and all
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # the key pair is written there
        config = AWSNodeProvider.fillout_available_node_types_resources(load(AWS))
        validate_config(config)
        yield AWSNodeProvider.bootstrap_config(config)


@pytest.mark.parametrize("file", [AWS, OWN], ids=lambda file: file.name)
def test_ray_accepts_it(file):
    validate_config(load(file))


def test_the_two_files_differ_in_where_nodes_come_from_and_in_settings_alone():
    aws, own = (yaml.safe_load(file.read_text()) for file in (AWS, OWN))
    for key in ("file_mounts", "rsync_exclude", "worker_start_ray_commands"):
        assert aws[key] == own[key]
    assert aws["setup_commands"][1:] == own["setup_commands"][1:]
    ours, theirs = (re.findall(r"^([A-Z_]+)=", config["setup_commands"][0], re.MULTILINE) for config in (aws, own))
    assert set(ours) == set(theirs)


def test_each_head_offers_the_resource_that_trials_are_driven_by_and_no_cpu():
    head = load(AWS)["available_node_types"]["head"]["resources"]
    assert head[TRIAL_DRIVER] > 0 and head["CPU"] == 0
    start = " ".join(load(OWN)["head_start_ray_commands"])
    assert f'"{TRIAL_DRIVER}"' in start and "--num-cpus=0" in start


@pytest.mark.parametrize("file", [AWS, OWN], ids=lambda file: file.name)
@pytest.mark.processes
def test_its_commands_are_valid_bash_as_they_are_and_as_ray_sends_them(file):
    commands = [command for _, command in cluster_check.commands(yaml.safe_load(file.read_text()))]
    assert len(commands) > 6
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)
        sent = " ".join(command_runner._with_interactive(command))
        subprocess.run(["bash", "-n", "-c", sent], check=True)
        inner = subprocess.run(["bash", "-c", sent.replace("bash --login -c -i", "printf %s", 1)], capture_output=True)
        checked = subprocess.run(["bash", "-n"], input=inner.stdout, capture_output=True)
        assert not checked.stderr, checked.stderr  # a here-document that swallows Ray's closing bracket only warns


@pytest.mark.parametrize("file", [AWS, OWN], ids=lambda file: file.name)
@pytest.mark.processes
def test_its_settings_reach_a_command(file, tmp_path):
    settings = yaml.safe_load(file.read_text())["setup_commands"][0]
    (tmp_path / "lncis").mkdir()
    subprocess.run(["bash", "-c", settings], env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]}, check=True)
    say = "echo $LNCIS_DATA $TORCH_HOME $RAY_AUTH_MODE $MLFLOW_TRACKING_URI; pwd"
    said = subprocess.run(
        [OWN.parent / "in-cluster", "bash", "-c", say],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    data, program = f"{tmp_path}/data", f"{tmp_path}/lncis"
    assert said.stdout.split() == [data, f"{data}/torch", "token", "http://127.0.0.1:5000", program]


@pytest.mark.processes
def test_the_scripts_are_those_that_the_files_call_and_shellcheck_finds_nothing():
    called = {
        name
        for file in (AWS, OWN)
        for _, command in cluster_check.commands(yaml.safe_load(file.read_text()))
        for name in re.findall(r"service/deploy/([\w.-]+)", command)
    }
    assert called == {script.name for script in SCRIPTS}
    for script in SCRIPTS:
        assert os.access(script, os.X_OK)
        subprocess.run(["bash", "-n", script], check=True)
    if shellcheck := shutil.which("shellcheck"):
        subprocess.run([shellcheck, *SCRIPTS], check=True)


@pytest.mark.processes
def test_data_are_fetched_once_and_an_interrupted_copy_is_taken_up_again(tmp_path):
    if shutil.which("rsync") is None:
        pytest.skip("rsync is not installed")
    source, target = tmp_path / "source", tmp_path / "data"
    source.mkdir()
    (tmp_path / "elsewhere").write_text("one")
    (source / "image").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "lncis.env").write_text(f"LNCIS_DATA_SOURCE={source}\nLNCIS_DATA={target}\n")

    def fetch(**more: str) -> int:
        environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]} | more
        return subprocess.run([OWN.parent / "fetch-data.sh"], env=environment, stderr=subprocess.DEVNULL).returncode

    source.rename(tmp_path / "away")
    assert fetch() != 0  # the mount is not there yet
    (tmp_path / "away").rename(source)
    assert fetch() == 0 and (target / "image").read_text() == "one"
    (tmp_path / "elsewhere").write_text("two")
    assert fetch() == 0 and (target / "image").read_text() == "one", "fetched a second time"


def test_only_loopback_is_listened_on():
    for file in (AWS, OWN):
        assert "--dashboard-host=127.0.0.1" in " ".join(load(file)["head_start_ray_commands"])
    assert "--host 127.0.0.1" in (OWN.parent / "supervisord.conf").read_text()


def test_bootstrapped_in_an_account_each_gpu_type_has_its_gpus_and_the_head_can_be_reached(bootstrapped):
    types = bootstrapped["available_node_types"]
    gpus = {name: node["resources"].get("GPU") for name, node in types.items()}
    assert gpus == {"head": None, "gpu_spot": 1, "gpu": 1, "gpu4_spot": 4, "gpu4": 4}
    assert all(node["min_workers"] == 0 for node in types.values()), "what nobody uses costs nothing"
    for node in types.values():
        config = node["node_config"]
        assert config["KeyName"] and config["SubnetIds"] and config["SecurityGroupIds"]
        assert config["IamInstanceProfile"]["Name"].startswith("lncis-"), "not Ray's own, which may do anything"
    assert Path(bootstrapped["auth"]["ssh_private_key"]).stat().st_mode & 0o077 == 0


def test_the_account_launches_what_the_file_describes(bootstrapped):
    import boto3
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler.tags import TAG_RAY_NODE_KIND

    boto3.client("iam", REGION).create_instance_profile(InstanceProfileName="lncis-worker")
    node = bootstrapped["available_node_types"]["gpu4_spot"]["node_config"]
    (image,) = boto3.client("ec2", REGION).describe_images(Owners=["amazon"], MaxResults=5)["Images"][:1]
    provider = AWSNodeProvider(bootstrapped["provider"], "lncis")
    provider.create_node(node | {"ImageId": image["ImageId"]}, {TAG_RAY_NODE_KIND: "worker"}, 1)
    (reservation,) = boto3.client("ec2", REGION).describe_instances()["Reservations"]
    (instance,) = reservation["Instances"]
    assert (instance["InstanceType"], instance["InstanceLifecycle"]) == ("g5.12xlarge", "spot")


@pytest.mark.parametrize(
    ("gpus", "unavailable", "launched"),
    [
        ([1], {}, {"gpu_spot": 1}),
        ([1], {"gpu_spot": 0.0}, {"gpu": 1}),
        ([1], {"gpu_spot": 1.0}, {"gpu_spot": 1}),  # recovered
        ([4], {}, {"gpu4_spot": 1}),
        ([4], {"gpu4_spot": 0.0}, {"gpu4": 1}),
        ([0.5, 0.5], {}, {"gpu_spot": 1}),
        ([], {}, {}),
    ],
)
def test_rays_scheduler_takes_spot_falls_back_to_on_demand_and_starts_nothing_for_nothing(
    bootstrapped, gpus, unavailable, launched
):
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    config = AutoscalingConfig(bootstrapped, skip_content_hash=True)
    demands = [ResourceRequestUtil.make({"GPU": gpu, "CPU": 1}) for gpu in gpus]
    request = SchedulingRequest(
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count(demands),
        recoverable_resource_availabilities=unavailable,
        disable_launch_config_check=True,
    )
    reply = ResourceDemandScheduler(None).schedule(request)
    assert {one.instance_type: one.count for one in reply.to_launch} == launched
