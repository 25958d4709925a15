"""The folder of a training run: its files while they are written, and the run read back."""

from fairtat.training.run.folder import RunFolder
from fairtat.training.run.read import Run, load_run

__all__ = ["Run", "RunFolder", "load_run"]
