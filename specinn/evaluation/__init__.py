"""How good a model is: on spectra of a grid, on reference stars, and on spectra unlike its training."""
