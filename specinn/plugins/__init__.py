"""Plugins: the hooks, the interfaces of what they offer, how they are loaded, and the template of a new one."""

from __future__ import annotations

from specinn.plugins.manager import Plugins, load_factory

__all__ = ["Plugins", "load_factory"]
