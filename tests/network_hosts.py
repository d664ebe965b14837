"""Hosts on one machine: each has its own network, processes, home and /tmp, and is reached by SSH. Needs root.

They are namespaces of the Linux kernel, joined by a bridge that nothing outside can reach. A host is gone when its
first process is; all go with the process that made them, however that ends.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

TOOLS = ("ip", "unshare", "nsenter", "setpriv", "sshd", "ssh", "ssh-keygen", "rsync", "curl")
NAMESPACES = ("--net", "--mount", "--pid", "--uts", "--ipc")
PREFIX = "10.77.0"
UV = Path(sys.executable).parent / "uv"
HOME, SHARED = Path("/srv/home"), Path("/srv/shared")
"""Where a host has its home folder, and the folder that all hosts see."""

FIRST_PROCESS = """
set -e
mount --make-rprivate /
hostname {name}
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd
mount -t tmpfs -o size=300m,mode=1777 tmpfs /dev/shm
mount --bind {folder}/passwd /etc/passwd
mount --bind {network}/hosts /etc/hosts
mount --bind {folder}/srv /srv
mount --bind {network}/shared /srv/shared
mount --bind {folder}/tmp /tmp
cd /
touch {folder}/up
while [ ! -e {folder}/wired ]; do sleep 0.05; done
"$(command -v sshd)" -D -f {network}/sshd_config &
wait
"""

SSHD = """
HostKey {network}/host_key
AuthorizedKeysFile .ssh/authorized_keys
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
UsePAM no
PidFile none
"""

PROFILE = """
# what an image for this cluster would have: a Python, and the packages nearer than the internet
export PATH={python}:$PATH
export UV_CACHE_DIR={uv_cache} UV_OFFLINE=1 UV_LINK_MODE=symlink
"""


NOT_SEEN = tuple(map(Path, ("/tmp", "/run", "/srv", "/dev/shm", "/proc")))
"""Folders that a host has for itself."""


def why_not() -> str:
    """Return why this machine cannot have such hosts, or nothing if it can."""
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"{', '.join(missing)} missing; Debian has them in iproute2, util-linux, openssh-server, rsync and curl"
    tried = subprocess.run(["unshare", *NAMESPACES, "--fork", "true"], capture_output=True, text=True)
    return f"this machine forbids namespaces: {tried.stderr.strip()}" if tried.returncode else ""


class Network:
    """A bridge, the launcher on it, and the hosts; `folder` must not lie in /tmp, which each host has for itself."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.key = folder, folder / "key"
        self.addresses = {name: f"{PREFIX}.{10 + number}" for number, name in enumerate(names)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.shared = folder / "shared"
        self.shared.mkdir()
        (folder / "launcher").mkdir()
        (folder / "hosts").write_text(
            "127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for n, a in self.addresses.items())
        )
        (folder / "sshd_config").write_text(SSHD.format(network=folder))
        for key in (self.key, folder / "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        self._processes["launcher"] = _spawn(["unshare", "--net", "--fork", "--kill-child", "sleep", "infinity"])
        self._bridge = _only_child(self._processes["launcher"].pid)
        self._ip(self._bridge, f"link add bridge type bridge; addr add {PREFIX}.1/24 dev bridge; link set bridge up")
        self._ip(self._bridge, f"link set lo up; route add default via {PREFIX}.1")
        for name in names:
            self.start(name)

    def start(self, name: str) -> None:
        """Start a host, or start it again after it was killed: its home is as it was, its /tmp is empty."""
        folder = self.folder / name
        shutil.rmtree(folder / "tmp", ignore_errors=True)
        for made in ("tmp", "srv/shared", "srv/home/.ssh", "srv/home/.local/bin"):
            (folder / made).mkdir(parents=True, exist_ok=True)
        for flag in ("up", "wired"):
            (folder / flag).unlink(missing_ok=True)
        (folder / "tmp").chmod(0o1777)
        (folder / "passwd").write_text(_passwd_with_home_of_root(HOME))
        (folder / "srv/home/.ssh/authorized_keys").write_text((self.folder / "key.pub").read_text())
        (folder / "srv/home/.bashrc").touch()
        (folder / "srv/home/.profile").write_text(
            PROFILE.format(python=sysconfig.get_config_var("BINDIR"), uv_cache=_uv_cache())
        )
        uv = folder / "srv/home/.local/bin/uv"
        if not uv.exists():
            shutil.copy(UV, uv)
        init = FIRST_PROCESS.format(name=name, folder=folder, network=self.folder)
        process = _spawn(["unshare", *NAMESPACES, "--fork", "--kill-child", "bash", "-c", init])
        self._processes[name] = process
        _wait(lambda: (folder / "up").exists() or process.poll() is not None, 10, f"host {name}")
        first, port = _only_child(process.pid), f"port{self.addresses[name].rpartition('.')[2]}"
        self._ip(
            self._bridge, f"link add {port} type veth peer name eth0 netns {first}; link set {port} master bridge up"
        )
        self._ip(first, f"addr add {self.addresses[name]}/24 dev eth0; link set eth0 up; link set lo up")
        self._ip(first, f"route add default via {PREFIX}.1")
        (folder / "wired").touch()
        _wait(lambda: self.run(["ssh-keyscan", self.addresses[name]]).stdout != "", 20, f"sshd of {name}")

    def kill(self, name: str) -> None:
        """Take the power from a host: all its processes die at once, its network is gone."""
        process = self._processes.pop(name)
        first = _only_child(process.pid)
        process.kill()  # unshare, which takes its child with it; it would complain of a child that was killed
        process.wait()
        _wait(lambda: not _lives(first), 10, f"the end of {name}")

    def close(self) -> None:
        """End all hosts, the launcher last."""
        for name in reversed(list(self._processes)):
            self.kill(name)

    def run(
        self, command: Sequence[str | Path], timeout: float = 300, env: Mapping[str, str] = {}, **options: object
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the launcher, and return what it said on both streams."""
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            ["nsenter", f"--net=/proc/{self._bridge}/ns/net", *command],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout,
            env=os.environ | env, **options,
        )  # fmt: skip

    def on(self, name: str, command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command line on a host, by SSH."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        ssh = ["ssh", "-i", str(self.key), *(part for option in options for part in ("-o", option))]
        return self.run([*ssh, f"root@{self.addresses[name]}", f"bash --login -c {_quoted(command)}"], timeout)

    def processes(self, name: str, of: str) -> list[int]:
        """Return the ids, on the host, of the processes whose command line holds a text."""
        found = self.on(name, f"pgrep -f {_quoted('[' + of[0] + ']' + of[1:])}")
        return [int(line) for line in found.stdout.split()]

    def _ip(self, process: int, commands: str) -> None:
        for command in commands.split("; "):
            subprocess.run(["nsenter", f"--net=/proc/{process}/ns/net", "ip", *command.split()], check=True)


def _spawn(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a process that dies with this one."""
    return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdin=subprocess.DEVNULL)


def _only_child(process: int) -> int:
    children = Path(f"/proc/{process}/task/{process}/children")
    _wait(lambda: children.read_text() != "", 5, f"the child of process {process}")
    (child,) = children.read_text().split()
    return int(child)


def _lives(process: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait(condition: object, seconds: float, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} is not there after {seconds:g} s")
        time.sleep(0.05)


def _passwd_with_home_of_root(home: Path) -> str:
    rest = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith("root:")]
    return "\n".join([f"root:x:0:0:root:{home}:/bin/bash", *rest, ""])


def _uv_cache() -> str:
    return subprocess.run([UV, "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()


def fill_uv_cache(wanted: Sequence[str | Path], folder: Path) -> str:
    """Have uv's cache hold what hosts install from it, for they reach no registry; return why it does not, in a line.

    `wanted` is what `uv pip install` is told; it is installed once in `folder`, by links into the cache.
    """
    cache = Path(_uv_cache())
    if hidden := [place for place in NOT_SEEN if cache.resolve().is_relative_to(place)]:
        return (
            f"uv's cache is {cache}, and a host has a {hidden[0]} of its own: "
            "set UV_CACHE_DIR to a folder outside it, such as ~/.cache/uv"
        )
    venv = folder / "filled"
    environment = os.environ | {"UV_LINK_MODE": "symlink"}
    for command in (["venv", "--quiet", venv], ["pip", "install", "--quiet", "--python", venv / "bin/python", *wanted]):
        done = subprocess.run([UV, *command], capture_output=True, text=True, env=environment)
        if done.returncode:
            said = " ".join(line.strip(" \u00d7╰─▶│├") for line in done.stderr.splitlines())
            return f"uv's cache {cache} lacks what the hosts install, and uv cannot fetch it: {said}"
    shutil.rmtree(venv)
    return ""


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
