"""Studies: several ways of training, several seeds and radii of each, judged alike and compared with intervals."""

from fairtat.study.contrasts import Outcome, contrast_outcomes
from fairtat.study.plan import Arm, Cell, Contrast, Study, load_study
from fairtat.study.report import write_report
from fairtat.study.results import Results
from fairtat.study.runs import emit_slurm, run_cells, state_of

__all__ = [
    "Arm",
    "Cell",
    "Contrast",
    "Outcome",
    "Results",
    "Study",
    "contrast_outcomes",
    "emit_slurm",
    "load_study",
    "run_cells",
    "state_of",
    "write_report",
]
