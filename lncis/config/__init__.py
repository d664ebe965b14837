"""TrainConfig and its parts: the one schema of a training, in YAML, in Python and over HTTP.

A config is built once, checked once and handed down; nothing changes it. Unknown keys are errors.
The defaults are the recipe for the embedded digits.
"""

from lncis.config.data import CocoData as CocoData
from lncis.config.data import DigitsData as DigitsData
from lncis.config.data import Noise as Noise
from lncis.config.data import NoiseMatrix as NoiseMatrix
from lncis.config.loss import ActivePassiveLoss as ActivePassiveLoss
from lncis.config.loss import ClassLossConfig as ClassLossConfig
from lncis.config.loss import CrossEntropyLoss as CrossEntropyLoss
from lncis.config.loss import GeneralizedCrossEntropyLoss as GeneralizedCrossEntropyLoss
from lncis.config.loss import JointOptimizationLoss as JointOptimizationLoss
from lncis.config.loss import LabelSmoothingLoss as LabelSmoothingLoss
from lncis.config.loss import LncisLoss as LncisLoss
from lncis.config.loss import ReverseCrossEntropyLoss as ReverseCrossEntropyLoss
from lncis.config.loss import SymmetricCrossEntropyLoss as SymmetricCrossEntropyLoss
from lncis.config.loss import loss_in_stage as loss_in_stage
from lncis.config.model import PUBLISHED_WEIGHTS as PUBLISHED_WEIGHTS
from lncis.config.model import Model as Model
from lncis.config.strict import STRICT_KEYS as STRICT_KEYS
from lncis.config.training import Optimizer as Optimizer
from lncis.config.training import Schedule as Schedule
from lncis.config.training import TrainConfig as TrainConfig
from lncis.config.training import Workers as Workers
