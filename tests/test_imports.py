"""The arrows that import-linter cannot see: it does not look inside other people's packages."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lncis"


def importers_of(name: str) -> set[str]:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                imported = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            if any(module == name or module.startswith(f"{name}.") for module in imported):
                found.add(str(path.relative_to(PACKAGE)))
    return found


@pytest.mark.parametrize(
    ("package", "only"),
    [
        ("ray.train", {"execution/worker_groups.py", "execution/worker.py"}),
        ("ray.tune", {"studies/driver/tuning.py", "studies/driver/relay.py"}),
        (
            "ray",
            {f"execution/{name}.py" for name in ("worker_groups", "worker", "cluster")}
            | {"commands/cluster.py"}
            | {f"studies/driver/{name}.py" for name in ("loop", "worker_pool", "tuning", "relay", "probing")},
        ),
        ("mlflow", {"tracking.py"}),
        ("pyarrow", {"execution/objects.py"}),
        ("hotcoco", {"detection/inference/coco_eval.py"}),
        ("optuna", {"studies/search.py", "studies/report/statistics.py"}),
    ],
)
def test_only_these_import(package: str, only: set[str]) -> None:
    assert importers_of(package) == only
