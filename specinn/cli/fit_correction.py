"""``specinn fit-correction``: a correction fitted on benchmark stars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specinn import __version__
from specinn.cli._options import AsJson, DegradeSNR, Device, Model, Overwrite, Samples, Seed, labels, offered

if TYPE_CHECKING:
    import numpy as np

    from specinn.evaluation.stars import Benchmark
    from specinn.plugins import Plugins
    from specinn.plugins.interfaces import BenchmarkStars, Correction, LeaveOneOut


EXAMPLES = (
    "specinn fit-correction benchmarks.csv -o correction.toml",
    "specinn fit-correction benchmarks.csv --label teff --label logg --fe-h-min -1",
    "specinn run stars/*.fits --correction correction.toml",
)


def fit_correction(
    ctx: typer.Context,
    benchmarks: Annotated[
        Path, typer.Argument(metavar="BENCHMARKS.csv", help="Table of stars whose parameters are known.")
    ],
    spectra: Annotated[
        list[Path] | None,
        typer.Argument(metavar="SPECTRA", help="Files; without any, those of the table."),
    ] = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE.toml", help="The correction; figures go beside it."),
    ] = Path("correction.toml"),
    model: Model = None,
    kind: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Kind of correction, if several are installed.",
            autocompletion=offered("correction"),
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL", help="Label to correct; repeatable.  [default: all]", autocompletion=labels
        ),
    ] = None,
    fe_h_min: Annotated[
        float, typer.Option(metavar="DEX", help="Leave out stars with lower inferred [Fe/H].")
    ] = -1.5,
    with_reference_stars: Annotated[
        bool, typer.Option("--with-reference-stars", help="Include stars of the training in the fit.")
    ] = False,
    with_out_of_range: Annotated[
        bool, typer.Option("--with-out-of-range", help="Include stars out of range in the fit.")
    ] = False,
    degrade_snr: DegradeSNR = None,
    samples: Samples = 4096,
    seed: Seed = 0,
    device: Device = "cpu",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Fit a correction on stars whose parameters are known.

    Prints the fit of each label, and the errors of left-out stars before and after it: use the correction
    only if these improve. FILE.pdf and FILE.png show residuals and fit.
    """
    import attrs

    from specinn import models
    from specinn.cli._console import bar, plugins_of, print_json
    from specinn.evaluation import corrections as work
    from specinn.evaluation.stars import read_benchmarks
    from specinn.files import check_new, check_output

    check_output(output, (".toml",), overwrite=overwrite)
    figures = [check_new(output.with_suffix(end), overwrite=overwrite) for end in (".pdf", ".png")]
    plugins = plugins_of(ctx)
    kind = _kind(plugins, kind)
    correction_kind = plugins.load("correction", kind)
    chosen_model = models.find(plugins, model)
    estimator = models.load(plugins, chosen_model, device)
    table = read_benchmarks(benchmarks, estimator.labels)
    for name in label or ():
        estimator.labels.index(name)  # says which there are
    pairs, strange = work.pair(table, spectra or [], plugins)
    with bar("spectra") as progress:
        rows, stars, lost = work.infer(
            estimator, pairs, plugins, degrade_snr=degrade_snr, n_samples=samples, seed=seed,
            progress=progress,
        )  # fmt: skip
    stars = attrs.evolve(
        stars,
        literature={k: v for k, v in stars.literature.items() if not label or k in label},
        fe_h_min=fe_h_min,
        model=chosen_model.sha256(),
    )
    used, why = work.choose(
        rows, stars, with_reference_stars=with_reference_stars, with_out_of_range=with_out_of_range
    )
    reasons = _reasons(why | lost, table, pairs)
    left_out = [f"{', '.join(names)} ({reason})" for reason, names in reasons.items()]
    if not as_json:
        _say_who_is_missing(left_out, strange)
    how = f"{benchmarks.name}, inferred [Fe/H] from {fe_h_min:g} on"
    how += f", S/N {degrade_snr:g} per Angstrom" if degrade_snr is not None else ""
    how += f"; {chosen_model.name}, {samples} samples, seed {seed}, specinn {__version__}"
    how += f"; left out: {'; '.join(left_out)}" if left_out else ""
    stars = attrs.evolve(stars, provenance=how)
    correction, tested = work.fit(correction_kind, stars[used])
    _draw(correction, stars, used, figures)
    correction.save(output)
    seen = list(dict.fromkeys(stars.star[used & stars.seen].tolist()))
    if as_json:
        print_json(
            {"correction": output, "figures": figures, "kind": kind, "model": chosen_model.name,
             "sha256": chosen_model.sha256(), "terms": _terms(correction), "tested": _tested(tested),
             "seen": seen, "left_out": reasons, "strange": strange, "verdict": work.verdict(tested)}
        )  # fmt: skip
    else:
        _tell(correction, tested, stars[used], seen, (output, *figures))


