"""A neural spline flow (Durkan et al. 2019, arXiv:1906.04032) on principal components of spectra."""

import attrs
import numpy as np
import torch
import zuko

from specinn.plugins import (
    Estimator,
    Instrument,
    LabelSet,
    ModelError,
    Posterior,
    Templates,
    open_model,
    save_model,
)

STEPS = (
    ("mask", {}),
    ("rest-frame", {}),
    ("to-arms", {}),
    ("trim-edges", {"angstrom": 1.0}),
    ("continuum", {}),
)


class Network(torch.nn.Module):
    """From an encoded spectrum ``(n, n_inputs)`` to the distribution of standardised labels."""

    def __init__(self, n_inputs, n_labels, width=64):
        super().__init__()
        self.features = torch.nn.Sequential(
            torch.nn.Linear(n_inputs, width), torch.nn.SiLU(), torch.nn.Linear(width, width), torch.nn.SiLU()
        )
        self.flow = zuko.flows.NSF(n_labels, width, transforms=3, hidden_features=(width, width))

    def forward(self, inputs):
        return self.flow(self.features(inputs))


@attrs.define(eq=False)
class SplineFlow(Estimator):
    """``tensors``: ``mean (n_pix,)`` and ``basis (n_components, n_pix)`` of the spectra, ``scale`` of the
    components, ``center`` and ``spread`` ``(n_labels,)`` of the labels in network units."""

    labels: LabelSet
    instrument: Instrument
    preprocessing: tuple
    templates: Templates
    header: dict
    tensors: dict
    network: Network
    device: str = "cpu"

    @classmethod
    def untrained(cls, labels, instrument, preprocessing, templates, header, tensors, device="cpu"):
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        network = Network(len(tensors["basis"]) + 1, len(labels)).to(device)
        return cls(labels, instrument, preprocessing, templates, header, tensors, network, device)

    def features(self, batch):
        """Scaled components, and the logarithm of the S/N a pixel ``(n_spec, n_components + 1)``."""
        if batch.flux.shape[1] != len(self.tensors["mean"]):
            raise ModelError(
                f"the batch has {batch.flux.shape[1]} pixels: pass it through the preprocessing first"
            )
        mask = torch.as_tensor(batch.mask)
        flux = torch.as_tensor(np.where(batch.mask, 0.0, batch.flux), dtype=torch.float32)
        sigma = torch.as_tensor(np.where(batch.mask, 1.0, batch.sigma), dtype=torch.float32)
        mask, flux, sigma = (each.to(self.device) for each in (mask, flux, sigma))
        off = torch.where(mask, 0.0, flux - self.tensors["mean"])
        weight = (~mask).sum(1, keepdim=True).clamp(min=1) / mask.shape[1]
        components = off @ self.tensors["basis"].T / self.tensors["scale"] / weight
        noise = torch.where(mask, 0.0, sigma).sum(1, keepdim=True) / mask.shape[1] / weight
        return torch.cat([components, -noise.clamp(min=1e-4).log10()], dim=1)

    def standardised(self, labels):
        """Physical values, an array, as tensor of standardised network labels."""
        y = torch.as_tensor(
            self.labels.to_network(np.asarray(labels)), dtype=torch.float32, device=self.device
        )
        return (y - self.tensors["center"]) / self.tensors["spread"]

    @torch.no_grad()
    def sample(self, batch, n_samples, seed):
        keys = batch.meta["key"] if "key" in batch.meta.colnames else range(len(batch))
        z = torch.stack([self._draws(seed, int(key), n_samples) for key in keys], dim=1)
        flow = self.network(self.features(batch))
        y = flow.transform.inv(z)  # (n_samples, n_spec, n_labels)
        density = self._density(flow, y).T.cpu().numpy()
        y = (y * self.tensors["spread"] + self.tensors["center"]).transpose(0, 1).double().cpu().numpy()
        return Posterior(self.labels, self.labels.from_network(y).astype(np.float32), density)

    def _draws(self, seed, key, n):
        generator = torch.Generator().manual_seed((seed * 1_000_003 + key) % 2**63)
        return torch.randn(n, len(self.labels), generator=generator).to(self.device)

    def _density(self, flow, y):
        """In network label space, of standardised labels."""
        return flow.log_prob(y) - self.tensors["spread"].log().sum()

    @torch.no_grad()
    def log_prob(self, batch, labels):
        y = self.standardised(labels).transpose(0, 1)
        return self._density(self.network(self.features(batch)), y).T.cpu().numpy()

    @torch.no_grad()
    def to_latent(self, batch, labels):
        y = self.standardised(labels).transpose(0, 1)
        return self.network(self.features(batch)).transform(y).transpose(0, 1).cpu().numpy()

    def save(self, path):
        network = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        save_model(path, self, "spline-flow", self.tensors | network)

    @classmethod
    def load(cls, path, device="cpu"):
        with open_model(path) as m:
            names = [name for name in m.tensors if name.startswith("network.")]
            weights = {name.removeprefix("network."): m.tensors.pop(name) for name in names}
            model = cls.untrained(
                m.labels, m.instrument, m.preprocessing, m.templates, m.header, m.tensors, device
            )
            model.network.load_state_dict(weights)
        model.network.requires_grad_(False).eval()
        return model
