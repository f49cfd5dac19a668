"""Combination of spectra of one star, against linear Gaussian problems whose answer is known."""

from __future__ import annotations

import fake_plugin
import h5py
import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from specinn import catalogue
from specinn.catalogue import samples
from specinn.catalogue.combine import combine, combine_gaussians, combine_limits, prior_precision, stars_of
from specinn.cli import main
from specinn.errors import ConfigError, ModelError, OutputError
from specinn.flags import Flag
from specinn.inference.run import file_sources, prepare
from specinn.labels import LabelSet, make_label
from specinn.plugins import Plugins
from specinn.posterior import Posterior

# two labels with a flat prior in the network's variables, two with a standard normal one
LABELS = LabelSet((make_label("teff", (4000, 7000)), make_label("mg_fe", (-0.4, 0.8)),
                   make_label("n_fe", (-0.4, 0.8)), make_label("a_li", (-0.5, 3.6))))  # fmt: skip
PRIOR = prior_precision(LABELS)
CENTRE, WIDTH = np.array([3.75, 0.2, 0.1, -0.3]), np.array([0.004, 0.05, 0.8, 0.7])
N = 2000


def likelihoods(k, seed, strength=1.0):
    """Precisions ``(k, 4, 4)`` of k data sets about one truth, and their most likely values ``(k, 4)``."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(k, 4, 6)) / WIDTH[:, None]
    precision = strength * root @ root.transpose(0, 2, 1)
    noise = np.einsum("kij,kj->ki", np.linalg.cholesky(np.linalg.inv(precision)), rng.normal(size=(k, 4)))
    return precision, CENTRE + noise


def posterior(precision, best):
    """Mean and covariance of likelihoods, whatever their number, with the prior."""
    covariance = np.linalg.inv(precision.sum(axis=0) + np.diag(PRIOR))
    return covariance @ np.einsum("kij,kj->i", precision, best), covariance


def posteriors(precision, best):
    each = [posterior(p[None], b[None]) for p, b in zip(precision, best, strict=True)]
    return np.array([m for m, _ in each]), np.array([c for _, c in each])


def distance(mean, covariance, exact, exact_covariance):
    """How far two Gaussians are apart, in standard deviations."""
    width = np.sqrt(np.diag(exact_covariance))
    apart = np.abs(mean - exact) / width
    return max(apart.max(), np.abs((covariance - exact_covariance) / np.outer(width, width)).max())


@settings(max_examples=30)
@given(k=st.integers(1, 12), seed=st.integers(0, 10**6), strength=st.sampled_from([0.01, 1.0, 100.0]))
def test_the_product_is_the_posterior_of_all_data(k, seed, strength):
    precision, best = likelihoods(k, seed, strength)
    result = combine_gaussians(*posteriors(precision, best), PRIOR)
    assert distance(result.mean, result.covariance, *posterior(precision, best)) < 1e-6


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_two_steps_give_what_one_gives_in_any_order(seed):
    mean, covariance = posteriors(*likelihoods(4, seed))
    whole = combine_gaussians(mean, covariance, PRIOR)
    first = combine_gaussians(mean[[3, 0]], covariance[[3, 0]], PRIOR)
    rest = (
        np.stack([first.mean, mean[1], mean[2]]),
        np.stack([first.covariance, covariance[1], covariance[2]]),
    )
    again = combine_gaussians(*rest, PRIOR)
    assert distance(again.mean, again.covariance, whole.mean, whole.covariance) < 1e-6


def test_the_prior_counts_once():
    """Twenty spectra that know nothing of nitrogen leave its prior as it is, and not a twentieth of it."""
    mean = posteriors(*likelihoods(20, 0))[0]
    blind = np.diag([*WIDTH[:2] ** 2, 1.0, 0.25])
    result = combine_gaussians(np.zeros_like(mean), np.repeat(blind[None], 20, 0), PRIOR)
    assert np.diag(result.covariance) == pytest.approx([*WIDTH[:2] ** 2 / 20, 1.0, 1 / (20 * 3 + 1)])
    assert result.dof == 19 * 3
    wider = np.repeat(np.diag([*WIDTH[:2] ** 2, 1.3, 0.25])[None], 20, 0)  # by the noise of few samples
    assert combine_gaussians(mean, wider, PRIOR).covariance[2, 2] == pytest.approx(1.0)


@pytest.mark.slow
@pytest.mark.parametrize("strength", [0.05, 1.0])
def test_chi_square_has_the_distribution_that_is_claimed(strength):
    result = [combine_gaussians(*posteriors(*likelihoods(3, seed, strength)), PRIOR) for seed in range(400)]
    assert stats.kstest([one.p_value for one in result], "uniform").pvalue > 1e-3


def test_chi_squares_of_labels_have_theirs_where_labels_do_not_hang_together():
    result = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        precision = np.stack([np.diag(d) for d in rng.uniform(0.3, 3.0, (3, 4)) / WIDTH**2])
        best = CENTRE + rng.normal(size=(3, 4)) / np.sqrt(np.diagonal(precision, axis1=1, axis2=2))
        result.append(combine_gaussians(*posteriors(precision, best), PRIOR).label_chi2)
    assert stats.kstest(stats.chi2(2).cdf(np.ravel(result)), "uniform").pvalue > 1e-3


def test_one_spectrum_that_is_off_shows():
    mean, covariance = posteriors(*likelihoods(3, 1))
    mean[2, 0] += 6.0 * np.sqrt(covariance[2, 0, 0])
    result = combine_gaussians(mean, covariance, PRIOR)
    assert result.p_value < 1e-3 and result.label_chi2.argmax() == 0


@pytest.mark.parametrize(("k", "common"), [(2, 0.5), (5, 0.9), (9, 0.0)])
def test_errors_in_common_do_not_average_out(k, common):
    one = np.diag(WIDTH**2 / 100.0)
    mean, covariance = np.repeat(CENTRE[None], k, 0), np.repeat(one[None], k, 0)
    result = combine_gaussians(mean, covariance, np.zeros(4), common)
    assert result.covariance == pytest.approx(one * (common + (1.0 - common) / k))
    mean[0] += WIDTH / 10.0
    plain = combine_gaussians(mean, covariance, np.zeros(4))
    assert combine_gaussians(mean, covariance, np.zeros(4), common).chi2 == pytest.approx(
        plain.chi2 / (1.0 - common)
    )


def percentiles_of(likelihood, label):
    """Of the posterior, physical; ``likelihood`` takes places between the bounds, 0 to 1."""
    position = (np.arange(20000) + 0.5) / 20000
    chance = likelihood(position).cumsum()
    at = np.interp([0.025, 0.16, 0.5, 0.84, 0.975, 0.95], chance / chance[-1], position)
    low, high = label.bounds
    return low * (high / low) ** at if label.transform == "log10" else low + (high - low) * at


@pytest.mark.parametrize("name", ["a_li", "vbroad"])
def test_limits_are_those_of_the_product_of_one_sided_likelihoods(name):
    """A line that is not seen in any of six spectra: a deeper limit, to 2 % of the range."""
    label = make_label(name, {"a_li": (-0.5, 3.6), "vbroad": (0.5, 100.0)}[name])
    ends = np.linspace(0.4, 0.6, 6)

    def one(i):
        return lambda place: stats.norm.sf(place, ends[i], 0.08)

    percentiles = np.array([percentiles_of(one(i), label)[:5] for i in range(6)])
    exact = percentiles_of(lambda place: np.prod([one(i)(place) for i in range(6)], axis=0), label)
    values, chance = combine_limits(percentiles, label)
    result = np.interp([0.025, 0.16, 0.5, 0.84, 0.975, 0.95], chance, values)
    places = [
        np.log(v / 0.5) / np.log(200.0) if name == "vbroad" else (v + 0.5) / 4.1 for v in (result, exact)
    ]
    assert places[0] == pytest.approx(places[1], abs=0.02)
    alone = combine_limits(percentiles[:1], label)
    assert np.interp(0.95, alone[1], alone[0]) == pytest.approx(percentiles_of(one(0), label)[5], rel=0.1)


def test_what_is_seen_once_is_seen():
    """One likelihood with two flanks decides against two with one."""
    label = make_label("a_li", (-0.5, 3.6))
    seen, unseen = (lambda u: stats.norm.pdf(u, 0.5, 0.03)), (lambda u: stats.norm.sf(u, 0.7, 0.1))
    percentiles = np.array([percentiles_of(one, label)[:5] for one in (unseen, seen, unseen)])
    values, chance = combine_limits(percentiles, label)
    low, middle, high = (np.interp([0.16, 0.5, 0.84], chance, values) + 0.5) / 4.1
    assert middle == pytest.approx(0.5, abs=0.01) and 2 * 0.025 < high - low < 2 * 0.035


# Files --------------------------------------------------------------------------------------------------


def exact_samples(mean, covariance, seed):
    """Physical samples with exactly that mean and covariance in the network's variables."""
    z = np.random.default_rng(seed).normal(size=(N, 4))
    z -= z.mean(axis=0)
    z = z @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T))).T
    return LABELS.from_network(mean + z @ np.linalg.cholesky(covariance).T).astype(np.float32)


