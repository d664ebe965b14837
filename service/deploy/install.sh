#!/usr/bin/env bash
# Make this machine a node: mount the shared folder, install the environment from the lock. May be run again at any time.
set -euo pipefail
# shellcheck disable=SC1090  # written by the cluster file
. ~/lncis.env

if [ -n "${LNCIS_SHARED_SOURCE:-}" ] && ! mountpoint -q "$LNCIS_SHARED"; then
  command -v mount.nfs4 >/dev/null || { sudo apt-get -qq update && sudo apt-get -qq install -y nfs-common; }
  sudo mkdir -p "$LNCIS_SHARED"
  # lookupcache: a node that looked for a checkpoint too early must not go on believing that there is none
  sudo mount -t nfs4 -o nfsvers=4.1,hard,timeo=600,retrans=2,noresvport,lookupcache=positive \
    "$LNCIS_SHARED_SOURCE" "$LNCIS_SHARED"
  sudo chown "$(id -u):$(id -g)" "$LNCIS_SHARED"
fi
mkdir -p "$LNCIS_SHARED/runs"
ln -sfn "$LNCIS_SHARED/runs" ~/lncis/runs # so that the default of --runs is seen by every node
mkdir -p "$LNCIS_DATA"
ln -sfn "$LNCIS_DATA" ~/lncis/data # where the studies of the repository look for data

export PATH=$HOME/.local/bin:$PATH
command -v uv >/dev/null || PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --user --quiet uv
cd ~/lncis
uv venv --quiet --allow-existing --python '>=3.11' .venv
# the extra is what only a cluster needs; all versions are the lock's
uv pip install --quiet --python .venv/bin/python --requirements requirements.lock --editable '.[cluster]'

# `ray down` calls a plain `ray stop` on the head, and where it finds none it says nothing and stops nothing
# shellcheck disable=SC2016  # for later shells to expand
grep -qs 'lncis/.venv/bin' ~/.bashrc || echo 'PATH=$PATH:$HOME/lncis/.venv/bin # for ray down' >>~/.bashrc
