#!/usr/bin/env bash
# Start MLflow and the service under supervisor on the head, or start them anew. Run by in-cluster.
set -euo pipefail
mkdir -p logs
conf=$PWD/service/deploy/supervisord.conf
if supervisorctl -c "$conf" pid >/dev/null 2>&1; then
  supervisorctl -c "$conf" reload
else
  supervisord -c "$conf"
fi