def write_samples(path, ids, means, covariances, flags=None, labels=LABELS):
    values = np.stack(
        [exact_samples(m, c, i) for i, (m, c) in enumerate(zip(means, covariances, strict=True))]
    )
    result = Posterior(labels, values, -np.random.default_rng(0).random((len(ids), N)))
    flags = np.zeros(len(ids), np.uint32) if flags is None else np.asarray(flags, np.uint32)
    with samples.samples_file(path, N, samples.attributes_of(labels, model="m 0123", seed=0)) as append:
        append(samples.rows_of(ids, flags, result, N))
    return result


def in_network(table, name, row=0):
    """Median and half of the central 68 %."""
    low, middle, high = (
        LABELS[name].to_network(np.float64(table[f"{name}_{q}"][row])) for q in ("p16", "median", "p84")
    )
    return middle, 0.5 * (high - low)


@pytest.fixture(scope="module")
def nothing():
    return Plugins(entry=[])


def test_samples_of_several_files_give_the_exact_combination(tmp_path, nothing):
    precision, best = likelihoods(5, 3)
    mean, covariance = posteriors(precision, best)
    write_samples(tmp_path / "a.h5", ["x", "y", "x"], mean[:3], covariance[:3])
    write_samples(tmp_path / "b.h5", ["x", "z"], mean[3:], covariance[3:])
    table = combine([tmp_path / "a.h5", tmp_path / "b.h5"], nothing)
    assert table["id"].tolist() == ["x", "y", "z"] and table["n_epochs"].tolist() == [3, 1, 1]
    rows = [0, 2, 3]
    exact, exact_covariance = posterior(precision[rows], best[rows])
    for i, name in enumerate(LABELS.names):
        middle, sigma = in_network(table, name)
        width = np.sqrt(exact_covariance[i, i])
        assert abs(middle - exact[i]) < 0.05 * width and sigma == pytest.approx(width, rel=0.06)
        assert LABELS[name].to_network(np.float64(table[name][0])) == pytest.approx(
            exact[i], abs=2e-3 * width
        )
    result = combine_gaussians(mean[rows], covariance[rows], PRIOR)
    assert table["chi2"][0] == pytest.approx(result.chi2, rel=0.02) and table["dof"].tolist() == [
        result.dof,
        0,
        0,
    ]
    assert table["p_value"].mask.tolist() == [False, True, True]
    assert table["a_li_chi2"][0] == pytest.approx(result.label_chi2[3], rel=0.02)


