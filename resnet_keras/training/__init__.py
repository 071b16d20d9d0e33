"""Fine-tuning in phases, with cached activations, into a run folder that can be resumed."""

from resnet_keras.training.optimizers import Phase as Phase
from resnet_keras.training.phases import FineTuneResult as FineTuneResult
from resnet_keras.training.phases import fine_tune as fine_tune
