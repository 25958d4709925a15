"""Class-wise figures, confidence intervals and the paired bootstrap."""