def test_a_single_spectrum_keeps_the_statistics_of_its_samples(tmp_path, nothing):
    values = posteriors(*likelihoods(1, 0))
    result = write_samples(tmp_path / "a.h5", ["x"], *values, flags=[Flag.RV_MEASURED])
    table = combine([tmp_path / "a.h5"], nothing)
    expected = result.summary()
    for i, name in enumerate(LABELS.names):
        assert table[name][0] == pytest.approx(expected.map[0, i], rel=1e-6)
        assert table[f"{name}_std"][0] == pytest.approx(expected.std[0, i], rel=1e-6)
    assert table["flags"][0] == Flag.RV_MEASURED and table["model"][0] == "m 0123"


def test_bad_spectra_take_no_part_and_a_star_of_bad_ones_has_no_values(tmp_path, nothing):
    mean, covariance = posteriors(*likelihoods(4, 5))
    mean[1] += 100 * WIDTH
    flags = [Flag.SNR_LOW, Flag.OUT_OF_DISTRIBUTION, Flag.RV_MEASURED, Flag.NOT_READ]
    write_samples(tmp_path / "a.h5", ["x", "x", "x", "y"], mean, covariance, flags)
    table = combine([tmp_path / "a.h5"], nothing)
    assert table["n_epochs"].tolist() == [2, 0] and table["flag_bad"].tolist() == [False, True]
    assert table["flags"][0] & ~np.uint32(Flag.UPPER_LIMIT) == Flag.SNR_LOW | Flag.RV_MEASURED
    assert table["teff"].mask.tolist() == table["a_li_std"].mask.tolist() == [False, True]
    assert table["message"].tolist() == ["", "not_read"]


