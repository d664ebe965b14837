"""Trained models, found by the folder of their training."""

from dataclasses import dataclass
from pathlib import Path

from torchvision.models.detection import MaskRCNN

from lncis import documents
from lncis.config import TrainConfig
from lncis.detection import checkpoint
from lncis.detection.checkpoint import Checkpoint
from lncis.detection.engine import CHECKPOINT
from lncis.detection.mask_rcnn.models import build_model
from lncis.errors import CheckpointError, ConfigError
from lncis.studies import folders
from lncis.studies.folders import SPEC
from lncis.studies.record import journal
from lncis.studies.record.history import History
from lncis.studies.stages.tree import STAGES


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A checkpoint and the config of its training."""

    path: Path
    config: TrainConfig
    state: Checkpoint

    def model(self) -> MaskRCNN:
        """Return the model in evaluation; CheckpointError where it is not the one that the config describes."""
        model = build_model(self.config.model, len(self.state.categories), pretrained=False)
        try:
            model.load_state_dict(self.state.model)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{self.path} is not of the model that its config describes; name the right one with --config "
                f"({reason:.200} ...)"
            ) from error
        return model.eval()


def find(run: Path, config: Path | None = None) -> Trained:
    """Return the checkpoint in a run, with its config.

    `run` is the folder of a training, whose config.yaml is read; or a stage of a study, whose journal is read; or
    a study, for the first seed of its best configuration; or a checkpoint in one of these. `config` replaces what is
    found there. Raises ConfigError where it is none of them, CheckpointError where the checkpoint cannot be read.
    """
    path, found = _locate(run)
    if config is not None:
        found = documents.load(TrainConfig, config)
    if found is None:
        raise ConfigError(str(run), ["has no config.yaml beside it; say with --config which training it is of"])
    return Trained(path=path, config=found, state=checkpoint.load(path))


def find_all(run: Path) -> list[Trained]:
    """Return the checkpoints in a run: of a study, those of its best configuration, one for each seed and fold.

    Raises as `find` does.
    """
    if not (run / SPEC).exists() or (run / CHECKPOINT).exists():
        return [find(run)]
    result = folders.read_result(run.absolute().parent, run.absolute().name)
    return [
        Trained(path=t.directory / CHECKPOINT, config=t.trial.config, state=checkpoint.load(t.directory / CHECKPOINT))
        for t in result.best.trials
    ]


def require_classes(found: Trained, categories: list[dict[str, object]], of: str) -> None:
    """Raise CheckpointError where the data `of` somewhere have other classes than a model, or other ids of them."""
    theirs, ours = ({c["id"]: c["name"] for c in some} for some in (categories, found.state.categories))
    if theirs != ours:
        there, here = (", ".join(f"{number}: {name}" for number, name in some.items()) for some in (theirs, ours))
        remedy = "name the right one with --config" if of.endswith("config") else "name models of these classes"
        raise CheckpointError(f"{found.path} has other classes ({here}) than {of} ({there}); {remedy}")


def _locate(run: Path) -> tuple[Path, TrainConfig | None]:
    """Return a checkpoint's path, and the config of its training if that is known there."""
    if not run.exists():
        raise ConfigError(str(run), ["there is nothing of that name; check the path"])
    if run.is_dir() and not (run / CHECKPOINT).exists():
        if not (run / SPEC).exists():
            remedy = "name the folder of a training, of a study or of one of its stages"
            raise ConfigError(str(run), [f"holds neither {CHECKPOINT} nor {SPEC}; {remedy}"])
        best = folders.read_result(run.absolute().parent, run.absolute().name).best.trials[0]
        return best.directory / CHECKPOINT, best.trial.config
    path = run / CHECKPOINT if run.is_dir() else run
    folder = path.absolute().parent
    if (folder / "config.yaml").exists():
        return path, documents.load(TrainConfig, folder / "config.yaml")
    return path, _of_stage(folder)


def _of_stage(folder: Path) -> TrainConfig | None:
    """Return the config of a trial that a stage of a study is part of; all such trials train alike up to its end."""
    study = folder.parent.parent
    if folder.parent.name != STAGES or not (study / SPEC).exists():
        return None
    spec = folders.read_spec(study.parent, study.name)
    stage = History.of(spec, journal.read(study)).stages.get(folder.name)
    return stage.trials[0].trial.config if stage else None
