"""Damaged spectra of every format, and what the readers make of them.

    python tests/helpers/fuzz_readers.py [COUNT] [--seed 0] [--first 0] [--memory 1024] [--keep FOLDER]

reads COUNT files in a process that may take ``--memory`` MB of addresses, and prints what went wrong, with
the number of the file; ``--keep FOLDER`` leaves those files there. File ``i`` of a seed is always the
same one. What must hold:

* a file gives spectra, or one sentence of specinn's own (``ReadError``), and never anything else;
* a spectrum has numbers wherever it is not masked: wavelengths that increase, flux, errors above 0 (or none
  at all), a medium, a frame, a velocity below 1000 km/s or none;
* no file takes 5 s of the processor, or memory that it declares and does not fill.
"""

from __future__ import annotations

import argparse
import bz2
import contextlib
import gzip
import lzma
import multiprocessing
import re
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import spectrum_files as files
from astropy.io import fits

from specinn.errors import ReadError
from specinn.plugins import Plugins
from specinn.spectra import SpectrumBatch, readers

SECONDS = 5.0  # of the processor, for one file
_STUCK = 30.0  # seconds of the processor after which a file will not end, and the process does
_GROWTH = 300  # MB that the largest of these files, 300 kB, may add to the peak of memory
_LONGEST = 600  # characters of a sentence without its path

Writer = Callable[[Path, np.ndarray, np.ndarray, np.ndarray], object]


# -- whole files -----------------------------------------------------------------------------------


def _columns(path: Path, *tables: dict[str, Any], **header: Any) -> None:
    hdus = [fits.PrimaryHDU(header=fits.Header(header))]
    for table in tables:
        hdus.append(fits.BinTableHDU.from_columns(
            [fits.Column(name, f"{np.shape(values)[1]}D" if np.ndim(values) == 2 else "D", array=values)
             for name, values in table.items()]))  # fmt: skip
    fits.HDUList(hdus).writeto(path)


