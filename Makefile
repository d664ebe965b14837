# Two commands matter on a fresh machine with Python 3.11: `make study` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help study serve quick test test-slow torture cluster-test gpu-check check format lock mlflow clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "lncis needs Python 3.11 or newer; say which: make PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo "installing requirements.lock into .venv (torch alone is several GB the first time)"
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

study: $(STAMP)  ## the main job: sweep gamma on the embedded data, print the table and the best config
	@$(BIN)/python -m lncis.studies.gamma_sweep

serve: $(STAMP)  ## Ray, MLflow and the HTTP service on this machine, until Ctrl-C
	@$(BIN)/python -m service.serve

FAST := not slow and not torture and not cluster
QUICK := not processes and not slow
# make quick leaves test_service_schema.py out by name: all of it starts a service, and to import it takes seconds
quick test test-slow: export PYTHONDONTWRITEBYTECODE :=  # where it is set, each run would compile the tests anew

quick: $(STAMP)  ## the tests that start no Ray and no other process, on two cores at once (3 min); for all day
	@$(BIN)/python -m pytest -q -p no:schemathesis -n 2 --dist loadfile -m '$(QUICK)' --ignore tests/test_service_schema.py

test: $(STAMP)  ## all of them but the slow ones: those that start a Ray on one core, beside them the others
	@$(BIN)/python -m pytest -q -m 'not ray and $(FAST)' >.others.txt 2>&1 & others=$$!; \
	  $(BIN)/python -m pytest -p no:schemathesis -m 'ray and $(FAST)'; code=$$?; \
	  wait $$others || code=1; cat .others.txt; exit $$code

test-slow: $(STAMP)  ## the tests that take a minute and more each
	@$(BIN)/python -m pytest -m slow

torture: $(STAMP)  ## a hundred kill -9 of random processes at random moments, about an hour (LNCIS_KILLS, LNCIS_SEED)
	@$(BIN)/python -m pytest -m torture -s tests/test_torture.py

cluster-test: $(STAMP)  ## bring up service/deploy/own-machines.yaml on hosts in network namespaces, and use it (root); a cluster that grows
	@$(BIN)/python -m pytest -m cluster -s tests/test_elastic.py tests/test_cluster_up.py

gpu-check: $(STAMP)  ## on a machine with a GPU: speed, memory, waiting, forks and four trials at a time; OPTIONS=--toy on the CPU
	@$(BIN)/python benchmarks/gpu_check.py $(OPTIONS)

check: $(STAMP)  ## lint, format, types, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP)  ## apply the formatter and the safe fixes
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: $(STAMP)  ## resolve pyproject.toml again into requirements.lock
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --group dev --extra cluster \
	  pyproject.toml --output-file requirements.lock

mlflow: $(STAMP)  ## browse what was logged, on http://127.0.0.1:5000
	@case "$$MLFLOW_TRACKING_URI" in http*) echo "look at $$(echo "$$MLFLOW_TRACKING_URI" | sed 's,//.*@,//,')";; \
	  *) echo "open http://127.0.0.1:5000/#/experiments?workflowType=machine_learning"; $(BIN)/mlflow ui --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}" --host 127.0.0.1;; esac

clean:  ## remove what can be made again (not runs/ and not mlflow.db)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
