"""A container's file system without a container runtime: a root of its own, into which an image's program is copied.

It stands in for what the Dockerfile of service/deploy/kuberay makes: this machine's /usr and Python, read-only, in
place of python:3.11-slim; the virtual environment of these tests in place of the image's; all else new and empty. What
runs there has the user, the working directory and the environment of the image, and a network with only loopback.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "service" / "deploy" / "kuberay" / "Dockerfile"
TOOLS = ("unshare", "setpriv", "chroot", "ip", "mount")
NAMESPACES = ("--mount", "--pid", "--net", "--uts", "--ipc")
PASSWD = "root:x:0:0:root:/root:/bin/bash\nlncis:x:1000:1000::/home/lncis:/bin/bash\n"

FIRST_PROCESS = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs {root}
cd {root}
mkdir -p usr etc proc dev/shm tmp runs datasets lncis home/lncis var/tmp run
for name in bin lib lib64 sbin; do
  if [ -L /$name ]; then ln -s "$(readlink /$name)" $name
  elif [ -e /$name ]; then mkdir $name; mount --rbind /$name $name; fi
done
mount --bind /usr usr
for device in null zero random urandom; do touch dev/$device; mount --bind /dev/$device dev/$device; done
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=1777,size=1g tmpfs dev/shm
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o uid=1000,gid=1000 tmpfs runs
mount -t proc proc proc
cp /etc/ld.so.cache etc/
printf '{passwd}' >etc/passwd
printf 'lncis:x:1000:\\n' >etc/group
printf '127.0.0.1 localhost container {names}\\n' >etc/hosts
hostname container
ip link set lo up
cp -r {program} lncis/
ln -s /runs lncis/runs
ln -s /datasets lncis/data
for folder in {pythons}; do mkdir -p .$folder; mount --bind $folder .$folder; mount -o remount,bind,ro .$folder; done
ln -s {venv} lncis/.venv
mount -o remount,bind,ro usr
chown 1000:1000 home/lncis
[ {writable} = yes ] || mount -o remount,ro {root}
exec chroot {root} setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs --bounding-set=-all \\
  --inh-caps=-all env -i {environment} /bin/bash -c {command}
"""


def why_not() -> str:
    """Return why this machine cannot have such a root, or nothing if it can."""
    if os.geteuid() != 0:
        return "only root can make one"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"{', '.join(missing)} missing"
    tried = subprocess.run(["unshare", *NAMESPACES, "--fork", "true"], capture_output=True, text=True)
    return f"this machine forbids namespaces: {tried.stderr.strip()}" if tried.returncode else ""


def image_environment() -> dict[str, str]:
    """Return the variables that the last stage of the Dockerfile sets, and its working directory as PWD."""
    last = DOCKERFILE.read_text().rpartition("\nFROM ")[2].replace("\\\n", " ")
    given = {name: value for line in re.findall(r"^ENV (.*)$", last, re.MULTILINE)
             for name, _, value in (each.partition("=") for each in line.split())}  # fmt: skip
    (workdir,) = re.findall(r"^WORKDIR (\S+)$", last, re.MULTILINE)
    usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return given | {"PATH": given["PATH"].replace("$PATH", usual), "HOME": "/home/lncis", "PWD": workdir}


def copied() -> list[str]:
    """Return what the Dockerfile copies from the repository."""
    lines = re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def run(
    folder: Path,
    command: Sequence[str] | str,
    environment: Mapping[str, str] = {},
    *,
    names: Sequence[str] = (),
    writable: bool = False,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Run a command, or a script of bash, as the image's user; the root is read-only unless `writable`.

    `names` are hosts that are this one. Returns what it printed on both streams; what it started ends with it.
    """
    image = image_environment() | environment
    # the environment of these tests has this repository's main checkout, which is not there: the copy instead
    variables = image | {"PYTHONPATH": image["PWD"], "PYTHONDONTWRITEBYTECODE": "1"}
    script = command if isinstance(command, str) else shlex.join(command)
    venv = Path(sys.prefix)
    first = FIRST_PROCESS.format(
        root=shlex.quote(str(folder)),
        names=" ".join(names),
        passwd=PASSWD.replace("\n", "\\n"),
        program=shlex.join(str(ROOT / source) for source in copied()),
        pythons=shlex.join(dict.fromkeys([str(venv), str(Path(sys.base_prefix).resolve())])),
        venv=shlex.quote(str(venv)),
        writable="yes" if writable else "no",
        environment=shlex.join(f"{name}={value}" for name, value in variables.items()),
        command=shlex.quote(f"cd {image['PWD']} && {script}"),
    )
    return subprocess.run(
        ["unshare", *NAMESPACES, "--fork", "--kill-child", "bash", "-c", first],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout,
    )  # fmt: skip
