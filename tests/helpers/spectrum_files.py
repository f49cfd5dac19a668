"""Writers of spectra in the layouts of observatories and programs, for the tests of readers and pipeline.

Each writes one real file and returns its path. Wavelengths come in Angstrom (air, barycentric), ``flux`` and
``sigma`` as ``(n_pix,)``; ``sigma`` may be None where the layout allows it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits

C_KMS = 299792.458


def write_text(
    path: Path,
    wavelength,
    flux,
    sigma=None,
    *,
    header="",
    delimiter=" ",
    unit=1.0,
    fmt=("%.6f", "%.8g", "%.8g"),
) -> Path:
    """Two or three columns; ``unit`` is what the wavelengths are divided by (10 for nm)."""
    columns = [wavelength / unit, flux] + ([] if sigma is None else [sigma])
    np.savetxt(
        path,
        np.column_stack(columns),
        fmt=list(fmt[: len(columns)]),
        delimiter=delimiter,
        header=header,
        comments="",
    )
    return path


def write_csv(path: Path, wavelength, flux, sigma=None) -> Path:
    names = "wavelength,flux" + ("" if sigma is None else ",error")
    return write_text(path, wavelength, flux, sigma, header=names, delimiter=",")


def write_benchmark_text(path: Path, wavelength, flux, sigma) -> Path:
    """Gaia FGK benchmark library: ``waveobs flux err`` in nm, tabs."""
    return write_text(path, wavelength, flux, sigma, header="waveobs\tflux\terr", delimiter="\t", unit=10.0)


def write_benchmark_fits(path: Path, wavelength, flux, sigma=None, *, extension="ERRS") -> Path:
    """The image that iSpec writes: AWAV in NM, linear; errors in an extension. Needs even sampling."""
    step = (wavelength[-1] - wavelength[0]) / (len(wavelength) - 1) / 10.0
    axis = {"CUNIT1": "NM", "CTYPE1": "AWAV", "CDELT1": step, "CRVAL1": wavelength[0] / 10.0, "CRPIX1": 1}
    hdus = [fits.PrimaryHDU(flux)]
    if sigma is not None:
        hdus.append(fits.ImageHDU(sigma, name=extension))
    for hdu in hdus:
        hdu.header.update(axis)
    hdus[0].header["ORIGIN"] = "iSpec"
    fits.HDUList(hdus).writeto(path)
    return path


def write_linear_fits(
    path: Path,
    wavelength,
    flux,
    sigma=None,
    *,
    ctype=None,
    cunit=None,
    unit=1.0,
    extension="SIGMA",
    cd=False,
    **keys,
) -> Path:
    """Image with a linear axis, ``flux (n_pix,)`` or ``(n_spec, n_pix)``; more header ``keys`` as given."""
    step = (wavelength[-1] - wavelength[0]) / (len(wavelength) - 1) / unit
    header = fits.Header({"CRVAL1": wavelength[0] / unit, "CD1_1" if cd else "CDELT1": step, "CRPIX1": 1.0})
    for name, value in {"CTYPE1": ctype, "CUNIT1": cunit, **keys}.items():
        if value is not None:
            header[name] = value
    hdus = [fits.PrimaryHDU(flux, header)]
    if sigma is not None:
        hdus.append(fits.ImageHDU(sigma, name=extension))
    fits.HDUList(hdus).writeto(path)
    return path


def write_log_fits(path: Path, wavelength, flux, *, kind="DC-FLAG") -> Path:
    """Image even in log wavelength: IRAF's DC-FLAG, or AWAV-LOG by the FITS standard. Needs such sampling."""
    n = len(wavelength)
    ratio = np.log(wavelength[-1] / wavelength[0]) / (n - 1)
    if kind == "DC-FLAG":
        keys = {
            "CTYPE1": "LINEAR",
            "DC-FLAG": 1,
            "CRVAL1": np.log10(wavelength[0]),
            "CDELT1": ratio / np.log(10.0),
        }
    else:
        keys = {
            "CTYPE1": kind,
            "CUNIT1": "Angstrom",
            "CRVAL1": wavelength[0],
            "CDELT1": wavelength[0] * ratio,
        }
    fits.PrimaryHDU(flux, fits.Header({**keys, "CRPIX1": 1.0})).writeto(path)
    return path


