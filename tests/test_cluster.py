import pytest
import ray

from lncis import cluster
from lncis.config import Workers
from lncis.errors import StudyError


@pytest.mark.parametrize(("address", "place"), [(None, "on this machine"), ("10.0.0.1:6379", "RAY_ADDRESS=10.0.0.1")])
def test_a_ray_that_does_not_start_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, address: str | None, place: str
) -> None:
    """Ray raises a plain Exception where a process of its own was killed while it started."""

    def init(**options: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(StudyError, match=f"{place}.*timed out during startup"), cluster.connected(Workers(), lanes=1):
        pass
