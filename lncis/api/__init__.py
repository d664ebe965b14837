"""The wire schema: what the service answers and what lncis.client reads, stated once.

The service makes these from its database rows, FastAPI writes them as JSON and into the OpenAPI document, and the
client parses that JSON into the same classes. An infinite or missing number is null.
"""

from lncis.api.document import Document as Document
from lncis.api.document import Time as Time
from lncis.api.document import iso as iso
from lncis.api.service import Adjustment as Adjustment
from lncis.api.service import BudgetChange as BudgetChange
from lncis.api.service import Dependency as Dependency
from lncis.api.service import Difference as Difference
from lncis.api.service import ExtensionPlan as ExtensionPlan
from lncis.api.service import FieldError as FieldError
from lncis.api.service import Plan as Plan
from lncis.api.service import PlannedStage as PlannedStage
from lncis.api.service import PlannedTrial as PlannedTrial
from lncis.api.service import Preset as Preset
from lncis.api.service import Presets as Presets
from lncis.api.service import ProblemDocument as ProblemDocument
from lncis.api.service import Queue as Queue
from lncis.api.service import QueueEntry as QueueEntry
from lncis.api.service import Readiness as Readiness
from lncis.api.study import ENDED as ENDED
from lncis.api.study import Action as Action
from lncis.api.study import BestConfigurations as BestConfigurations
from lncis.api.study import BestSoFar as BestSoFar
from lncis.api.study import Configuration as Configuration
from lncis.api.study import Event as Event
from lncis.api.study import Labels as Labels
from lncis.api.study import Links as Links
from lncis.api.study import OverSeeds as OverSeeds
from lncis.api.study import Progress as Progress
from lncis.api.study import Removed as Removed
from lncis.api.study import Stage as Stage
from lncis.api.study import StagePage as StagePage
from lncis.api.study import State as State
from lncis.api.study import Status as Status
from lncis.api.study import Study as Study
from lncis.api.study import StudyPage as StudyPage
from lncis.api.study import StudySummary as StudySummary
from lncis.api.study import Trial as Trial
from lncis.api.study import TrialPage as TrialPage
