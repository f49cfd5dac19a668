"""``specinn synthesis fit-lines``: log gf and damping of all lines at once, from spectra of reference stars.

The order in which things happen: :mod:`.recipe` says which stars and how; :mod:`.spectra` brings observed and
synthetic spectra to one grid; :mod:`.syntheses` runs the code, in processes, and remembers what it gave;
:mod:`.solve` is the least squares; :mod:`.fit` repeats until the residuals stay; :mod:`.result` writes the
table and :mod:`.page` the figures.
"""
