"""`lncis cluster check`: each mistake in a cluster file is answered with its place, its value and the remedy."""

import copy
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from lncis.commands import app as cli
from lncis.commands import cluster as cluster_check
from lncis.commands import cluster_aws

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[1]
AWS, OWN = ROOT / "cluster.yaml", ROOT / "service" / "deploy" / "own-machines.yaml"
POLICIES = sorted((OWN.parent / "aws").glob("*.json"))


def filled_in(file: Path) -> dict[str, Any]:
    """A cluster file with what its user has to put there."""
    text = re.sub(r"your-(\w+)", r"our-\1", file.read_text()).replace("fs-00000000000000000", "fs-0123456789abcdef0")
    return yaml.safe_load(text.replace("192.0.2.", "10.0.0."))


@pytest.fixture(autouse=True)
def launching_machine(tmp_path, monkeypatch) -> None:
    """Has ssh, rsync, a token and a key, and stands in the repository's root."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("token")
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519").touch(mode=0o600)
    (tmp_path / "bin").mkdir()
    for tool in ("ssh", "rsync"):
        (tmp_path / "bin" / tool).touch(mode=0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")


def problems(config: dict[str, Any]) -> str:
    return "\n".join(cluster_check.find_problems(config, ROOT))


@pytest.mark.parametrize("file", [AWS, OWN], ids=lambda file: file.name)
def test_our_files_filled_in_have_nothing_wrong_and_as_they_are_they_say_what_to_fill_in(file):
    assert problems(filled_in(file)) == ""
    left = problems(yaml.safe_load(file.read_text()))
    assert all("still holds the example's" in line for line in left.splitlines()) and len(left.splitlines()) >= 3


@pytest.mark.parametrize(
    ("file", "path", "value", "said"),
    [
        (AWS, "provider.type", "awz", "provider.type: must be one of aws, local but got 'awz'"),
        (AWS, "provider.region", None, "provider.region: is required but missing"),
        (AWS, "max_worker", 3, "Ray refuses it: Additional properties are not allowed ('max_worker' was unexpected)"),
        (AWS, "max_workers", "3", "max_workers: Ray refuses it: '3' is not of type 'integer'"),
        (AWS, "head_node_type", "hed", "Ray refuses it: `head_node_type` must be one of `available_node_types`."),
        (
            AWS,
            "available_node_types.head.resources",
            {},
            "available_node_types.head.resources: must offer trial_driver",
        ),
        (AWS, "file_mounts", {"~/lncis/lncis": "lncsi"}, "file_mounts.~/lncis/lncis: there is no lncsi here; run this"),
        (AWS, "head_setup_commands", ["echo 'a"], "head_setup_commands.0: is not a shell command: bash: -c: line 1"),
        (OWN, "provider.worker_ips", [], "provider.worker_ips: is required but missing"),
        (OWN, "available_node_types", {"a": {}}, "available_node_types: is not for provider.type local"),
        (OWN, "auth.ssh_private_key", "~/.ssh/none", "auth.ssh_private_key: there is no ~/.ssh/none; name the key"),
        (OWN, "head_start_ray_commands", ["ray start"], "head_start_ray_commands: must offer trial_driver"),
    ],
)
def test_a_mistake_is_named(file, path, value, said):
    config = filled_in(file)
    *above, key = path.split(".")
    inner = config
    for name in above:
        inner = inner[name]
    inner[key] = value
    assert said in problems(config)


def test_what_the_launching_machine_lacks_is_named(tmp_path, monkeypatch):
    (tmp_path / ".ray" / "auth_token").unlink()
    (tmp_path / ".ssh" / "id_ed25519").chmod(0o644)
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    said = problems(filled_in(OWN))
    assert "there is no ~/.ray/auth_token here; make one with: ray get-auth-token --generate" in said
    assert "others may read ~/.ssh/id_ed25519, so ssh will not use it; chmod 600" in said
    assert "rsync: is not installed on this machine" in said


def test_another_ray_than_the_locked_one_is_named(tmp_path):
    (tmp_path / "requirements.lock").write_text("ray==2.1.0\n")
    assert "the lock gives nodes 2.1.0" in "\n".join(cluster_check.find_problems(filled_in(OWN), tmp_path))


@pytest.fixture
def account(monkeypatch) -> Iterator[Any]:
    """An AWS account with our instance profiles and Amazon's image, and quotas as `account.quotas` says."""
    import boto3
    from moto import mock_aws

    quotas = dict.fromkeys(cluster_aws.QUOTAS.values(), 256.0)
    monkeypatch.setattr(cluster_aws, "vcpu_quota", lambda session, code: quotas[code])
    with mock_aws():
        for name in ("lncis-head", "lncis-worker"):
            boto3.client("iam").create_instance_profile(InstanceProfileName=name)
        yield quotas


@pytest.fixture
def config() -> dict[str, Any]:
    config = copy.deepcopy(filled_in(AWS))
    there = "resolve:ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
    for node_type in config["available_node_types"].values():  # moto does not know the image for GPUs
        node_type["node_config"]["ImageId"] = there
    return config


def test_an_account_that_is_prepared_has_nothing_wrong(account, config):
    assert cluster_aws.find_problems(config) == []


def test_a_quota_of_nought_is_named_before_anything_is_launched(account, config):
    account["L-3819A6DF"] = 0.0
    account["L-DB2E81BA"] = 40.0
    said = "\n".join(cluster_aws.find_problems(config))
    assert (
        "available_node_types.gpu_spot.max_workers: 8 g5.xlarge on spot need 32 vCPU, the account may run 0 in "
        "us-east-1; ask for more (Service Quotas, EC2, L-3819A6DF), or lower it to 0"
    ) in said
    assert "gpu4.max_workers: 1 g5.12xlarge need 48 vCPU, the account may run 40" in said
    assert "types.gpu.max" not in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"InstanceType": "g5.13xlarge"}, "us-east-1 has no g5.13xlarge"),
        ({"IamInstanceProfile": {"Name": "other"}}, "the account has no 'other'"),
        ({"ImageId": "ami-00000000000000000"}, "us-east-1 has no ami-00000000000000000"),
        ({"ImageId": "resolve:ssm:/aws/service/none"}, "us-east-1 has no resolve:ssm:/aws/service/none"),
        ({"KeyName": "mine"}, "KeyName: us-east-1 has no key pair 'mine'"),
    ],
)
def test_what_the_account_lacks_is_named(account, config, change, said):
    config["auth"]["ssh_private_key"] = "~/.ssh/id_ed25519"
    config["available_node_types"] = {"head": config["available_node_types"]["head"]}
    config["available_node_types"]["head"]["node_config"] |= {"KeyName": "none"} | change
    found = "\n".join(cluster_aws.find_problems(config))
    assert said in found


def test_no_account_is_one_line_and_exit_code_2(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.chdir(ROOT)
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(filled_in(AWS)))
    result = CliRunner().invoke(cli.app, ["cluster", "check", str(file)])
    assert result.exit_code == 2
    assert (
        "aws: this machine cannot act for an account: Unable to locate credentials; run aws configure" in result.stderr
    )


@pytest.mark.parametrize("file", POLICIES, ids=lambda file: file.name)
def test_a_policy_allows_nothing_by_wildcard_but_to_look(file):
    for statement in json.loads(file.read_text())["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert all("*" not in action or action == "ec2:Describe*" for action in actions)
        if "ec2:TerminateInstances" in actions:
            assert statement["Condition"] == {"StringEquals": {"aws:ResourceTag/ray-cluster-name": "lncis"}}
        assert "iam:PassRole" not in actions or statement["Resource"] != "*"