def write_eso(
    path: Path,
    wavelength,
    flux,
    sigma,
    *,
    style="harps",
    medium="air",
    unit="Angstrom",
    barycor=None,
    spec_res=None,
    padding=0,
    primary=None,
) -> Path:
    """ESO Science Data Product: one row of vectors.

    Styles: ``uves`` has FLUX_REDUCED and FLUX (a different one), and, with ``barycor`` km/s, topocentric
    wavelengths; ``giraffe`` nm and extension phase3spectrum; ``harps`` plain. ``padding`` pixels of flux
    0 and error 1 are added at both ends.
    """
    head = fits.Header({"ORIGIN": "ESO", "INSTRUME": style.upper(), "PRODCATG": "SCIENCE.SPECTRUM"})
    head["SPECSYS"] = "BARYCENT"
    if barycor is not None:
        head["SPECSYS"] = "TOPOCENT"
        head["HIERARCH ESO QC VRAD BARYCOR"] = barycor
        beta = barycor / C_KMS
        wavelength = wavelength * np.sqrt((1 - beta) / (1 + beta))
    if spec_res is not None:
        head["SPEC_RES"] = spec_res
    head.update(primary or {})
    if padding:
        step = wavelength[1] - wavelength[0]
        ends = step * np.arange(1, padding + 1)
        wavelength = np.concatenate([wavelength[0] - ends[::-1], wavelength, wavelength[-1] + ends])
        flux = np.pad(flux, padding)
        sigma = np.pad(sigma, padding, constant_values=1.0)
    n = len(wavelength)
    wavelength = wavelength / {"Angstrom": 1.0, "angstrom": 1.0, "nm": 10.0}[unit]
    names = {"uves": ("FLUX_REDUCED", "ERR_REDUCED")}.get(style, ("FLUX", "ERR"))
    columns = [("WAVE", wavelength, unit), (names[0], flux, "adu"), (names[1], sigma, "adu")]
    words = [
        "Spectrum.Data.SpectralAxis.Value",
        "Spectrum.Data.FluxAxis.Value",
        "Spectrum.Data.FluxAxis.Accuracy.StatError",
    ]
    ucds = [
        "em.wl;obs.atmos" if medium == "air" else "em.wl",
        "phot.flux.density;em.wl;meta.main",
        "stat.error;meta.main",
    ]
    if style == "uves":
        columns += [("FLUX", 7.0 * flux, "erg"), ("ERR", 7.0 * sigma, "erg")]
        words += ["eso:Data.FluxAxis.Value", "eso:Data.FluxAxis.Accuracy.StatError"]
        ucds += ["phot.flux.density;em.wl", "stat.error;phot.flux.density"]
    table = fits.BinTableHDU.from_columns(
        [fits.Column(name, f"{n}D", unit=u, array=values[None, :]) for name, values, u in columns],
        name="phase3spectrum" if style == "giraffe" else "SPECTRUM",
    )
    for i, (word, ucd) in enumerate(zip(words, ucds, strict=True), start=1):
        table.header[f"TUTYP{i}"] = word
        table.header[f"TUCD{i}"] = ucd
    table.header["VOCLASS"] = "SPECTRUM V1.0"
    table.header["NELEM"] = n
    fits.HDUList([fits.PrimaryHDU(header=head), table]).writeto(path)
    return path


