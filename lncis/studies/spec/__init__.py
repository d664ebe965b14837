"""What a study is: the schema of studies/*.yaml, of requests and of Python use."""

from lncis.studies.spec.judging import judge as judge
from lncis.studies.spec.study import MAX_FOLDS as MAX_FOLDS
from lncis.studies.spec.study import NUMBER_OR_AUTO as NUMBER_OR_AUTO
from lncis.studies.spec.study import Budget as Budget
from lncis.studies.spec.study import Extends as Extends
from lncis.studies.spec.study import Objective as Objective
from lncis.studies.spec.study import Paper as Paper
from lncis.studies.spec.study import PaperRow as PaperRow
from lncis.studies.spec.study import Replicate as Replicate
from lncis.studies.spec.study import Resources as Resources
from lncis.studies.spec.study import SelectionObjective as SelectionObjective
from lncis.studies.spec.study import StudySpec as StudySpec
from lncis.studies.spec.study import Trial as Trial
from lncis.studies.spec.study import label as label
from lncis.studies.spec.study import short_names as short_names
from lncis.studies.spec.study import trial_name as trial_name
from lncis.studies.spec.study import value_text as value_text
