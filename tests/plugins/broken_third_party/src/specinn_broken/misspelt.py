"""Has a hook that does not exist."""

from specinn.plugins.hookspecs import hookimpl


@hookimpl
def specinn_preprocesors():
    return []
