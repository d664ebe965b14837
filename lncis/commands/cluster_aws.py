"""Checks of a cluster file against an AWS account, by calls that only read."""

import re
from collections.abc import Iterator
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

QUOTAS = {
    ("G", False): "L-DB2E81BA",
    ("G", True): "L-3819A6DF",
    ("P", False): "L-417A185B",
    ("P", True): "L-7212CCBC",
    ("standard", False): "L-1216C47A",
    ("standard", True): "L-34B43A08",
}
"""The quota of running vCPUs by family of instance types, and whether they are spot."""
FAMILIES = {"g": "G", "vt": "G", "p": "P"} | dict.fromkeys("acdhimrtz", "standard")
ABSENT = ("NotFound", "NoSuchEntity", "ParameterNotFound", "Malformed")


def find_problems(config: dict[str, Any]) -> list[str]:
    """Return why the account cannot launch a cluster file that Ray accepts, one line a problem."""
    try:
        session = boto3.Session(region_name=config["provider"]["region"])
        session.client("sts").get_caller_identity()
    except (BotoCoreError, ClientError) as error:
        return [f"aws: this machine cannot act for an account: {error}; run aws configure"]
    problems: list[str] = []
    for find in (_unknown_instance_types, _missing_keys, _missing_profiles, _missing_images, _small_quotas):
        try:
            problems += find(config, session)
        except ClientError as error:
            problems.append(f"aws: {error}; docs/cluster.md says what the launching user must be allowed")
        except BotoCoreError as error:
            problems.append(f"aws: {error}; check provider.region ({config['provider']['region']})")
    return problems


def _node_configs(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, node_type in config["available_node_types"].items():
        yield f"available_node_types.{name}.node_config", node_type["node_config"]


def _unknown_instance_types(config: dict[str, Any], session: boto3.Session) -> Iterator[str]:
    names = sorted({node["InstanceType"] for _, node in _node_configs(config)})
    pages = session.client("ec2").get_paginator("describe_instance_type_offerings").paginate(
        Filters=[{"Name": "instance-type", "Values": names}]
    )  # fmt: skip
    offered = {offering["InstanceType"] for page in pages for offering in page["InstanceTypeOfferings"]}
    for path, node in _node_configs(config):
        if node["InstanceType"] not in offered:
            region = session.region_name
            yield f"{path}.InstanceType: {region} has no {node['InstanceType']}; name another, or another region"


def _missing_keys(config: dict[str, Any], session: boto3.Session) -> Iterator[str]:
    if "ssh_private_key" not in config["auth"]:
        return  # Ray makes a pair, and keeps the private half in ~/.ssh
    for path, node in _node_configs(config):
        name = node.get("KeyName")
        if name is None:
            yield f"{path}.KeyName: is required where auth.ssh_private_key is given; name the key pair, or remove both"
        elif not _there(session.client("ec2").describe_key_pairs, KeyNames=[name]):
            yield f"{path}.KeyName: {session.region_name} has no key pair {name!r}; import it, or remove both keys"


def _missing_profiles(config: dict[str, Any], session: boto3.Session) -> Iterator[str]:
    for path, node in _node_configs(config):
        name = node.get("IamInstanceProfile", {}).get("Name")
        if name and not _there(session.client("iam").get_instance_profile, InstanceProfileName=name):
            yield f"{path}.IamInstanceProfile: the account has no {name!r}; docs/cluster.md says how it is made"


def _missing_images(config: dict[str, Any], session: boto3.Session) -> Iterator[str]:
    for image in sorted({node["ImageId"] for _, node in _node_configs(config) if "ImageId" in node}):
        parameter = image.removeprefix("resolve:ssm:")
        found = (
            _there(session.client("ssm").get_parameter, Name=parameter)
            if parameter != image
            else _there(session.client("ec2").describe_images, ImageIds=[image])
        )
        if not found:
            yield f"ImageId: {session.region_name} has no {image}; images differ from region to region"


def _small_quotas(config: dict[str, Any], session: boto3.Session) -> Iterator[str]:
    for name, node_type in config["available_node_types"].items():
        node = node_type["node_config"]
        family = FAMILIES.get(re.match("[a-z]+", node["InstanceType"])[0])  # type: ignore[index]
        spot = node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        if family is None:
            continue
        (described,) = session.client("ec2").describe_instance_types(InstanceTypes=[node["InstanceType"]])[
            "InstanceTypes"
        ]
        each = described["VCpuInfo"]["DefaultVCpus"]
        nodes = 1 if name == config["head_node_type"] else node_type.get("max_workers", config.get("max_workers", 0))
        code = QUOTAS[family, spot]
        allowed = vcpu_quota(session, code)
        if allowed < nodes * each:
            yield (
                f"available_node_types.{name}.max_workers: {nodes} {node['InstanceType']}{' on spot' if spot else ''} "
                f"need {nodes * each} vCPU, the account may run {allowed:g} in {session.region_name}; ask for more "
                f"(Service Quotas, EC2, {code}), or lower it to {int(allowed // each)}"
            )


def vcpu_quota(session: boto3.Session, code: str) -> float:
    """Return how many vCPUs the account may run at a time under a quota."""
    answer = session.client("service-quotas").get_service_quota(ServiceCode="ec2", QuotaCode=code)
    return float(answer["Quota"]["Value"])


def _there(describe: Any, **names: Any) -> bool:
    try:
        describe(**names)
    except ClientError as error:
        if any(word in error.response["Error"]["Code"] for word in ABSENT):
            return False
        raise
    return True
