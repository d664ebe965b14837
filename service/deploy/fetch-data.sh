#!/usr/bin/env bash
# Bring the data to this node's disk, once: from an object store (s3://...) or from a folder that is mounted here.
set -euo pipefail
# shellcheck disable=SC1090  # written by the cluster file
. ~/lncis.env
[ -n "${LNCIS_DATA_SOURCE:-}" ] || exit 0

mkdir -p "$LNCIS_DATA"
exec 9>"$LNCIS_DATA/.lock"
flock 9
if [ "$(cat "$LNCIS_DATA/.source" 2>/dev/null)" = "$LNCIS_DATA_SOURCE" ]; then
  exit 0
fi
case $LNCIS_DATA_SOURCE in
  s3://*) aws s3 sync --only-show-errors "$LNCIS_DATA_SOURCE" "$LNCIS_DATA" ;;
  *) rsync --archive --copy-links "$LNCIS_DATA_SOURCE/" "$LNCIS_DATA/" ;; # a link may lead out of the folder
esac
echo "$LNCIS_DATA_SOURCE" >"$LNCIS_DATA/.source" # last: an interrupted copy is taken up again