def test_spectra_that_disagree_are_flagged_with_the_reason(tmp_path, nothing):
    mean, covariance = posteriors(*likelihoods(2, 5, strength=30.0))
    mean[1, 0] += 9 * np.sqrt(covariance[1, 0, 0])
    write_samples(tmp_path / "a.h5", ["x", "x"], mean, covariance)
    table = combine([tmp_path / "a.h5"], nothing)
    assert table["flags"][0] & Flag.EPOCHS_DISAGREE and table["flag_warn"][0] and not table["flag_bad"][0]
    assert "2 spectra disagree: chi-square" in table["message"][0] and table["message"][0].endswith("in teff")


def test_the_product_is_cut_off_at_the_bounds(tmp_path, nothing):
    """Half of the samples are outside: the Gaussians are those of all, the result is a truncated one."""
    mean = np.repeat(CENTRE[None], 3, 0)
    mean[:, 0] = np.log10(7000.0)
    covariance = np.repeat(np.diag([0.01**2, 0.04**2, 0.25, 0.25])[None], 3, 0)
    write_samples(tmp_path / "a.h5", ["x", "x", "x"], mean, covariance)
    table = combine([tmp_path / "a.h5"], nothing)
    sigma = 0.01 / np.sqrt(3)
    expected = 10 ** (np.log10(7000) + sigma * stats.norm.ppf(0.25))
    assert table["teff_median"][0] == pytest.approx(expected, rel=0.05 * sigma * np.log(10))
    assert table["rejected_fraction"][0] == pytest.approx(0.5, abs=0.03)
    assert table["teff_p97_5"][0] <= 7000


def test_labels_or_bounds_that_differ_are_an_error(tmp_path, nothing):
    mean, covariance = posteriors(*likelihoods(1, 0))
    write_samples(tmp_path / "a.h5", ["x"], mean, covariance)
    other = LabelSet((*LABELS.labels[:3], make_label("a_li", (0.0, 3.6))))
    write_samples(tmp_path / "b.h5", ["x"], mean, covariance, labels=other)
    with pytest.raises(ModelError, match=r"differ in labels or bounds \(a_li\)"):
        combine([tmp_path / "a.h5", tmp_path / "b.h5"], nothing)


def test_wrong_options_are_said_in_a_sentence(tmp_path, nothing):
    write_samples(tmp_path / "a.h5", ["x"], *posteriors(*likelihoods(1, 0)))
    with pytest.raises(ConfigError, match="has no column 'night', only id: give the catalogue"):
        combine([tmp_path / "a.h5"], nothing, by="night")
    with pytest.raises(ConfigError, match="common 1: expected a share"):
        combine([tmp_path / "a.h5"], nothing, common=1.0)
    with pytest.raises(ConfigError, match="give files of one kind"):
        combine([tmp_path / "a.h5", tmp_path / "b.ecsv"], nothing)
    with pytest.raises(OutputError, match="no such file"):
        combine([tmp_path / "b.ecsv"], nothing)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        few = file["samples"][:, :5]
        del file["samples"]
        file["samples"] = few
    with pytest.raises(ConfigError, match="5 samples per spectrum: at least 10"):
        combine([tmp_path / "a.h5"], nothing)


def test_rows_without_a_key_stay_by_themselves():
    assert [rows.tolist() for rows in stars_of(np.array(["b", "", "a", "b", ""]))] == [[0, 3], [1], [2], [4]]
    assert list(stars_of(np.array([], "U1"))) == []


