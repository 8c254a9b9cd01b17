"""Success and precision plots of several trackers in one picture each."""

from __future__ import annotations

from pathlib import Path

from engine.evaluation import metrics
from engine.evaluation.report import TrackerReport
from engine.files import PendingFile

# curve -> file, thresholds, axis label, title, the figure in the legend
_PLOTS = {
    "success": ("success.png", metrics.OVERLAP_THRESHOLDS, "overlap threshold", "Success", "AUC"),
    "precision": ("precision.png", metrics.PIXEL_THRESHOLDS, "location error threshold (pixels)", "Precision", "P"),
    "normalised_precision": (
        "normalised_precision.png",
        metrics.NORMALISED_THRESHOLDS,
        "location error threshold (of the box's size)",
        "Normalised precision",
        "P_norm",
    ),
}
_STYLES = ("-", "--", "-.", ":")


def write_plots(folder: Path, reports: list[TrackerReport], title: str) -> list[Path]:
    """Draw the mean curves of all trackers that have scores, the best first in the legend. SinkError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    written = []
    for curve, (file, thresholds, axis_label, name, field) in _PLOTS.items():
        figure = Figure(figsize=(6.4, 4.8), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        ranked = sorted((report for report in reports if report.scores), key=lambda report: -report.mean[field])
        unequal = len({frozenset(report.scores) for report in ranked}) > 1  # then the curves are not of the same frames
        for index, report in enumerate(ranked):
            label = f"{report.name} [{report.mean[field]:.1f}]" + (f", {len(report.scores)} sequences" if unequal else "")
            values = metrics.mean_curves(list(report.scores.values()))[curve]
            style = _STYLES[index // 10 % len(_STYLES)]
            axes.plot(thresholds, values, style, linewidth=2, label=label)
        axes.set(xlabel=axis_label, ylabel="share of frames", title=f"{name}: {title}", xlim=(0, thresholds[-1]), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        if ranked:
            axes.legend(loc="lower left" if curve == "success" else "lower right")
        with PendingFile(folder / file) as pending:
            figure.savefig(pending.partial, dpi=120, format="png")
        written.append(folder / file)
    return written
