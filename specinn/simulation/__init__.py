"""From model spectra to observed ones: rotation, resolution, noise, and what else befalls a spectrum."""