def test_spectra_without_lithium_stay_without(tmp_path, nothing):
    """Five posteriors that lean on the lower bound: one that is a limit, and no detection by being five."""
    rng, i = np.random.default_rng(0), LABELS.index("a_li")
    values = np.stack([exact_samples(CENTRE, np.diag(WIDTH**2 / 9), seed) for seed in range(5)])
    values[..., i] = -0.5 + 4.1 * rng.uniform(0, 0.3, (5, N))
    with samples.samples_file(tmp_path / "a.h5", N, samples.attributes_of(LABELS)) as append:
        result = Posterior(LABELS, values, np.zeros((5, N)))
        append(samples.rows_of(["x"] * 5, np.zeros(5), result, N))
    table = combine([tmp_path / "a.h5"], nothing)
    assert table["flags"][0] & Flag.UPPER_LIMIT and np.isfinite(table["a_li_upper"][0])
    assert 0.4 < table["a_li_upper"][0] <= 0.8
    assert table["mg_fe_std"][0] == pytest.approx(WIDTH[1] / 3 / np.sqrt(5), rel=0.06)


def test_spectra_that_do_not_determine_a_label_add_nothing_to_it(tmp_path, nothing):
    """Five posteriors as wide as the prior stay that, and four of them leave what the fifth one says."""
    rng, i = np.random.default_rng(0), LABELS.index("mg_fe")
    values = np.stack([exact_samples(CENTRE, np.diag(WIDTH**2 / 9), seed) for seed in range(10)])
    values[:9, :, i] = rng.uniform(-0.4, 0.8, (9, N))
    values[:5, :, LABELS.index("n_fe")] = rng.uniform(-0.4, 0.8, (5, N))
    with samples.samples_file(tmp_path / "a.h5", N, samples.attributes_of(LABELS)) as append:
        result = Posterior(LABELS, values, np.zeros((10, N)))
        append(samples.rows_of(5 * ["x"] + 5 * ["y"], np.zeros(10), result, N))
    table = combine([tmp_path / "a.h5"], nothing)
    assert table["undetermined"].tolist() == ["mg_fe n_fe", ""]
    assert table["mg_fe"].mask.tolist() == table["mg_fe_median"].mask.tolist() == [True, False]
    assert table["mg_fe_upper"].mask.all() and not (table["flags"] & Flag.UPPER_LIMIT).any()
    assert table["n_fe_std"][0] == pytest.approx(1.2 / np.sqrt(12), rel=0.1)
    assert table["mg_fe_std"] == pytest.approx([1.2 / np.sqrt(12), WIDTH[1] / 3], rel=0.1)
    assert table["mg_fe_median"][1] == pytest.approx(np.median(values[9, :, i]), abs=0.1 * WIDTH[1] / 3)
    assert table["a_li_std"][0] < 0.6 * Posterior(LABELS, values, np.zeros((10, N))).std[0, 3]


# Catalogues -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "toy.safetensors"
    fake_plugin.Toy.train({}, path.parent, lambda state: None).save(path)
    fake_plugin.MODELS["toy-model"] = path
    return Plugins(entry=[], extra={"fake": fake_plugin})


TRUTH = np.array([[5772.0, 4.0, 0.0, 2.0], [4500.0, 2.0, -1.2, 2.0]])


@pytest.fixture(scope="module")
def nights(toys, tmp_path_factory):
    """Catalogues of two stars on three nights, the last night's second star unreadable."""
    folder, tables = tmp_path_factory.mktemp("nights"), []
    for night, snr in enumerate((50.0, 80.0, 50.0)):
        batch = fake_plugin.simulate(TRUTH, snr=snr, seed=night, rv=10.0 * night)
        files = [fake_plugin.write_text(folder / f"{i}-{night}.txt", batch[i]) for i in range(2)]
        if night == 2:
            files[1].write_text("nothing")
        job = prepare(toys, instrument="toy", samples=2000, seed=night)
        table = job.catalogue(file_sources(files, toys))
        table["star"] = ["one", "two"]
        tables.append(table)
        table.write(folder / f"{night}.ecsv", format="ascii.ecsv")
    return [folder / f"{night}.ecsv" for night in range(3)], tables


