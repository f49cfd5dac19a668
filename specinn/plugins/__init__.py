"""Plugins: the hooks, the interfaces of what they offer, the loading, and the template of a new one."""

from __future__ import annotations

from specinn.plugins.manager import Plugins, load_factory

__all__ = ["Plugins", "load_factory"]
