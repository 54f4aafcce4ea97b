"""One HTML file with everything a run found; it needs no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from datool.evaluation import figures
from datool.evaluation.compare import LEVEL, NUM_DRAWS, Comparison
from datool.evaluation.gallery import Picture
from datool.evaluation.metrics import METRICS
from datool.evaluation.results import BenchResult, EvalSummary

# (predictor, benchmark) -> its worst and its best images
Galleries = Mapping[tuple[str, str], tuple[Sequence[Picture], Sequence[Picture]]]
# Images listed one by one of those without a score.
MAX_FAILED = 200

STYLE = """
:root { --ink: #0f172a; --soft: #64748b; --line: #e2e8f0; --accent: #2563eb; }
* { box-sizing: border-box }
body { margin: 0; background: #f8fafc; color: var(--ink); font: 15px/1.5 system-ui, -apple-system, sans-serif }
main { max-width: 1240px; margin: 0 auto; padding: 28px 24px 64px }
h1 { font-size: 26px; margin: 0 0 4px } h2 { font-size: 20px; margin: 44px 0 4px }
h3 { font-size: 15px; margin: 0 0 8px }
p.sub { color: var(--soft); margin: 0 0 14px; overflow-wrap: anywhere }
section { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px; margin: 14px 0 }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(128px, 1fr)); gap: 10px }
.tile { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 10px 14px }
.tile b { display: block; font-size: 22px; font-variant-numeric: tabular-nums }
.tile span { color: var(--soft); font-size: 12.5px }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 14px; margin: 14px 0 }
.two > section { margin: 0; min-width: 0 }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 4px 10px }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px }
th { text-align: left; color: var(--soft); font-weight: 600; white-space: nowrap }
th, td { padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top }
tr:last-child td { border-bottom: 0 } td.n, th.n { text-align: right; white-space: nowrap }
tr.ours td { font-weight: 650; color: var(--accent) }
td.why { color: var(--soft); font-size: 12.5px; min-width: 260px } small { color: var(--soft) }
.yes { color: #059669 } .no { color: #dc2626 } .open { color: var(--soft) }
.shot { padding: 12px 0; border-bottom: 1px solid var(--line) } .shot:last-child { border-bottom: 0; padding-bottom: 0 }
.shot header { display: flex; justify-content: space-between; gap: 16px; font-size: 13.5px; margin-bottom: 6px }
.shot header span { overflow-wrap: anywhere }
.panels { display: grid; grid-template-columns: repeat(4, 1fr); gap: 8px; align-items: start }
figure { margin: 0 } figure img { width: 100%; display: block; border-radius: 6px }
figcaption { font-size: 12px; color: var(--soft); padding-top: 3px }
details summary { cursor: pointer; color: var(--soft) } code { font-size: 13px; overflow-wrap: anywhere }
@media (max-width: 860px) { .two { grid-template-columns: 1fr }
  .panels { grid-template-columns: 1fr 1fr } }
"""


def page(summaries: Sequence[EvalSummary], comparisons: Sequence[Comparison], galleries: Galleries) -> str:
    """Return the whole file.

    Args:
        summaries: one a predictor, over the same benchmarks.
        comparisons: one a benchmark, where there are several predictors.
        galleries: pictures of single images.
    Raises:
        DatoolError: plotly is not installed.
    """
    first = summaries[0]
    title = "datool eval: " + ", ".join(summary.name or summary.predictor for summary in summaries)
    return "".join(
        [
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>{STYLE}</style><script>{figures.plotly_script()}</script></head><body><main>",
            f'<h1>{escape(title)}</h1><p class="sub">datool {escape(first.version)}</p>',
            _predictors(summaries),
            *(_bench(number, summaries, comparisons, galleries) for number in range(len(first.results))),
            "</main></body></html>",
        ]
    )


def _predictors(summaries: Sequence[EvalSummary]) -> str:
    """Return what was scored, and how fast it is."""
    speeds = any(summary.speed for summary in summaries)
    titles = ["predictor", "identity", "seconds"]
    if speeds:
        titles += ["images/s", "latency, median", "latency, 90 %", "peak memory", "measured on"]
    rows = []
    for summary in summaries:
        row = [escape(summary.name), f"<code>{escape(summary.predictor)}</code>", f"{summary.seconds:.1f}"]
        speed = summary.speed
        if speed:
            row += [
                f"{speed.images_per_s:.2f}",
                f"{1000 * speed.latency_median_s:.0f} ms",
                f"{1000 * speed.latency_p90_s:.0f} ms",
                f"{speed.peak_bytes / 2**20:,.0f} MiB",
                escape(f"{speed.on}, {speed.num_images} images"),
            ]
        elif speeds:
            row += ["saved maps", "", "", "", ""]
        rows.append(row)
    return f"<section>{_table(titles, rows, numbers=range(2, 7))}</section>"


def _bench(
    number: int, summaries: Sequence[EvalSummary], comparisons: Sequence[Comparison], galleries: Galleries
) -> str:
    """Return the part of one benchmark."""
    results = {summary.name or summary.predictor: summary.results[number] for summary in summaries}
    first = next(iter(results.values()))
    titles = {name: METRICS[name].title for name in first.fields["metrics"]}
    main = next(iter(titles))
    comparison = next((found for found in comparisons if found.bench == first.bench), None)
    parts = [
        f'<h2>{escape(first.bench)}</h2><p class="sub">{escape(first.title)} &middot; {escape(first.root)}<br>'
        f"protocol <b>{escape(first.protocol)}</b> <code>{escape(first.protocol_sha256)}</code></p>",
        _tiles(first, titles) if len(results) == 1 else "",
        _compared(comparison, titles, main) if comparison else "",
        _published(results, titles),
        _beside(
            _section("Error against depth", figures.by_depth(results)),
            _section(
                f"{titles[main]} of each group",
                figures.groups(results, main, titles[main], METRICS[main].higher_is_better),
            ),
        ),
        _section("Images by score", f'<div class="charts">{"".join(figures.charts_of_metrics(results, titles))}</div>'),
    ]
    for name in results:
        worst, best = galleries.get((name, first.bench), ((), ()))
        of = f" of {name}" if len(results) > 1 else ""
        parts += [
            _pictures(f"Worst images{of}", worst, titles[main]),
            _pictures(f"Best images{of}", best, titles[main]),
        ]
    parts += [_protocol(first), *(_failed(name, result) for name, result in results.items())]
    return "".join(parts)


def _tiles(result: BenchResult, titles: Mapping[str, str]) -> str:
    counts = {"images scored": f"{result.num_scored} of {result.num_images}"}
    counts |= {name: str(count) for name, count in result.failures.items()}
    counts |= {f"flagged {name}": str(count) for name, count in result.flags.items()}
    tiles = {title: _number(result.values.get(name)) for name, title in titles.items()} | counts
    found = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in tiles.items()
    )
    return f'<div class="tiles">{found}</div>'


def _compared(comparison: Comparison, titles: Mapping[str, str], main: str) -> str:
    """Return the table of several predictors, and the differences in the first metric."""
    rows = []
    for metric, title in titles.items():
        cells = []
        for name, values in comparison.table.items():
            found = values[metric]
            gap = f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
            first = name == next(iter(comparison.table))
            cells.append(
                f"<b>{found.value:.4f}</b>" + ("" if first else f'<br><small class="{found.better}">{gap}</small>')
            )
        rows.append([escape(title), *cells])
    left = f", {comparison.num_left_out} left out" if comparison.num_left_out else ""
    note = (
        f"{comparison.num_images} images that all scored{left}. Below each value: the difference from the first "
        f"predictor and its interval of {LEVEL:.0%}, {NUM_DRAWS:,} paired draws of {comparison.num_units} "
        f"{comparison.resampled}. Green is better, red worse, grey: the interval holds 0."
    )
    table = _table(["", *comparison.table], rows, numbers=range(1, 1 + len(comparison.table)))
    return _section("Compared", f'<p class="sub">{note}</p>{table}') + _section(
        f"{titles[main]}: differences", figures.intervals(comparison, main, titles[main])
    )


def _published(results: Mapping[str, BenchResult], titles: Mapping[str, str]) -> str:
    """Return ours beside what others printed; empty where nothing was."""
    first = next(iter(results.values()))
    tables = [table.values for table in first.published]
    shown = [name for name in titles if any(name in values for table in tables for values in table.values())]
    if not shown:
        return ""
    ours = [
        [
            escape(name),
            "this run",
            escape(result.protocol),
            *(_number(result.values.get(metric)) for metric in shown),
            "",
        ]
        for name, result in results.items()
    ]
    rows = []
    for table in first.published:
        mark = (
            '<span class="yes">reproducible</span>'
            if table.reproducible
            else '<span class="no">not reproducible</span>'
        )
        models = [(model, values) for model, values in table.values.items() if values.keys() & set(shown)]
        for number, (model, values) in enumerate(models):
            why = "" if number else f"{mark}: {escape(table.why)}"
            cells = [_number(values.get(metric)) for metric in shown]
            rows.append(
                [escape(model), escape(table.source) if not number else "", escape(table.protocol), *cells, why]
            )
    heads = ["model", "source", "protocol", *(titles[name] for name in shown), ""]
    numbers = range(3, 3 + len(shown))
    return _section("Ours and published", _table(heads, [*ours, *rows], numbers, ours=len(ours), why=len(heads) - 1))


def _pictures(title: str, pictures: Sequence[Picture], metric: str) -> str:
    shots = []
    for picture in pictures:
        panels = "".join(
            f'<figure><img src="{uri}" alt="{escape(name)}"><figcaption>{escape(name)}</figcaption></figure>'
            for name, uri in picture.panels.items()
        )
        head = f"<header><span>{escape(picture.id)}</span><b>{escape(metric)} {picture.value:.4f}</b></header>"
        shots.append(f'<div class="shot">{head}<div class="panels">{panels}</div></div>')
    return _section(title, "".join(shots))


def _protocol(result: BenchResult) -> str:
    rows = [[escape(name), escape(_field(value))] for name, value in result.fields.items()]
    head = f"Protocol {escape(result.protocol)} <code>{escape(result.protocol_sha256)}</code>"
    return f"<section><h3>{head}</h3>{_table(['field', 'value'], rows)}</section>"


def _failed(name: str, result: BenchResult) -> str:
    if not result.failed:
        return ""
    rows = [[escape(id), escape(reason)] for id, reason in result.failed[:MAX_FAILED]]
    more = len(result.failed) - len(rows)
    counts = ", ".join(f"{count} {kind}" for kind, count in result.failures.items())
    note = f'<p class="sub">and {more} more, in --csv and --json</p>' if more else ""
    return _section(f"Without a score, {name}: {counts}", _table(["image", "reason"], rows) + note)


def _beside(*sections: str) -> str:
    found = [section for section in sections if section]
    return f'<div class="two">{"".join(found)}</div>' if len(found) > 1 else "".join(found)


def _section(title: str, body: str) -> str:
    return f"<section><h3>{escape(title)}</h3>{body}</section>" if body else ""


def _table(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers: Sequence[int] = (),
    ours: int = 0,
    why: int = -1,
) -> str:
    """Return a table of cells that are HTML already.

    Args:
        titles, rows: texts. numbers: columns that stand at the right. ours: first rows that stand out.
        why: a column of long notes; -1 = none.
    """

    def cells(row: Sequence[str], tag: str) -> Iterator[str]:
        for at, cell in enumerate(row):
            kind = ' class="n"' if at in numbers else ' class="why"' if at == why and tag == "td" else ""
            yield f"<{tag}{kind}>{cell}</{tag}>"

    body = "".join(
        f"<tr{' class=ours' if at < ours else ''}>{''.join(cells(row, 'td'))}</tr>" for at, row in enumerate(rows)
    )
    return f'<div class="wide"><table><tr>{"".join(cells(list(map(escape, titles)), "th"))}</tr>{body}</table></div>'


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _field(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value) or "-"