def write_qmost(path: Path, wavelength, flux, sigma, quality=None, *, fib_root=3, spec_res=20000.0) -> Path:
    """4MOST level-1 single spectrum, columns and keywords as in the header of the sample file."""
    n = len(wavelength)
    head = fits.Header(
        {
            "PRODCATG": "SCIENCE.SPECTRUM", "ORIGIN": "ESO-PARANAL", "INSTRUME": "QMOST",
            "OBJECT": "Field 02A", "SPECSYS": "HELIOCEN", "SNR": 120.5, "SPEC_RES": spec_res, "QMNODE": "QL1",
        }
    )  # fmt: skip
    quality = np.zeros(n, int) if quality is None else quality
    unit, ucd = "erg/(s*cm^2*Angstrom)", "phot.flux.density;em.wl"
    axis = "Spectrum.Data.FluxAxis"
    columns = [
        ("WAVE", "E", wavelength, "Angstrom", "Spectrum.Data.SpectralAxis.Value", "em.wl;obs.atmos"),
        ("FLUX", "E", flux, unit, f"{axis}.Value", f"{ucd};meta.main;stat.uncalib"),
        (
            "ERR_FLUX",
            "E",
            sigma,
            unit,
            f"{axis}.Accuracy.StatError",
            "stat.error;phot.flux.density;em.ql;meta.main",
        ),
        ("QUAL", "J", quality, None, f"{axis}.Quality", "meta.code.qual"),
        ("FLUX_NOSS", "E", 3.0 * flux, unit, f"{axis}.Value", f"{ucd};stat.uncalib"),
        (
            "ERR_FLUX_NOSS",
            "E",
            3.0 * sigma,
            unit,
            f"{axis}.Accuracy.StatError",
            "stat.error;phot.flux.density;em.ql",
        ),
    ]
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column(name, f"{n}{code}", unit=u, array=values[None, :])
            for name, code, values, u, *_ in columns
        ],
        name="PHASE3SPECTRUM",
    )
    for i, (*_, word, ucd) in enumerate(columns, start=1):
        table.header[f"TUTYP{i}"], table.header[f"TUCD{i}"] = word, ucd
    table.header["TNULL4"] = -1
    fibre = {
        "NELEM": n,
        "TRG_UID": 11031146069,
        "TRG_NME": "QMST20562750-4111450",
        "FIB_USE": 1,
        "FIB_ROOT": fib_root,
    }
    table.header.update(fibre)
    fits.HDUList([fits.PrimaryHDU(header=head), table]).writeto(path)
    return path


def write_qmost_multi(
    path: Path,
    wavelength,
    flux,
    sigma,
    quality=None,
    *,
    keys="1CRVL1",
    unit="Angstrom",
    obj_uid=None,
    specuid=None,
    obj_nme=None,
    fib_root=3,
    spec_res=None,
    shuffle_fibres=False,
) -> Path:
    """4MOST level-1 file of many spectra: ``flux`` and ``sigma`` ``(n_spec, n_pix)``, one row a fibre.

    ``keys`` chooses the names of the WCS keywords: ``1CRVL1``, ``CRVAL1`` (with CD1_1), or None for none.
    """
    n_spec, n = flux.shape
    with np.errstate(divide="ignore"):
        ivar = np.where(np.isfinite(sigma), 1.0 / sigma**2, 0.0)
    quality = np.zeros(flux.shape, "i4") if quality is None else quality
    specuid = np.arange(1000, 1000 + n_spec) if specuid is None else specuid
    spectra = fits.BinTableHDU.from_columns(
        [
            fits.Column("FLUX", f"{n}E", dim=f"({n})", array=flux),
            fits.Column("FLUX_IVAR", f"{n}E", dim=f"({n})", array=ivar),
            fits.Column("QUAL", f"{n}J", dim=f"({n})", array=quality),
            fits.Column("SPECUID", "K", array=specuid),
        ],
        name="SPECTAB",
    )
    scale = {"Angstrom": 1.0, "nm": 10.0}[unit]
    start, step = wavelength[0] / scale, (wavelength[-1] - wavelength[0]) / (n - 1) / scale
    if keys == "1CRVL1":
        wcs = {"1CTYP1": "AWAV", "1CUNI1": unit, "1CRVL1": start, "1CDLT1": step, "1CRPX1": 1.0}
    else:
        wcs = (
            {"CTYPE1": "AWAV", "CUNIT1": unit, "CRVAL1": start, "CD1_1": step, "CRPIX1": 1.0} if keys else {}
        )
    spectra.header.update(wcs)
    order = np.arange(n_spec)[::-1] if shuffle_fibres else np.arange(n_spec)
    names = np.array([f"star {i}" for i in range(n_spec)]) if obj_nme is None else np.array(obj_nme)
    uid = np.arange(n_spec) + 5_000_000_000 if obj_uid is None else np.array(obj_uid)
    fibres = fits.BinTableHDU.from_columns(
        [
            fits.Column("SPECUID", "K", array=np.array(specuid)[order]),
            fits.Column("OBJ_UID", "K", array=uid[order]),
            fits.Column("OBJ_NME", "30A", array=names[order]),
            fits.Column("FIB_USE", "J", array=np.where(order % 10 == 9, 3, 1)),
            fits.Column("FIB_ROOT", "J", array=np.full(n_spec, fib_root)),
            fits.Column("SNR", "E", array=10.0 + order),
        ],
        name="FIBMETATAB",
    )
    blocks = fits.BinTableHDU.from_columns(
        [fits.Column("MEDSNR", "E", array=[50.0]), fits.Column("EXPTIME", "E", array=[1200.0]),
         fits.Column("MJD-OBS", "D", array=[59827.125])], name="OBMETATAB")  # fmt: skip
    primary = fits.PrimaryHDU(
        header=fits.Header({"INSTRUME": "QMOST", "ORIGIN": "ESO-PARANAL", "SPECSYS": "HELIOCEN"})
    )
    if spec_res is not None:
        primary.header["SPEC_RES"] = spec_res
    fits.HDUList([primary, blocks, spectra, fibres]).writeto(path)
    return path


