"""Charts of a report, as pieces of HTML that need `plotly_script` on their page once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from datool.errors import require
from datool.evaluation.compare import Comparison
from datool.evaluation.results import BenchResult

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLOURS = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#db2777", "#475569", "#0891b2", "#65a30d")
# Bars of a chart: the worst groups, where there are more.
MAX_GROUPS = 40
BINS = 30


def plotly_script() -> str:
    """Return the JavaScript of plotly, 4 to 5 MB.

    Raises:
        DatoolError: plotly is not installed.
    """
    return str(require("plotly.offline", "report", "--html").get_plotlyjs())


def by_depth(results: Mapping[str, BenchResult]) -> str:
    """Return the mean relative error over depth, a line a predictor; empty where nothing was kept.

    Args:
        results: predictor -> result, whose rows have ``by_depth``.
    """
    traces = []
    for number, (name, result) in enumerate(results.items()):
        counts: dict[int, int] = {}
        sums: dict[int, float] = {}
        for row in result.rows:
            for at, (count, total) in row.by_depth.items():
                counts[at], sums[at] = counts.get(at, 0) + count, sums.get(at, 0.0) + total
        if counts:
            bins = range(min(counts), max(counts) + 1)
            traces.append(
                {
                    "x": [2 ** ((at + 0.5) / 2) for at in bins],
                    "y": [sums[at] / counts[at] if at in counts else None for at in bins],
                    "customdata": [[2 ** (at / 2), 2 ** ((at + 1) / 2), counts.get(at, 0)] for at in bins],
                    "hovertemplate": "%{customdata[0]:.3g} to %{customdata[1]:.3g}: %{y:.4f}, "
                    "%{customdata[2]:,} pixels<extra></extra>",
                    "mode": "lines+markers",
                    "name": name,
                    "line": {"color": COLOURS[number % len(COLOURS)], "width": 2.5},
                }
            )
    if not traces:
        return ""
    figure = _figure("true depth, in the unit of the truth", "mean relative error")
    figure.update_xaxes(type="log", dtick=float(np.log10(4)), tickformat=".2~g", tickangle=0)
    figure.update_yaxes(rangemode="tozero")
    for trace in traces:
        figure.add_scatter(**trace)
    return _html(figure)


def groups(results: Mapping[str, BenchResult], metric: str, title: str, higher_is_better: bool) -> str:
    """Return a bar a group and predictor, the worst group at the top; empty without groups."""
    first = next(iter(results.values()))
    if len(first.groups) < 2:
        return ""
    names = sorted(first.groups, key=lambda name: first.groups[name][metric], reverse=not higher_is_better)
    names = names[:MAX_GROUPS][::-1]
    figure = _figure(title, "", height_px=90 + 24 * len(names) * max(1, len(results)) // min(2, len(results)))
    for number, (name, result) in enumerate(results.items()):
        found = [result.groups.get(group, {}).get(metric) for group in names]
        figure.add_bar(
            y=names,
            x=found,
            orientation="h",
            name=name,
            marker_color=COLOURS[number % len(COLOURS)],
            text=["" if value is None else f"{value:.3f}" for value in found],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:.4f}<extra></extra>",
        )
    figure.update_yaxes(automargin=True, showgrid=False)
    return _html(figure)


def histogram(results: Mapping[str, BenchResult], metric: str, title: str) -> str:
    """Return how many images have which value of a metric."""
    values = {
        name: [row.values[metric] for row in result.rows if row.status == "scored"] for name, result in results.items()
    }
    pooled = np.concatenate([np.asarray(found, float) for found in values.values()])
    if not len(pooled):
        return ""
    edges = np.histogram_bin_edges(pooled, min(BINS, max(5, 2 * round(np.sqrt(len(pooled))))))
    figure = _figure("", "", height_px=190)
    figure.update_layout(
        title={"text": title, "font": {"size": 13}, "x": 0.02, "y": 0.96}, margin={"l": 34, "t": 34, "b": 28}
    )
    for number, (name, found) in enumerate(values.items()):
        counts, _ = np.histogram(found, edges)
        figure.add_bar(
            x=((edges[1:] + edges[:-1]) / 2).tolist(),
            y=counts.tolist(),
            width=float(edges[1] - edges[0]) * 0.94,
            name=name,
            opacity=0.85 if len(values) == 1 else 0.6,
            marker_color=COLOURS[number % len(COLOURS)],
            hovertemplate="%{x:.4g}: %{y} images<extra></extra>",
        )
    figure.update_layout(barmode="overlay", showlegend=False)
    return _html(figure)


def intervals(comparison: Comparison, metric: str, title: str) -> str:
    """Return the differences from the first predictor in one metric, with their intervals."""
    rows = list(comparison.table.items())[1:][::-1]
    figure = _figure(f"{title}, difference from {next(iter(comparison.table))}", "", height_px=90 + 34 * len(rows))
    found = [values[metric] for _, values in rows]
    figure.add_scatter(
        x=[item.difference for item in found],
        y=[name for name, _ in rows],
        mode="markers",
        marker={"size": 10, "color": [VERDICTS[item.better] for item in found]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [item.high - item.difference for item in found],
            "arrayminus": [item.difference - item.low for item in found],
            "color": "#64748b",
        },
        hovertemplate="%{y}: %{x:.4f}<extra></extra>",
    )
    figure.add_vline(x=0, line_color="#94a3b8", line_dash="dot")
    figure.update_yaxes(automargin=True, showgrid=False)
    figure.update_layout(showlegend=False)
    return _html(figure)


VERDICTS = {"yes": "#059669", "no": "#dc2626", "open": "#64748b"}


def _figure(x_title: str, y_title: str, height_px: int = 320) -> go.Figure:
    figure: go.Figure = require("plotly.graph_objects", "report", "--html").Figure()
    figure.update_layout(
        template="plotly_white",
        height=height_px,
        margin={"l": 60, "r": 30, "t": 16, "b": 48},
        font={"family": "system-ui, sans-serif", "size": 13, "color": "#334155"},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        xaxis_title=x_title,
        yaxis_title=y_title,
    )
    return figure


def _html(figure: go.Figure) -> str:
    options: dict[str, Any] = {"displayModeBar": False, "responsive": True}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config=options))


def charts_of_metrics(results: Mapping[str, BenchResult], titles: Mapping[str, str]) -> Sequence[str]:
    """Return a histogram a metric.

    Args:
        results: predictor -> result. titles: metric -> title, of those wanted.
    """
    return [chart for metric, title in titles.items() if (chart := histogram(results, metric, title))]
