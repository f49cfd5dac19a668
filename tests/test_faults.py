"""Examples of faults seen with real files that no other test has by its number."""

from __future__ import annotations


def test_D11_a_wrong_resolving_power_names_what_to_say():
    from specinn_cinn.ood import ALTERATIONS

    assert "--instrument" in ALTERATIONS["blur"] and "--resolving-power" in ALTERATIONS["blur"]


def test_D12_counts_have_their_plural():
    from specinn.texts import plural

    assert (
        plural(1, "spectrum", "spectra") == "1 spectrum" and plural(2, "spectrum", "spectra") == "2 spectra"
    )
