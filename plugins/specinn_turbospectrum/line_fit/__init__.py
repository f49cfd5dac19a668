"""``specinn synthesis fit-lines``: log gf and damping of all lines at once, from spectra of reference stars.

The modules, in the order of the fit: :mod:`.recipe` says which stars and how; :mod:`.spectra` brings observed
and synthetic spectra to one grid; :mod:`.syntheses` runs the code, in processes, and keeps their results;
:mod:`.solve` is the least squares; :mod:`.fit` repeats until the residuals converge; :mod:`.result` writes
the table and :mod:`.page` the figures.
"""