def _say_who_is_missing(left_out: Sequence[str], strange: Sequence[str]) -> None:
    for words, of in (("left out", left_out), ("matching no star of the table", [", ".join(strange)])):
        for text in filter(None, of):
            _say(f"{words}: {text}")


def _tell(
    correction: Correction,
    tested: Mapping[str, LeaveOneOut],
    stars: BenchmarkStars,
    seen: Sequence[str],
    paths: Sequence[Path],
) -> None:
    """The fit, whether it helps, and where it was written."""
    from specinn.cli._console import echo
    from specinn.evaluation.corrections import verdict

    _show(correction, tested, stars)
    _say(verdict(tested))
    if seen:
        _say(f"in the fit but not counted here, because the training has seen them: {', '.join(seen)}")
    for path in paths:
        echo(path)


def _kind(plugins: Plugins, kind: str | None) -> str:
    """The kind of correction to fit: the one that was named, or the only one that is installed."""
    from specinn.errors import ConfigError

    kinds = [kind] if kind is not None else [offer.record.name for offer in plugins.offers("correction")]
    if len(kinds) != 1:
        raise ConfigError(
            f"choose the correction to fit with --kind; installed: {', '.join(kinds) or 'none'}"
        )
    return kinds[0]


def _reasons(
    why: Mapping[str, str], table: Sequence[Benchmark], pairs: Sequence[tuple[Benchmark, Any]]
) -> dict[str, list[str]]:
    """By reason, the stars that take no part in the fit."""
    reasons = {reason: [name for name in why if why[name] == reason] for reason in why.values()}
    with_spectra = {star.star for star, _ in pairs}
    absent = list(dict.fromkeys(star.star for star in table if star.star not in with_spectra))
    return reasons | ({"no spectrum given": absent} if absent else {})


def _draw(correction: Correction, stars: BenchmarkStars, used: np.ndarray, paths: Sequence[Path]) -> None:
    """Residuals and fit, as PDF and PNG."""
    from specinn.evaluation import corrections as work
    from specinn.files import replacing
    from specinn.plotting import arrange, style

    with style():
        figure = work.draw(correction, stars, used)
        arrange(figure)
        for path, meta in zip(paths, ({"CreationDate": None}, {}), strict=True):
            with replacing(path) as temporary:
                figure.savefig(temporary, dpi=200, facecolor="white", metadata=meta)


def _terms(correction: Correction) -> dict[str, Any]:
    return {
        label: {term: dict(zip(("value", "error"), pair, strict=True)) for term, pair in of.items()}
        for label, of in correction.terms().items()
    }


def _tested(tested: Mapping[str, LeaveOneOut]) -> dict[str, Any]:
    import attrs

    return {label: {**attrs.asdict(errors), "helps": errors.helps} for label, errors in tested.items()}


def _say(text: str) -> None:
    import textwrap

    from specinn.cli._console import echo

    echo(textwrap.fill(text, 80, subsequent_indent="  ", break_on_hyphens=False))


def _show(correction: Correction, tested: Mapping[str, LeaveOneOut], stars: BenchmarkStars) -> None:
    """A line for each label: terms with errors, stars in the fit, and errors of the stars left out of it."""
    import numpy as np
    from rich.console import Console

    from specinn.cli._tables import columns, decimals, figure

    terms = correction.terms()
    heads = dict.fromkeys(term for of in terms.values() for term in of)
    grid = columns([""], [*heads, "stars", "median", "after", "rms", "after"])
    for name in terms or tested:
        style = decimals(stars.posterior.labels[name].unit, more=1)
        cells = []
        for term in heads:
            value, error = terms[name].get(term, (None, None))
            cells.append(f"{figure(value, '+' + style)} ± {figure(error, style)}")
        cells.append(str(len(set(stars.star[np.isfinite(stars.literature[name])].tolist()))))
        for key in ("median_before", "median_after", "rms_before", "rms_after"):
            cells.append(figure(getattr(tested.get(name), key, None), style))
        grid.add_row(name, *cells)
    Console(highlight=False, markup=False, soft_wrap=True).print(grid)
    _say("median, rms: absolute errors (K, km/s, dex) of stars left out of the fit, before and after")
