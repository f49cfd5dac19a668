"""Pages for the browser: of an evaluation, of a catalogue, of resimulated spectra."""
