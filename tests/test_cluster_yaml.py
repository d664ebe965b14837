"""cluster.yaml against Ray's own schema, and its shell commands against bash."""

import subprocess
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path(__file__).parents[1] / "cluster.yaml"


@pytest.fixture(scope="module")
def config() -> dict:
    return prepare_config(yaml.safe_load(FILE.read_text()))


def test_ray_accepts_it(config):
    validate_config(config)


def test_the_head_offers_the_resource_that_trials_are_driven_by(config):
    from lncis.cluster import TRIAL_DRIVER

    assert config["available_node_types"][config["head_node_type"]]["resources"][TRIAL_DRIVER] > 0


def test_its_commands_are_valid_bash(config):
    kinds = ("setup_commands", "head_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
    commands = [command for kind in kinds for command in config[kind]]
    assert len(commands) > 8
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_it_installs_the_ray_that_is_locked(config):
    lock = (FILE.parent / "requirements.lock").read_text()
    (version,) = (line.split("==")[1].strip() for line in lock.splitlines() if line.startswith("ray=="))
    assert f"ray[default]=={version}" in FILE.read_text()