def write_polarbase(path: Path, wavelength, flux, sigma) -> Path:
    """PolarBase table: wavelength in nm in air, normalised flux, one row a pixel."""
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column("AWAV", "D", unit="nm", array=wavelength / 10.0),
            fits.Column("FLUX_NOR", "D", array=flux),
            fits.Column("ERR_NOR", "D", array=sigma),
        ]
    )
    primary = fits.PrimaryHDU(header=fits.Header({"INSTRUME": "NARVAL", "OBJECT": "HD 22879"}))
    fits.HDUList([primary, table]).writeto(path)
    return path


def write_esprit(path: Path, orders, *, columns=6, announced=None) -> Path:
    """Libre-ESpRIT ``.s`` of ``orders``, a list of (wavelength, flux, sigma); 2, 3 or 6 columns."""
    rows = []
    for wavelength, flux, sigma in orders:
        zero = np.zeros_like(flux)
        rows.append(np.column_stack([wavelength / 10.0, flux, zero, zero, zero, sigma]))
    data = np.concatenate(rows)[:, {2: [0, 1], 3: [0, 1, 5], 6: range(6)}[columns]]
    with open(path, "w") as file:
        file.write(f"***Reduced spectrum of 'hd22879   '\n {announced or len(data)} {columns - 1}\n")
        np.savetxt(file, data, fmt=["%11.6f"] + ["%13.8e"] * (columns - 1))
    return path


def write_iraf_multispec(path: Path, wavelength, flux) -> Path:
    """IRAF multispec with a Legendre dispersion (here of order 2, so linear), which only specutils reads."""
    n = len(wavelength)
    middle, half = 0.5 * (wavelength[0] + wavelength[-1]), 0.5 * (wavelength[-1] - wavelength[0])
    spec = f"1 1 2 {wavelength[0]} {2 * half / (n - 1)} {n} 0. 1. 1. 1. 0. 2 2 1. {n}. {middle} {half}"
    wat = f'wtype=multispec spec1 = "{spec}"'
    header = fits.Header(
        {"CTYPE1": "MULTISPE", "CTYPE2": "MULTISPE", "WCSDIM": 2, "CDELT1": 1.0, "CD1_1": 1.0}
    )
    header["WAT0_001"] = "system=multispec"
    header["WAT1_001"] = "wtype=multispec label=Wavelength units=angstroms"
    for i in range(0, len(wat), 68):
        header[f"WAT2_{i // 68 + 1:03d}"] = wat[i : i + 68]
    fits.PrimaryHDU(np.atleast_2d(flux), header).writeto(path)
    return path


def as_spectrum(wavelength, flux, sigma):
    """The same as a ``specutils.Spectrum``."""
    from astropy import units as u
    from astropy.nddata import StdDevUncertainty
    from specutils import Spectrum

    return Spectrum(
        spectral_axis=wavelength * u.AA,
        flux=flux * u.dimensionless_unscaled,
        uncertainty=StdDevUncertainty(sigma),
        mask=flux == 0.0,
    )