@pytest.mark.slow
def test_catalogues_of_three_nights(toys, nights):
    files, tables = nights
    table = combine(files, toys, by="star")
    assert table["id"].tolist() == ["one", "two"] and table["n_epochs"].tolist() == [3, 2]
    assert table["snr_green"][0] == pytest.approx(
        np.sqrt(sum(t["snr_green"][0] ** 2 for t in tables)), rel=1e-5
    )
    assert table["rv"][0] == pytest.approx(np.mean([t["rv"][0] for t in tables]), abs=1e-3)
    assert table["path"][0].count(";") == 2 and table["model"][0] == tables[0]["model"][0]
    assert not (table["flags"] & (Flag.NOT_READ | Flag.EPOCHS_DISAGREE)).any()
    labels = fake_plugin.LABELS
    for k, name in enumerate(labels.names):
        y = [
            [labels[name].to_network(np.float64(t[f"{name}_{q}"][0])) for q in ("p16", "median", "p84")]
            for t in tables
        ]
        y = np.array(y)
        weight = (0.5 * (y[:, 2] - y[:, 0])) ** -2.0
        prior = prior_precision(labels)[k]
        precision = weight.sum() - 2 * prior
        assert labels[name].to_network(np.float64(table[name][0])) == pytest.approx(
            (weight * y[:, 1]).sum() / precision, abs=0.01 / np.sqrt(precision)
        )
        assert abs(table[f"{name}_median"][0] - TRUTH[0, k]) < 4 * table[f"{name}_std"][0]
        assert table[f"{name}_std"][0] < min(t[f"{name}_std"][0] for t in tables)
    assert table.meta["combined"] == "star" and table.meta["specinn"]


@pytest.mark.slow
def test_single_rows_of_a_catalogue_pass_unchanged(toys, nights, tmp_path):
    files, tables = nights
    table = combine([files[2]], toys)  # its ids are star-0 and the name of the file
    assert table["n_epochs"].tolist() == [1, 0]
    for name in tables[2].colnames:
        if name in table.colnames and name != "row":
            a, b = (np.ma.asarray(t[name]) for t in (table, tables[2]))
            assert np.array_equal(np.ma.getmaskarray(a), np.ma.getmaskarray(b)), name
            assert np.ma.allequal(a, b), name
    assert table["message"][1] and table["flag_bad"].tolist() == [False, True]
    for suffix in (".fits", ".parquet", ".h5"):
        catalogue.write(table, tmp_path / f"out{suffix}")
        again = combine([tmp_path / f"out{suffix}"], toys)
        assert again["teff"][0] == table["teff"][0] and again["n_epochs"].tolist() == [1, 0]


@pytest.mark.slow
def test_what_rows_do_not_determine_is_read_from_their_column(toys, nights, tmp_path):
    """Their medians are masked: [Fe/H] of the first star on two nights, of the second one on one."""
    tables = [table.copy() for table in nights[1]]
    paths = [tmp_path / f"{number}.ecsv" for number in range(3)]
    for table, path, rows in zip(tables, paths, ((0, 1), (0,), ()), strict=True):
        for row in rows:
            table["fe_h_p16"][row], table["fe_h_p84"][row] = -2.0, 0.0
            table["fe_h_p2_5"][row], table["fe_h_p97_5"][row] = -2.4, 0.4
        for name in ("fe_h", "fe_h_median"):
            table[name] = np.ma.array(table[name], mask=[row in rows for row in range(2)])
        table["undetermined"] = ["fe_h li_fe" if row in rows else "" for row in range(2)]
        table.write(path, format="ascii.ecsv")
    table = combine(paths, toys, by="star")
    assert table["undetermined"].tolist() == ["", ""]  # one night tells, each
    for row, night in ((0, 2), (1, 1)):
        median, std = (float(tables[night][f"fe_h_{end}"][row]) for end in ("median", "std"))
        assert table["fe_h_median"][row] == pytest.approx(median, abs=std / 5)
        assert table["fe_h_std"][row] == pytest.approx(std, rel=0.15)
    alone = combine(paths[:1], toys, by="star")  # single rows keep their column
    assert alone["undetermined"].tolist() == ["fe_h li_fe"] * 2 and alone["fe_h"].mask.all()
    both = combine(paths[:2], toys, by="star")
    assert both["undetermined"][0] == "fe_h li_fe" and both["fe_h_median"].mask.tolist() == [True, False]


