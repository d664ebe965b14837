"""`lncis cluster check`: mistakes in a cluster file, found before anything is launched.

Ray's own schema says which keys there may be. This checks what Ray leaves to the launch: files, keys and tools on this
machine; on AWS also the account, by calls that change nothing.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import typer

from lncis import documents
from lncis.errors import ConfigError
from lncis.terminal import clear_errors, console_of_plain_text

COMMANDS = ("setup_commands", "head_setup_commands", "worker_setup_commands", "head_start_ray_commands",
            "worker_start_ray_commands")  # fmt: skip
NEEDED = {
    "aws": ("provider.region", "available_node_types", "head_node_type", "auth.ssh_user"),
    "local": ("provider.head_ip", "provider.worker_ips", "auth.ssh_user", "auth.ssh_private_key"),
}
"""The keys without which `ray up` fails or does what nobody wants, by type of provider."""

STILL_THE_EXAMPLES = re.compile(r"your-\w+|fs-0{17}|192\.0\.2\.\d+")


def check_file(file: Annotated[Path, typer.Argument(help="YAML file of a cluster, for `ray up`.")]) -> None:
    """Check a cluster file: list what would go wrong with `ray up`, without launching anything."""
    with clear_errors():
        config = documents.read_mapping(file)
        problems = find_problems(config, Path.cwd())
        if not problems and config["provider"]["type"] == "aws":
            from lncis.commands import cluster_aws  # loads boto3

            problems = cluster_aws.find_problems(config)
        if problems:
            raise ConfigError(str(file), problems)
        console_of_plain_text().print(f"{file}: no mistake found; next: ray up {file}", soft_wrap=True)


def find_problems(config: dict[str, Any], folder: Path) -> list[str]:
    """Return what is wrong with a cluster file, a line each, as this machine sees it; `ray up` is run in `folder`."""
    if problems := [*_missing_keys(config)] or [*_refused_by_ray(config)]:
        return problems  # what follows relies on the keys
    return [
        *_left_as_in_the_example(config),
        *_missing_tools(),
        *_missing_files(config, folder),
        *_wrong_commands(config),
        *_nowhere_to_drive_trials(config),
        *_other_ray(folder),
    ]


def commands(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each shell command of a cluster file with its place."""
    for kind in COMMANDS:
        for number, command in enumerate(config.get(kind, [])):
            yield f"{kind}.{number}", command


def _missing_keys(config: dict[str, Any]) -> Iterator[str]:
    kind = _at(config, "provider.type")
    if kind not in NEEDED:
        yield f"provider.type: must be one of {', '.join(NEEDED)} but got {kind!r}"
        return
    for path in ("cluster_name", "file_mounts", *COMMANDS[:1], *COMMANDS[3:], *NEEDED[kind]):
        if _at(config, path) in (None, "", [], {}):
            yield f"{path}: is required but missing"
    if kind == "local":
        for path in ("available_node_types", "head_node_type"):
            if path in config:
                yield f"{path}: is not for provider.type local, whose nodes are those of provider.worker_ips; remove it"


def _refused_by_ray(config: dict[str, Any]) -> Iterator[str]:
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    said = StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            validate_config(prepare_config(config))
    except jsonschema.ValidationError as error:
        where = ".".join(map(str, error.absolute_path))
        yield f"{where + ': ' if where else ''}Ray refuses it: {error.message}"
    except (Exception, SystemExit) as error:
        yield f"Ray refuses it: {error or said.getvalue().strip()}"


def _left_as_in_the_example(config: dict[str, Any]) -> Iterator[str]:
    values = [*commands(config), ("provider", str(config["provider"]))]
    for path, text in values:
        for found in dict.fromkeys(STILL_THE_EXAMPLES.findall(text)):
            yield f"{path}: still holds the example's {found}; put your own there"


def _missing_tools() -> Iterator[str]:
    for tool in ("ssh", "rsync"):
        if shutil.which(tool) is None:
            yield f"{tool}: is not installed on this machine, and ray up needs it; install it"


def _missing_files(config: dict[str, Any], folder: Path) -> Iterator[str]:
    for target, source in config["file_mounts"].items():
        if not (folder / Path(source).expanduser()).exists():
            remedy = {
                "auth_token": "make one with: ray get-auth-token --generate",
            }.get(Path(source).name, "run this where the cluster file's paths begin, the repository's root")
            yield f"file_mounts.{target}: there is no {source} here; {remedy}"
    if key := config["auth"].get("ssh_private_key"):
        path = Path(key).expanduser()
        if not path.exists():
            yield f"auth.ssh_private_key: there is no {key}; name the key that opens the nodes, or make one: ssh-keygen"
        elif path.stat().st_mode & 0o077:
            yield f"auth.ssh_private_key: others may read {key}, so ssh will not use it; chmod 600 {key}"


def _wrong_commands(config: dict[str, Any]) -> Iterator[str]:
    for path, command in commands(config):
        checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        if checked.returncode:
            yield f"{path}: is not a shell command: {checked.stderr.strip()}"


def _nowhere_to_drive_trials(config: dict[str, Any]) -> Iterator[str]:
    from lncis.execution.cluster import TRIAL_DRIVER

    if config["provider"]["type"] == "local":
        place, offered = "head_start_ray_commands", any(TRIAL_DRIVER in c for c in config["head_start_ray_commands"])
    else:
        head = config["head_node_type"]
        place = f"available_node_types.{head}.resources"
        offered = TRIAL_DRIVER in config["available_node_types"][head]["resources"]
    if not offered:
        yield f"{place}: must offer {TRIAL_DRIVER}, on which trials are driven: {TRIAL_DRIVER}: 1000"


def _other_ray(folder: Path) -> Iterator[str]:
    lock = folder / "requirements.lock"
    locked = re.search(r"^ray==(\S+)", lock.read_text(), flags=re.MULTILINE) if lock.exists() else None
    if locked and locked[1] != version("ray"):
        yield f"this machine has Ray {version('ray')}, the lock gives nodes {locked[1]}; install that here"


def _at(config: Any, path: str) -> Any:
    for key in path.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config