def _orders(w: np.ndarray, *arrays: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    """Five orders that overlap."""
    n = len(w) // 4
    return [tuple(a[i * 3 * n // 4 :][:n] for a in (w, *arrays)) for i in range(5)]


def _variable(path: Path, w: np.ndarray, f: np.ndarray, s: np.ndarray) -> None:
    columns = [
        fits.Column(name, "PD()", array=np.array([values[:-7], values[5:]], dtype=object))
        for name, values in (("WAVE", w), ("FLUX", f), ("ERR", s))
    ]
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(path)


def _ascii(path: Path, w: np.ndarray, f: np.ndarray, s: np.ndarray) -> None:
    columns = [fits.Column(n, "E16.8", array=v) for n, v in (("WAVE", w), ("FLUX", f), ("ERROR", s))]
    fits.HDUList([fits.PrimaryHDU(), fits.TableHDU.from_columns(columns)]).writeto(path)


def _stack(path: Path, w: np.ndarray, f: np.ndarray, s: np.ndarray) -> None:
    wave, flux, sigma = (np.array(each) for each in zip(*_orders(w, f, s), strict=True))
    fits.HDUList([fits.PrimaryHDU(flux), fits.ImageHDU(sigma), fits.ImageHDU(wave)]).writeto(path)


def _integers(path: Path, w: np.ndarray, f: np.ndarray, s: np.ndarray) -> None:
    axis = {"CRVAL1": w[0], "CDELT1": w[1] - w[0], "CRPIX1": 1.0, "CTYPE1": "WAVELENGTH [A]"}
    hdu = fits.PrimaryHDU(f.astype(np.float32), fits.Header(axis))
    hdu.scale("int16", bzero=0.7, bscale=1e-4)
    hdu.writeto(path)


def _compressed(path: Path, w: np.ndarray, f: np.ndarray, s: np.ndarray) -> None:
    axis = fits.Header({"CRVAL1": w[0], "CDELT1": w[1] - w[0], "CRPIX1": 1.0, "CUNIT1": "Angstrom"})
    hdu = fits.CompImageHDU((1e4 * f).astype(np.int32), axis, name="FLUX")
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)


def _multispec(path: Path, w: np.ndarray, f: np.ndarray, s: np.ndarray) -> None:
    """Three orders with dispersions by Legendre polynomials, Chebyshev polynomials and a spline."""
    n = len(w) // 2
    parts = [slice(i * n // 2, i * n // 2 + n) for i in range(3)]
    specs = []
    for i, part in enumerate(parts):
        middle, half = 0.5 * (w[part][0] + w[part][-1]), 0.5 * (w[part][-1] - w[part][0])
        knots = " ".join(str((middle + half * (j - 2)) / 6) for j in range(5))
        dispersion = (
            f"2 2 1. {n}. {middle} {half}", f"1 2 1. {n}. {middle} {half}", f"3 2 1. {n}. {knots}"
        )[i]  # fmt: skip
        step = 2 * half / (n - 1)
        specs.append(
            f'spec{i + 1} = "{i + 1} {90 - i} 2 {w[part][0]} {step} {n} 0. 1. 1. 1. 0. {dispersion}"'
        )
    wat = "wtype=multispec " + " ".join(specs)
    header = fits.Header({"CTYPE1": "MULTISPE", "CTYPE2": "MULTISPE", "WCSDIM": 2, "CD1_1": 1.0})
    header["WAT0_001"], header["WAT1_001"] = "system=multispec", "wtype=multispec units=angstroms"
    for i in range(0, len(wat), 68):
        header[f"WAT2_{i // 68 + 1:03d}"] = wat[i : i + 68]
    fits.PrimaryHDU(np.array([f[part] for part in parts]), header).writeto(path)


def _even_log(w: np.ndarray, f: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wave = np.geomspace(w[0], w[-1], len(w))
    return wave, np.interp(wave, w, f)


def _packed(opener: Callable[..., Any], path: Path, w: np.ndarray, f: np.ndarray, s: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        content = Path(files.write_linear_fits(Path(folder) / "a.fits", w, f, s)).read_bytes()
    with opener(path, "wb") as file:
        file.write(content)


FORMATS: dict[str, Writer] = {
    "text.txt": lambda p, w, f, s: files.write_text(p, w, f, s),
    "text of two columns.dat": lambda p, w, f, s: files.write_text(p, w, f, header="# in air"),
    "csv.csv": lambda p, w, f, s: files.write_csv(p, w, f, s),
    "library.txt": lambda p, w, f, s: files.write_benchmark_text(p, w, f, s),
    "semicolons.csv": lambda p, w, f, s: p.write_text(
        "\n".join(f"{a:.4f};{b:.6f};{c:.6f}".replace(".", ",") for a, b, c in zip(w, f, s, strict=True))),
    "utf-16.txt": lambda p, w, f, s: p.write_text(
        "\n".join(f"{a:.4f} {b:.6f}" for a, b in zip(w, f, strict=True)), encoding="utf-16"),
    "esprit.s": lambda p, w, f, s: files.write_esprit(p, [(w, f, s)], columns=6),
    "esprit orders.s": lambda p, w, f, s: files.write_esprit(p, _orders(w, f, s), columns=3),
    "library.fits": lambda p, w, f, s: files.write_benchmark_fits(p, w, f, s),
    "linear.fits": lambda p, w, f, s: files.write_linear_fits(p, w, f, s, ctype="AWAV", cunit="Angstrom"),
    "linear of rows.fits": lambda p, w, f, s: files.write_linear_fits(
        p, w, np.array([f] * 3), np.array([s] * 3), ctype="LINEAR"),
    "log.fits": lambda p, w, f, s: files.write_log_fits(p, *_even_log(w, f)),
    "log by the standard.fits": lambda p, w, f, s: files.write_log_fits(p, *_even_log(w, f), kind="AWAV-LOG"),
    "eso.fits": lambda p, w, f, s: files.write_eso(p, w, f, s, spec_res=80000.0, padding=20),
    "eso uves.fits": lambda p, w, f, s: files.write_eso(p, w, f, s, style="uves", barycor=21.4),
    "eso giraffe.fits": lambda p, w, f, s: files.write_eso(p, w, f, s, style="giraffe", unit="nm"),
    "4most.fits": lambda p, w, f, s: files.write_qmost(p, w, f, s),
    "4most multi.fits": lambda p, w, f, s: files.write_qmost_multi(
        p, w, np.array([f] * 4), np.array([s] * 4), spec_res=20000.0),
    "polarbase.fits": lambda p, w, f, s: files.write_polarbase(p, w, f, s),
    "multispec.fits": _multispec,
    "table.fits": lambda p, w, f, s: _columns(
        p, {"WAVE": w, "FLUX": f, "IVAR": s**-2.0, "MASK": np.zeros_like(f)}, SPECSYS="BARYCENT", RV=12.3),
    "table of log.fits": lambda p, w, f, s: _columns(p, {"loglam": np.log10(w), "flux": f, "ivar": s**-2.0}),
    "table of orders.fits": lambda p, w, f, s: _columns(
        p, {name: np.array(rows) for name, rows in
            zip(("WAVE", "FLUX", "ERR"), zip(*_orders(w, f, s), strict=True), strict=True)}),
    "tables.fits": lambda p, w, f, s: _columns(
        p, *(dict(zip(("WAVE", "FLUX", "ERR"), order, strict=True)) for order in _orders(w, f, s))),
    "variable.fits": _variable,
    "ascii.fits": _ascii,
    "stack.fits": _stack,
    "integers.fits": _integers,
    "compressed.fits": _compressed,
    "gzip.fits.gz": lambda p, w, f, s: _packed(gzip.open, p, w, f, s),
    "bzip2.fits.bz2": lambda p, w, f, s: _packed(bz2.open, p, w, f, s),
    "xz.fits.xz": lambda p, w, f, s: _packed(lzma.open, p, w, f, s),
}  # fmt: skip


def star(n: int = 2400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Wavelength, flux and sigma ``(n,)`` of a continuum with lines."""
    rng = np.random.default_rng(3)
    wave = 5200.0 + 0.05 * np.arange(n)
    flux = np.ones(n)
    for centre, depth in zip(rng.uniform(wave[0], wave[-1], 60), rng.uniform(0.1, 0.7, 60), strict=True):
        flux *= 1.0 - depth * np.exp(-0.5 * ((wave - centre) / 0.12) ** 2)
    return wave, flux + 0.01 * rng.standard_normal(n), np.full(n, 0.01)


def whole_files(folder: Path, spectrum: tuple[np.ndarray, ...] | None = None) -> dict[str, bytes]:
    """The content of an undamaged file of every format, by its name; wavelength, flux and sigma of
    ``spectrum``."""
    contents = {}
    for name, write in FORMATS.items():
        write(folder / name, *(star() if spectrum is None else spectrum))
        contents[name] = (folder / name).read_bytes()
    return contents


# -- damage ----------------------------------------------------------------------------------------

_NUMBERS = (
    "0", "-1", "1", "2", "3", "8", "16", "255", "999", "65536", "1000000", "2147483647", "4294967296",
    "1000000000000", "9223372036854775807", "99999999999999999999", "-9999999999", "0.0", "-0.05", "1E-30",
    "1E+30", "1.0E308", "-1E308", "5.2E3", "5200", "520.0", "1.5", "NaN", "Inf", "-Inf", "T", "F",
)  # fmt: skip
_WORDS = (
    "", "nm", "Angstrom", "angstroms", "um", "m", "cm-1", "Hz", "pixel", "km/s", "erg", "AWAV", "WAVE",
    "VELO", "FREQ", "LINEAR", "WAVE-LOG", "MULTISPE", "BARYCENT", "TOPOCENT", "wavelength", "FLUX", "ERR",
    "IVAR", "x", "QUAL", "1D", "2400D", "0D", "PD(9)", "QJ(1)", "A", "300A", "1X", "9E", "E16.8", "(9,9)",
    "(-1)", "(2,1200)", "999999999D", "9999999999999E", "GZIP_1", "RICE_1", "NOPE", "\\x1b[31m", "IMAGE",
    "BINTABLE", "TABLE", "wtype=multispec", "1 90 2 5200 0.05 1000 0 1 2 1 0 4 999999999 1 1000",
)  # fmt: skip
_SIZES = re.compile(
    rb"NAXIS\d*|BITPIX|PCOUNT|GCOUNT|TFIELDS|TFORM\d+|TDIM\d+|ZNAXIS\d*|ZTILE\d|ZBITPIX|THEAP|TBCOL\d+"
    rb"|WAT2_\d+|CRVAL1|CDELT1|CD1_1|CRPIX1|NELEM|EXTEND|BSCALE|BZERO|TUNIT\d+|CUNIT1|CTYPE1"
)
_TOKENS = (
    "nan", "inf", "-inf", "1e308", "-1e308", "1e400", "0", "-1", "1e-320", "5200", "abc", "", "1,5", "1.2.3",
    "0x1F", "1e", "--", "9" * 400, "5.2D3", "\t", ";", ",", "#", "\x00", "\x1b[2J", "é", "1 2 3 4 5", "+5200",
)  # fmt: skip


def _cards(content: bytes) -> list[int]:
    """Where the cards of headers begin."""
    out = []
    for block in range(0, len(content) - 2879, 2880):
        for at in range(block, block + 2880, 80):
            if not re.match(
                rb"[A-Z0-9_-]+ *=|END {20}|COMMENT|HIERARCH|HISTORY|CONTINUE", content[at : at + 80]
            ):
                break
            out.append(at)
    return out


def _change_card(content: bytes, rng: np.random.Generator) -> bytes:
    """One card of a header with another value or name, left out, or twice."""
    cards = _cards(content)
    if not cards:
        return _change_bytes(content, rng)
    sizes = [at for at in cards if _SIZES.match(content[at : at + 8])]
    at = int(rng.choice(sizes if sizes and rng.random() < 0.6 else cards))
    card = content[at : at + 80]
    kind = rng.integers(8)
    if kind == 0:
        new = b" " * 80
    elif kind == 1:
        new = content[(other := int(rng.choice(cards))) : other + 80]
    elif kind == 2:
        new = bytes(rng.choice(list(b"ABCXYZ12_- "), 8)) + card[8:]
    elif kind == 3:
        spot = int(rng.integers(80))
        new = card[:spot] + bytes([int(rng.integers(256))]) + card[spot + 1 :]
    elif kind <= 5:
        word = str(rng.choice(_WORDS))
        quote = "" if rng.random() < 0.1 else "'"
        new = card[:8] + f"= '{word}{quote}".encode().ljust(72)[:72]
    else:
        new = card[:8] + f"= {rng.choice(_NUMBERS)!s:>20}".encode().ljust(72)[:72]
    return content[:at] + new.ljust(80)[:80] + content[at + 80 :]


def _change_data(content: bytes, rng: np.random.Generator) -> bytes:
    """A stretch of numbers with values that are none, or that no spectrum has."""
    out = bytearray(content)
    size = int(rng.choice([4, 8]))
    n = int(rng.choice([1, 10, 300, 3000]))
    start = int(rng.integers(max(1, len(out) // size))) * size
    value = rng.choice([np.nan, np.inf, -np.inf, 1e308, -1e38, 0.0, 1e-320, -5200.0, 1.0])
    with np.errstate(over="ignore"):
        item = np.array(value).astype(">f4" if size == 4 else ">f8").tobytes()
    stretch = (item * n)[: len(out) - start]
    out[start : start + len(stretch)] = stretch
    return bytes(out)


def _change_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes at random, in one place or in many."""
    out = bytearray(content)
    n = int(rng.choice([1, 4, 50, 2000]))
    start = int(rng.integers(len(out)))
    where = rng.integers(0, len(out), n) if rng.random() < 0.5 else np.arange(start, start + n) % len(out)
    for at, value in zip(where.tolist(), rng.integers(0, 256, n).tolist(), strict=True):
        out[at] = value
    return bytes(out)


def _change_length(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut, with something lost within, something twice, or something more at the end."""
    a, b = sorted(rng.integers(0, len(content), 2).tolist())
    block = int(rng.choice([1, 80, 2880]))
    a, b = a // block * block, b // block * block
    kind = rng.integers(5)
    if kind == 0:
        return content[: max(1, b)]
    if kind == 1:
        return (content[:a] + content[b:]) or b"\0"
    if kind == 2:
        return content[:b] + content[a:]
    if kind == 3:
        return content + bytes(rng.integers(0, 256, int(rng.choice([1, 80, 2880, 9000]))).astype(np.uint8))
    return content[b:] + content[:b]


def _change_text(content: bytes, rng: np.random.Generator) -> bytes:
    """Words and lines of text with others in their place, or none, or twice."""
    encoding = "utf-16" if content.startswith(b"\xff\xfe") else "utf-8"
    lines = content.decode(encoding).split("\n")
    for _ in range(int(rng.choice([1, 3, 200]))):
        at = int(rng.integers(min(len(lines), 3 if rng.random() < 0.3 else len(lines))))
        kind = rng.integers(7)
        if kind <= 2:
            words = re.split(r"([\s;,]+)", lines[at])
            words[int(rng.integers(len(words)))] = str(rng.choice(_TOKENS))
            lines[at] = "".join(words)
        elif kind == 3:
            lines.insert(at, lines[int(rng.integers(len(lines)))])
        elif kind == 4 and len(lines) > 2:
            del lines[at]
        elif kind == 5:
            lines[at] += " " + str(rng.choice(_TOKENS))
        else:
            lines[at] = lines[at][: int(rng.integers(len(lines[at]) + 1))]
    if rng.random() < 0.1:
        lines = [line.replace(" ", str(rng.choice([",", "\t", ";", "  ", "|"]))) for line in lines]
    if rng.random() < 0.05:
        lines = ["1000000000000 5" if re.fullmatch(r" *\d+ \d+", line) else line for line in lines]
    return "\n".join(lines).encode(encoding)


def damaged(whole: dict[str, bytes], seed: int, number: int) -> tuple[str, bytes]:
    """Name and content of file ``number`` of a seed: one to three changes to a whole file."""
    rng = np.random.default_rng([seed, number])
    names = list(whole)
    name = names[number % len(names)]
    content = whole[name]
    opener = {".gz": gzip, ".bz2": bz2, ".xz": lzma}.get(Path(name).suffix)
    inside = opener is not None and rng.random() < 0.6  # damaged before it is packed, or after
    if inside:
        content = opener.decompress(content)
    text = not name.endswith(".fits") and opener is None
    for _ in range(int(rng.integers(1, 4))):
        ways = [_change_text] * 4 if text else [_change_card] * 4 + [_change_data]
        with contextlib.suppress(UnicodeDecodeError):  # text that is none any more stays as it is
            content = rng.choice(np.array([*ways, _change_bytes, _change_length], dtype=object))(content, rng)
    return name, opener.compress(content) if inside and opener else content


# -- what must hold --------------------------------------------------------------------------------


def faults_of(batch: SpectrumBatch) -> Iterator[str]:
    """Everything about a batch that no reader may let pass."""
    if not len(batch):
        yield "a batch without spectra"
    if not (np.isfinite(batch.wavelength).all() and (batch.wavelength > 0).all()):
        yield "wavelengths that are no positive numbers"
    if not all((np.diff(batch.wavelength[arm]) > 0).all() for arm in batch.arms.values()):
        yield "wavelengths that do not increase"
    good = ~batch.mask
    if not np.isfinite(batch.flux[good]).all():
        yield "flux that is no number and not masked"
    known = np.isfinite(batch.sigma).any(axis=1)
    if (
        not (batch.sigma[known][good[known]] > 0).all()
        or not np.isfinite(batch.sigma[known][good[known]]).all()
    ):
        yield "errors that are no positive numbers and not masked"
    power = batch.resolving_power
    if power is not None and not (np.isfinite(power) & (np.asarray(power) > 0)).all():
        yield f"a resolving power of {power}"
    for name in ("id", "path", "medium", "medium_from", "frame", "frame_from"):
        if name not in batch.meta.colnames or not all(str(value) for value in batch.meta[name]):
            yield f"no {name}"
    if "rv" in batch.meta.colnames:
        rv = np.ma.filled(np.ma.array(batch.meta["rv"], dtype=float), np.nan)
        if (np.abs(rv) >= 1000.0).any() or np.isinf(rv).any():
            yield f"a velocity of {rv}"


def look(path: Path, plugins: Plugins) -> tuple[str, list[str]]:
    """What becomes of a file (``read``, or its sentence), and what is wrong with that."""
    outcome, faults, _ = _looked(path, plugins)
    return outcome, faults


def _looked(path: Path, plugins: Plugins) -> tuple[str, list[str], float]:
    """As :func:`look`, and the seconds of the processor."""
    faults: list[str] = []
    before, memory = time.process_time(), _peak()
    outcome = "read"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for batch in readers.read(path, plugins):
                faults += faults_of(batch)
    except ReadError as error:
        outcome = str(error).replace(str(path), "FILE")
        if len(outcome) > _LONGEST or not outcome.isprintable():
            faults.append(f"a sentence that is none: {outcome[:_LONGEST]!r}")
        if "MemoryError" in outcome:
            faults.append(f"memory was taken before it was known to be needed: {outcome}")
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
        faults.append(f"not a ReadError: {outcome}")
    spent, grown = time.process_time() - before, _peak() - memory
    if spent > SECONDS:
        faults.append(f"{spent:.0f} s of the processor")
    if grown > _GROWTH:
        faults.append(f"{grown} MB of memory")
    return outcome, faults, spent


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # MB


def _work(pipe: Connection, whole: dict[str, bytes], seed: int, first: int, stop: int, memory: int) -> None:
    plugins = Plugins()
    with tempfile.TemporaryDirectory() as folder:
        look(_put(Path(folder), "text.txt", whole["text.txt"]), plugins)
        for name in ("integers.fits", "a.bin"):  # imports what reads the rarest
            look(_put(Path(folder), name, whole.get(name, b"\1\2\3" * 99)), plugins)
        resource.setrlimit(resource.RLIMIT_AS, (memory * 2**20, memory * 2**20))
        for number in range(first, stop):
            name, content = damaged(whole, seed, number)
            signal.setitimer(signal.ITIMER_PROF, _STUCK)  # what it sends ends the process, also within C
            pipe.send((number, name, *_looked(_put(Path(folder), name, content), plugins), _peak()))


def _put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return path


def fuzz(
    seed: int, first: int, count: int, memory: int
) -> Iterator[tuple[int, str, str, list[str], float, int]]:
    """Number, name, outcome, faults, seconds and peak of memory (MB) of each file; a process that dies or
    hangs with a file costs that file."""
    with tempfile.TemporaryDirectory() as folder:
        whole = whole_files(Path(folder))
    context = multiprocessing.get_context("spawn")
    while count > 0:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(theirs, whole, seed, first, first + count, memory))
        process.start()
        theirs.close()
        fault = ""
        while count > 0:
            try:
                answer = ours.recv()
            except EOFError:
                process.join()
                fault = f"the process ended with status {process.exitcode}"
                break
            yield answer
            first, count = first + 1, count - 1
        process.join()
        if fault:
            yield first, damaged(whole, seed, first)[0], fault, [fault], _STUCK, 0
            first, count = first + 1, count - 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int, nargs="?", default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--memory", type=int, default=1024, help="MB of addresses")
    parser.add_argument("--keep", type=Path, help="folder for files with which something is wrong")
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    wrong: list[int] = []
    peak = 0
    slowest = (0.0, "")
    for number, name, outcome, faults, spent, memory in fuzz(
        options.seed, options.first, options.count, options.memory
    ):
        outcomes["read" if outcome == "read" else "refused"] += 1
        peak, slowest = max(peak, memory), max(slowest, (spent, f"{number} {name}"))
        unforeseen = re.search(r"\((\w+(Error|Exception|Warning)): ", outcome)
        if unforeseen:
            outcomes[f"refused for a {unforeseen[1]}"] += 1
        if faults or unforeseen:
            print(number, name, *(faults or [f"({outcome[:200]})"]), sep=": ", flush=True)
        if faults:
            wrong.append(number)
    print(
        f"{sum(outcomes[key] for key in ('read', 'refused'))} files, {len(wrong)} with faults, "
        f"peak {peak} MB, slowest {slowest[0]:.1f} s of the processor ({slowest[1]})"
    )
    print(*(f"{count} {outcome}" for outcome, count in outcomes.most_common()), sep=", ")
    if options.keep and wrong:
        options.keep.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            whole = whole_files(Path(folder))
        for number in wrong:
            name, content = damaged(whole, options.seed, number)
            (options.keep / f"{number}-{name}").write_bytes(content)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
