"""From spectra to results: sources, velocities, preprocessing, the model, corrections and flags."""
