"""Numbers, predictions and the report: what a network is worth on pictures."""

from resnet_keras.evaluation.metrics import ClassScores, Evaluation
from resnet_keras.evaluation.predictions import Prediction, evaluate, predict
from resnet_keras.evaluation.report import write_report

__all__ = ["ClassScores", "Evaluation", "Prediction", "evaluate", "predict", "write_report"]
