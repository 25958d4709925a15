"""Observers that write an epoch's figures elsewhere: TensorBoard, Weights & Biases, MLflow."""

from fairtat.training.observers.mlflow import MLflow
from fairtat.training.observers.tee import Tee
from fairtat.training.observers.tensorboard import TensorBoard
from fairtat.training.observers.wandb import WeightsAndBiases

__all__ = ["MLflow", "Tee", "TensorBoard", "WeightsAndBiases"]
