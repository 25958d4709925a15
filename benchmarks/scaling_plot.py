"""Draws docs/scaling.png of benchmarks/results/scaling-cpu.json: python benchmarks/scaling_plot.py."""

from __future__ import annotations

from harness.records import RESULTS, ROOT, read_json, result_path
from harness.scripts import load


def main() -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    factors = load("scaling").FACTORS
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for case in read_json(result_path(RESULTS, "scaling"))["cases"]:
        grown = {int(row["name"][1:]): row["ratio"]["median"] for row in case["contestants"] if "ratio" in row}
        if len(grown) > 1:
            axes.loglog(list(grown), list(grown.values()), "o-", label=case["name"].replace("`", ""))
    axes.loglog(factors, factors, "k:", label="in proportion")
    axes.set(xlabel="size, relative", ylabel="time, relative", xticks=factors, xticklabels=factors)
    axes.legend(fontsize=8)
    figure.savefig(ROOT / "docs" / "scaling.png", dpi=110)


if __name__ == "__main__":
    main()
