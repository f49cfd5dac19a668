"""The posterior of the labels of stars: samples, their summary, and how people see them."""

from __future__ import annotations

from specinn.posterior.samples import Posterior
from specinn.posterior.summary import QUANTILES, Summary

__all__ = ["QUANTILES", "Posterior", "Summary"]
