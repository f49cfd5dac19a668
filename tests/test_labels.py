"""Labels: transforms, bounds, names."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specinn.errors import ConfigError
from specinn.labels import (
    SOLAR_LOG_EPS,
    Label,
    LabelSet,
    derived,
    li_fe,
    make_label,
    with_derived_labels,
)

LABELS = LabelSet(
    (
        make_label("teff", (3700, 7200)),
        make_label("logg", (0, 5)),
        make_label("fe_h", (-3, 0.5)),
        make_label("vbroad", (0.5, 100)),
        make_label("mg_fe", (-0.4, 0.8)),
    )
)


@st.composite
def inside_values(draw):
    return np.array([draw(st.floats(*label.bounds)) for label in LABELS])


@pytest.mark.slow
@given(inside_values())
def test_transform_inverts_for_numpy_and_torch(values):
    again = LABELS.from_network(LABELS.to_network(values))
    assert again == pytest.approx(values, rel=1e-12, abs=1e-12)
    tensor = torch.tensor(values)
    assert LABELS.to_network(tensor).numpy() == pytest.approx(LABELS.to_network(values), rel=1e-12)
    assert LABELS.from_network(LABELS.to_network(tensor)).numpy() == pytest.approx(
        values, rel=1e-12, abs=1e-12
    )


@given(inside_values())
def test_values_within_the_bounds_are_inside(values):
    assert bool(LABELS.inside(values))
    assert bool(LABELS.inside(torch.tensor(values)))


@pytest.mark.parametrize("column", range(len(LABELS)))
@pytest.mark.parametrize("beyond", [-1, 1])
def test_one_label_outside_is_enough(column, beyond):
    values = LABELS.bounds.mean(axis=1)
    low, high = LABELS.bounds[column]
    values[column] = low - 1e-3 if beyond < 0 else high + 1e-3
    assert not LABELS.inside(values)
    values[column] = np.nan
    assert not LABELS.inside(values)


def test_transforms_are_those_of_the_field_and_leave_their_input():
    values = np.array([[5000.0, 4.0, 0.0, 10.0, 0.1]])
    network = LABELS.to_network(values)
    assert network[0] == pytest.approx([np.log10(5000.0), 4.0, 0.0, 1.0, 0.1])
    assert values[0, 0] == 5000.0
    tensor = torch.tensor(network)
    LABELS.from_network(tensor)
    assert tensor[0, 3] == 1.0


@pytest.mark.slow
def test_transforms_carry_gradients():
    values = torch.tensor([[5000.0, 4.0, 0.0, 10.0, 0.1]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(LABELS.to_network, (values,))
    network = LABELS.to_network(values).detach().requires_grad_()
    assert torch.autograd.gradcheck(LABELS.from_network, (network,))


def test_names_positions_and_membership():
    assert LABELS.names == ("teff", "logg", "fe_h", "vbroad", "mg_fe")
    assert LABELS.index("fe_h") == 2
    assert LABELS["logg"].unit == "dex(cm s-2)"
    assert LABELS[-1].name == "mg_fe"
    assert "teff" in LABELS and "ca_fe" not in LABELS
    assert [label.name for label in LABELS] == list(LABELS.names)
    assert LABELS["mg_fe"].description == "Abundance ratio [Mg/Fe]"


def test_dictionaries_carry_everything():
    spread = LABELS.with_spreads([0.05, 1.0, 0.9, 0.6, 0.2])
    again = LabelSet.from_dicts(spread.to_dicts())
    assert again == LABELS  # the spread is not what a label is
    assert [label.spread for label in again] == [0.05, 1.0, 0.9, 0.6, 0.2]
    older = [{key: value for key, value in row.items() if key != "spread"} for row in LABELS.to_dicts()]
    assert LabelSet.from_dicts(older) == LABELS


@pytest.mark.parametrize(("name", "bounds"), [("mg_fe", (-0.4, 0.8)), ("vbroad", (0.5, 100)),
                                              ("n_fe", (-0.4, 0.8))])  # fmt: skip
def test_the_prior_is_flat_unless_the_training_says_otherwise(name, bounds):
    labels, position = LabelSet([make_label(name, bounds)]), (np.arange(20000) + 0.5) / 20000
    low, high = bounds
    flat = low * (high / low) ** position if name == "vbroad" else low + (high - low) * position
    assert labels[0].prior_std == pytest.approx(labels.to_network(flat[:, None]).std(), rel=1e-3)
    assert labels.with_spreads([0.3])[0].prior_std == 0.3


def test_alpha_over_metals_is_derived_where_all_its_elements_are_labels():
    bounds = {"ca_fe": (-0.4, 0.8), "ti_fe": (-0.5, 0.9), "mg_fe": (-0.4, 0.9), "si_fe": (-0.3, 0.6)}
    alpha = LabelSet([make_label(*item) for item in bounds.items()])
    assert with_derived_labels(alpha).names == (*alpha.names, "alpha_m")
    assert with_derived_labels(alpha)["alpha_m"].bounds == pytest.approx((-0.4, 0.8))
    assert with_derived_labels(LabelSet(alpha[:3])) == LabelSet(alpha[:3])
    values = {"ca_fe": 0.1, "ti_fe": 0.2, "mg_fe": 0.3, "si_fe": 0.6}
    assert derived(alpha, values.__getitem__) == pytest.approx([0.3])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_label("tefff", (1, 2)), "unknown label 'tefff'.*mg_fe"),
        (lambda: make_label("1_fe", (1, 2)), "unknown label"),
        (lambda: make_label("teff", (2, 1)), "teff: bounds .* not an increasing pair"),
        (lambda: make_label("logg", (0, float("nan"))), "logg: bounds"),
        (lambda: make_label("vbroad", (0, 100)), "vbroad is learnt as log10.*must be > 0"),
        (lambda: LABELS.index("x"), "no label 'x'; there are teff, logg"),
        (lambda: LABELS["x"], "no label 'x'"),
        (lambda: LabelSet((Label("a", "", (0, 1)), Label("a", "", (0, 2)))), "named twice: a, a"),
    ],
)
def test_errors_say_what_was_found(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_solar_scale_is_that_of_magg_2022():
    assert SOLAR_LOG_EPS["Fe"] == 7.50 and SOLAR_LOG_EPS["O"] == 8.77
    assert li_fe(np.array([1.05, 2.2]), np.array([0.0, -0.5])) == pytest.approx([0.0, 1.65])


@given(st.floats(1e-3, 0.999), st.sampled_from(["vmic", "a_li", "n_fe", "c_fe", "mn_fe"]))
def test_probit_inverts_and_never_leaves_the_bounds(place, name):
    label = make_label(name, (-0.4, 3.6))
    labels = LabelSet((label,))
    value = np.array([-0.4 + 4.0 * place])
    assert labels.from_network(labels.to_network(value)) == pytest.approx(value, abs=1e-9)
    tensor = torch.tensor(value)
    assert labels.to_network(tensor).numpy() == pytest.approx(labels.to_network(value), abs=1e-9)
    assert labels.inside(labels.from_network(np.array([[-40.0], [40.0]]))).all()


def test_probit_turns_the_uniform_prior_into_a_normal_one():
    labels = LabelSet((make_label("a_li", (-0.5, 3.6)),))
    network = labels.to_network(np.random.default_rng(0).uniform(-0.5, 3.6, (20_000, 1)))
    assert network.mean() == pytest.approx(0.0, abs=0.03)
    assert network.std() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("name", ["vmic", "vbroad", "mg_fe"])
def test_gradients_pass_every_transform(name):
    labels = LabelSet((make_label(name, (0.4, 2.0)),))
    values = torch.tensor([[1.1]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(labels.to_network, (values,))