@pytest.mark.slow
def test_models_are_looked_up(toys, nights, nothing, tmp_path):
    files, tables = nights
    with pytest.raises(
        ModelError, match=r"of the model toy-model \w{12}, which is not installed: give its file"
    ):
        combine(files, nothing)
    by_file = combine(files, nothing, by="star", model_files=[fake_plugin.MODELS["toy-model"]])
    assert by_file["teff"][0] == combine(files, toys, by="star")["teff"][0]
    with pytest.raises(ConfigError, match="has no column 'night'"):
        combine(files, toys, by="night")
    broken = tables[0].copy()
    broken["teff_p16"] = np.ma.masked_all(2)
    broken.write(tmp_path / "a.ecsv", format="ascii.ecsv")
    with pytest.raises(ConfigError, match="star-0 has no bad flag, but lacks percentiles"):
        combine([tmp_path / "a.ecsv"], toys)
    Table({"id": ["a"]}).write(tmp_path / "b.ecsv", format="ascii.ecsv")
    with pytest.raises(ConfigError, match="has no column 'flags': was it written by specinn run"):
        combine([tmp_path / "b.ecsv"], toys)


def run(capsys, *args, plugins):
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in args], plugins)
    out = capsys.readouterr()
    return stop.value.code, out.out, out.err


@pytest.mark.slow
def test_the_command(capsys, toys, nights, tmp_path):
    files, _ = nights
    output = tmp_path / "stars.fits"
    code, out, err = run(capsys, "combine", *files, "--by", "star", "-o", output, plugins=toys)
    assert (code, err) == (0, "") and "2 stars: 2 of several spectra, of which 0 disagree; 0 without" in out
    table = catalogue.read(output)
    assert table["n_epochs"].tolist() == [3, 2]
    code, _, err = run(capsys, "combine", *files, "-o", output, plugins=toys)
    assert code == 1 and "exists" in err


@pytest.mark.slow
def test_D3_a_file_of_samples_given_twice_is_refused(nothing, tmp_path):
    mean, covariance = posteriors(*likelihoods(4, 2))
    write_samples(tmp_path / "a.h5", list("aabb"), mean, covariance)
    (tmp_path / "b.h5").symlink_to(tmp_path / "a.h5")
    for other in ("a.h5", "b.h5"):
        with pytest.raises(ConfigError, match=f"{other} is given twice"):
            combine([tmp_path / "a.h5", tmp_path / other], nothing)


@pytest.mark.slow
def test_D5_combine_shows_no_escapes(capsys, nothing, tmp_path):
    mean, covariance = posteriors(*likelihoods(4, 2))
    write_samples(tmp_path / "a\x1b[31m.h5", ["\x1b[2Ja", "\x1b[2Ja", "b", "b"], mean, covariance)
    for options in (("-o", tmp_path / "c\x1b[1m.ecsv"), ("-o", tmp_path / "d\x9b1m.ecsv", "--json")):
        code, out, err = run(capsys, "combine", tmp_path / "a\x1b[31m.h5", *options, plugins=nothing)
        assert code == 0, err
        assert not set("\x1b\x9b") & set(out + err) and ("\\x1b[1m" in out or "\\u009b1m" in out)
    args = ("combine", tmp_path / "none\x1b[31m.h5", "-o", tmp_path / "e.ecsv")
    code, _, err = run(capsys, *args, plugins=nothing)
    assert code == 1 and "\x1b" not in err and "none\\x1b[31m.h5" in err


@pytest.mark.slow
def test_the_command_says_when_posteriors_are_wider_than_the_scatter(capsys, tmp_path, nothing):
    ids = np.repeat(np.arange(12), 3).astype(str)
    mean, covariance = posteriors(*likelihoods(36, 2))
    mean = CENTRE + 0.3 * (mean - CENTRE)
    write_samples(tmp_path / "a.h5", ids, mean, covariance)
    _, out, _ = run(capsys, "combine", tmp_path / "a.h5", "-o", tmp_path / "c.ecsv", plugins=nothing)
    share = float(out.split("--common ")[1].split()[0])
    assert 0.5 < share < 0.99
    args = ("combine", tmp_path / "a.h5", "-o", tmp_path / "d.ecsv", "--common", share)
    _, out, _ = run(capsys, *args, plugins=nothing)
    assert "--common" not in out
    narrow, wide = (catalogue.read(tmp_path / name) for name in ("c.ecsv", "d.ecsv"))
    assert (wide["teff_std"] > narrow["teff_std"]).all()
    assert np.sum(wide["chi2"]) / np.sum(wide["dof"]) == pytest.approx(1.0, abs=0.05)
