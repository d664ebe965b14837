"""What all parts of the process that drives a study need."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lncis.studies.journal import Journal
from lncis.studies.observer import Observer
from lncis.studies.spec import StudySpec
from lncis.studies.stages import StageTree
from lncis.studies.store import PublishedStages


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """A study as this process drives it."""

    spec: StudySpec
    folder: Path
    """Absolute; its name is the id of the study."""
    tree: StageTree
    journal: Journal
    observers: Sequence[Observer]
    published: PublishedStages | None
    """Where workers publish stages; None: stages lie in the study's folder."""

    @property
    def study_id(self) -> str:
        """The id of the study."""
        return self.folder.name

    @property
    def url(self) -> str:
        """The URL below which stages are published; empty where they lie in the study's folder."""
        return self.published.url if self.published else ""

    def note(self, text: str) -> None:
        """Show a remark to all observers."""
        for observer in self.observers:
            observer.on_note(text)
