"use strict";
(() => {
const $ = (id) => document.getElementById(id);
const page = JSON.parse($("data").textContent);
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const floats = (text) => new Float32Array(bytes(text).buffer);
const whole = (text) => new Uint32Array(bytes(text).buffer);
const columns = Object.fromEntries(Object.entries(page.columns).map(([name, text]) => [name, floats(text)]));
const texts = Object.fromEntries(Object.entries(page.texts).map(([name, t]) => [name, { values: t.values, index: whole(t.index) }]));
const flags = whole(page.flags);
const opened = new Set(page.opened);
const textOf = (name, row) => (texts[name] ? texts[name].values[texts[name].index[row]] : "");
const severity = { none: 0, info: 1, warn: 2, bad: 3 };
const worst = Array.from(flags, (f) => page.meanings.reduce((w, [bit, , s]) => (f & bit && severity[s] > severity[w] ? s : w), "none"));
const namesOf = (f) => page.meanings.filter(([bit]) => f & bit).map(([, name]) => name);
const words = page.ids.map((id, row) => [id, textOf("path", row), textOf("instrument", row), ...namesOf(flags[row])].join(" ").toLowerCase());
const labels = page.shown.filter((c) => c.label);
const sampled = (page.sampled ?? []).map((name) => labels.find((c) => c.name === name)); // in the order of the samples
const MANY = 400, PER_PAGE = 50, BINS = 32, CELLS = 35, WIDE = BINS / CELLS; // of a panel of the corner plot: cells, and the share that is no gap

// Elements are made with textContent only: names of stars are data, never markup.
function make(tag, attributes = {}, ...children) {
  const node = Object.assign(document.createElement(tag), attributes);
  node.append(...children.filter((c) => c !== null));
  return node;
}
const html = (tag, markup) => make(tag, { innerHTML: markup }); // for names of labels, which Python made
const escaped = (text) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
const named = (c) => c.html + (c.unit && c.unit !== "dex" ? ` <span class="unit">${escaped(c.unit)}</span>` : "");
const minus = (text) => (/^-[0.]+$/.test(text) ? text.slice(1) : text.replace("-", "\u2212")); // no minus zero
function figure(value, decimals) {
  if (value === null || !Number.isFinite(value)) return "\u2013";
  const size = Math.abs(value);
  return minus(value.toFixed(decimals ?? (size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.1 || size === 0 ? 2 : 3)));
}

// ---- what is shown: the filter, a flag, the stars selected in a diagram ----
const state = { flag: 0, picked: null, pickedIn: -1, sort: "", down: false, first: 0, tests: [], shown: [], order: [] };

function condition(token) {
  const found = token.match(/^([a-z]\w*)(<=|>=|<|>|=)(.*)$/i);
  if (!found) return { test: (row) => words[row].includes(token.toLowerCase()) };
  const [, name, sign, text] = found;
  const values = columns[name], limit = Number(text.replace("\u2212", "-"));
  if (!values) return { wrong: `There is no column ${name}. There are ${Object.keys(columns).filter((n) => !/_p\d/.test(n)).join(", ")}.` };
  if (text === "" || Number.isNaN(limit)) return { wrong: `${name}${sign} wants a number.` };
  const tests = { "<": (v) => v < limit, ">": (v) => v > limit, "<=": (v) => v <= limit, ">=": (v) => v >= limit, "=": (v) => v === limit };
  return { test: (row) => tests[sign](values[row]) };
}

function update() {
  const conditions = $("filter").value.trim().split(/\s+/).filter(Boolean).map(condition);
  const wrong = conditions.find((c) => c.wrong);
  $("said").hidden = !wrong;
  $("said").textContent = wrong ? wrong.wrong : "";
  const tests = conditions.filter((c) => c.test).map((c) => c.test);
  const status = { clean: (r) => severity[worst[r]] < 2, warn: (r) => worst[r] === "warn", bad: (r) => worst[r] === "bad", opened: (r) => opened.has(r) }[$("status").value];
  if (status) tests.push(status);
  if (state.flag) tests.push((row) => flags[row] & state.flag);
  if (state.picked) tests.push((row) => state.picked.has(row));
  state.tests = tests;
  list();
  $("count").textContent = `${state.shown.length} of ${page.n} ${page.n === 1 ? "star" : "stars"}${state.picked ? ", selected in a diagram" : ""}`;
  drawFlags();
  drawPlots();
}
function list() {
  state.shown = state.order.filter((row) => state.tests.every((test) => test(row)));
  state.first = 0;
  drawRows();
}

function sort(name) {
  state.down = state.sort === name ? !state.down : false;
  state.sort = name;
  const sign = state.down ? -1 : 1;
  const order = Array.from({ length: page.n }, (_, row) => row);
  const compare = name === "id" ? (a, b) => page.ids[a].localeCompare(page.ids[b], undefined, { numeric: true })
    : name === "flags" ? (a, b) => severity[worst[a]] - severity[worst[b]] || flags[a] - flags[b]
    : (a, b) => columns[name][a] - columns[name][b];
  const values = columns[name];
  const has = values ? order.filter((row) => !Number.isNaN(values[row])) : order;
  const hasNot = values ? order.filter((row) => Number.isNaN(values[row])) : [];
  state.order = [...(name ? has.sort((a, b) => sign * compare(a, b) || a - b) : has), ...hasNot];
}

// ---- the table ----
const heads = [["id", "Star", "Identifier of the spectrum"], ["flags", "Flags", "The gravest of its flags, and how many more it has"],
  ...page.shown.map((c) => [c.name, named(c), c.about])];
for (const [name, markup, about] of heads) {
  const button = Object.assign(html("button", markup), { type: "button", title: about });
  button.onclick = () => { sort(name); list(); drawHeads(); };
  const head = make("th", { scope: "col" }, button);
  head.dataset.column = name;
  $("table").tHead.rows[0].append(head);
}
function drawHeads() {
  for (const head of $("table").tHead.rows[0].cells) {
    if (head.dataset.column === state.sort) head.ariaSort = state.down ? "descending" : "ascending";
    else head.removeAttribute("aria-sort");
  }
}
const undetermined = (row) => textOf("undetermined", row).split(" ").filter(Boolean); // names of labels, which have no values
const upper = (name, row) => columns[`${name}_upper`]?.[row] ?? NaN; // where the label is not detected
function mark(row) {
  const names = page.meanings.filter(([bit]) => flags[row] & bit).sort((a, b) => severity[b[2]] - severity[a[2]]);
  const sign = { bad: "\u2715 ", warn: "\u25b3 ", info: "", none: "" }[worst[row]];
  const text = names.length ? names[0][1].replaceAll("_", " ") + (names.length > 1 ? ` +${names.length - 1}` : "") : "\u2013";
  return make("span", { className: `mark ${worst[row]}`, title: names.map((n) => n[3]).join("; ") }, sign + text);
}
function drawRows() {
  const rows = state.shown.slice(state.first, state.first + PER_PAGE);
  $("table").tBodies[0].replaceChildren(...rows.map((row) => {
    const button = make("button", { type: "button", title: opened.has(row) ? "with spectrum" : "values and flags" }, page.ids[row] + (opened.has(row) && opened.size < page.n ? " \u25cf" : ""));
    const line = make("tr", { onclick: () => show(row) }, make("td", {}, button), make("td", {}, mark(row)), ...page.shown.map((c) => {
      const value = columns[c.name][row], limit = upper(c.name, row);
      if (Number.isFinite(limit)) return make("td", {}, `< ${figure(limit, c.decimals)}`);
      const half = c.label && Number.isFinite(value) ? 0.5 * (columns[`${c.name}_p84`][row] - columns[`${c.name}_p16`][row]) : NaN;
      return make("td", {}, figure(value, c.decimals), Number.isFinite(half) ? make("small", {}, ` ± ${figure(half, c.decimals)}`) : "");
    }));
    line.dataset.row = row;
    return line;
  }));
  const last = Math.min(state.first + PER_PAGE, state.shown.length);
  $("range").textContent = state.shown.length ? `${state.first + 1} to ${last} of ${state.shown.length}` : "No star is left: change the filter or reset it";
  $("back").disabled = state.first === 0;
  $("on").disabled = last >= state.shown.length;
}
const turn = (by) => { state.first += by * PER_PAGE; drawRows(); };
$("back").onclick = () => turn(-1);
$("on").onclick = () => turn(1);
$("table").tBodies[0].addEventListener("keydown", (event) => {
  const line = event.target.closest("tr");
  const next = { ArrowDown: line?.nextElementSibling, ArrowUp: line?.previousElementSibling,
    Home: line?.parentNode.firstElementChild, End: line?.parentNode.lastElementChild }[event.key];
  if (next) { next.querySelector("button").focus(); event.preventDefault(); }
});

// ---- flags ----
function drawFlags() {
  const counts = page.meanings.map(([bit]) => state.shown.reduce((n, row) => n + ((flags[row] & bit) !== 0), 0));
  const focused = document.activeElement?.dataset?.bit;
  const most = Math.max(...counts, 1);
  const used = page.meanings.map((meaning, k) => [...meaning, counts[k]]).filter(([bit, , , , n]) => n || bit === state.flag);
  $("flags").replaceChildren(...used.sort((a, b) => severity[b[2]] - severity[a[2]] || b[4] - a[4]).map(([bit, name, kind, meaning, n]) => {
    const length = make("span", { className: `length ${kind}` });
    length.style.width = `${(100 * n) / most}%`;
    const sign = { bad: "\u2715 ", warn: "\u25b3 ", info: "" }[kind];
    const button = make("button", { type: "button", title: meaning }, make("span", { className: `mark ${kind}` }, sign + name.replaceAll("_", " ")),
      make("span", { className: "count" }, String(n)), length);
    button.ariaPressed = String(state.flag === bit);
    button.dataset.bit = bit;
    button.onclick = () => { state.flag = state.flag === bit ? 0 : bit; update(); };
    return make("li", {}, button);
  }));
  if (!used.length) $("flags").append(make("li", {}, "None of these stars has a flag."));
  if (focused) $("flags").querySelector(`[data-bit="${focused}"]`)?.focus();
}

// ---- diagrams ----
function theme() {
  const style = getComputedStyle(document.documentElement);
  const names = ["paper", "raised", "ink", "soft", "rule", "faint", "blue", "orange", "red"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}
const dark = matchMedia("(prefers-color-scheme: dark)");
const paper = matchMedia("print"), coarse = matchMedia("(pointer: coarse)");
const VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
const scale = () => (dark.matches && !paper.matches ? VIRIDIS.slice(2) : VIRIDIS.slice(0, 9)) // without the end that vanishes on the page
  .map((c, i, all) => [i / (all.length - 1), c]);
const faded = (colour, alpha) => colour + Math.round(255 * alpha).toString(16).padStart(2, "0");
const config = { responsive: true, displaylogo: false, modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["resetScale2d"]] }; // by name: others offer to upload the data
function axis(t, title, more = {}) {
  return { title: { text: title, standoff: 8 }, gridcolor: t.rule, linecolor: t.faint, tickcolor: t.faint, ticks: "outside", zeroline: false, showline: true, automargin: true, ...more };
}
function layout(t, more) {
  return { font: { family: "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif", size: 12, color: t.ink }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 55, r: 10, t: 28, b: 45 }, hovermode: "closest", showlegend: false, separators: ". ", uirevision: "kept",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: t.faint, activecolor: t.ink }, hoverlabel: { bgcolor: t.raised, bordercolor: t.faint, font: { color: t.ink } }, ...more };
}
const titled = (c) => c.html + (c.unit ? ` (${escaped(c.unit)})` : "");
const column = (name) => page.shown.find((c) => c.name === name);
function bar(name, rows) { // from the MAP to the percentiles; a MAP outside of them has no bar to that side
  const [map, low, high] = [columns[name], columns[`${name}_p16`], columns[`${name}_p84`]];
  return { type: "data", symmetric: false, array: rows.map((r) => Math.max(high[r] - map[r], 0)), arrayminus: rows.map((r) => Math.max(map[r] - low[r], 0)), width: 0, thickness: 1 };
}
const median = (values) => values.filter(Number.isFinite).sort((a, b) => a - b)[values.length >> 1] ?? 0;

page.plots.forEach((plot, k) => {
  plot.rows = Array.from({ length: page.n }, (_, r) => r).filter((r) => Number.isFinite(columns[plot.x][r]) && Number.isFinite(columns[plot.y][r]));
  plot.wired = false;
  plot.draw = () => {
    const t = theme(), rows = plot.rows, node = $(`plot-${k}`);
    const limits = rows.map((r) => upper(plot.y, r));
    const [x, y] = [rows.map((r) => columns[plot.x][r]), rows.map((r, i) => (Number.isFinite(limits[i]) ? limits[i] : columns[plot.y][r]))];
    const chosen = new Set(state.shown), all = state.shown.length === page.n;
    const barred = rows.filter((r) => chosen.has(r)), many = barred.length > MANY;
    const few = many ? [] : barred.filter((r) => !Number.isFinite(upper(plot.y, r)));
    const errors = { mode: "markers", x: few.map((r) => columns[plot.x][r]), y: few.map((r) => columns[plot.y][r]), hoverinfo: "skip", marker: { size: 1, opacity: 0 },
      error_x: { ...bar(plot.x, few), color: t.faint }, error_y: { ...bar(plot.y, few), color: t.faint } };
    if (many) { // one cross of median length, where a corner of the diagram is
      const half = (name) => median(barred.map((r) => 0.5 * (columns[`${name}_p84`][r] - columns[`${name}_p16`][r])));
      const [ends, tops] = [x, y].map((v) => [v.reduce((a, b) => Math.min(a, b)), v.reduce((a, b) => Math.max(a, b))]);
      const at = ([low, high], share) => low + share * (high - low);
      Object.assign(errors, { x: [at(ends, plot.flip ? 0.96 : 0.04)], y: [at(tops, plot.flip ? 0.96 : 0.04)],
        error_x: { type: "data", array: [half(plot.x)], color: t.ink, width: 0, thickness: 1.5 }, error_y: { type: "data", array: [half(plot.y)], color: t.ink, width: 0, thickness: 1.5 } });
    }
    document.querySelectorAll(".many").forEach((note) => { note.hidden = !many; });
    const colour = columns.fe_h && rows.map((r) => columns.fe_h[r]), tiny = rows.length > 2000, thin = tiny ? 0 : 0.4, some = opened.size > 0 && opened.size < page.n;
    const points = { mode: "markers", x, y, customdata: rows, text: rows.map((r) => escaped(page.ids[r])),
      hovertemplate: `<b>%{text}</b><br>${column(plot.x).html} %{x}<br>${column(plot.y).html} %{y}<extra></extra>`,
      selectedpoints: all ? null : rows.flatMap((r, i) => (chosen.has(r) ? [i] : [])), selected: { marker: { opacity: 0.9 } }, unselected: { marker: { opacity: 0.07 } },
      marker: { size: tiny ? 5 : 10, opacity: tiny ? 0.7 : 0.9, color: colour ?? t.blue, colorscale: scale(), symbol: rows.map((r, i) => (Number.isFinite(limits[i]) ? "triangle-down-open" : severity[worst[r]] > 1 ? "triangle-up" : "circle")),
        showscale: Boolean(colour) && plot.x !== "fe_h", colorbar: { title: { text: "[Fe/H]", side: "right" }, thickness: 9, outlinewidth: 0, len: 0.8, tickcolor: t.faint },
        line: { color: t.ink, width: some ? rows.map((r) => (opened.has(r) ? 1.6 : thin)) : thin } } };
    const turned = plot.flip ? { autorange: "reversed" } : {};
    Plotly.react(node, [errors, points], layout(t, { margin: { l: 62, r: colour && plot.x !== "fe_h" ? 85 : 12, t: 28, b: 50, autoexpand: false }, // fitted margins draw all points twice
      dragmode: coarse.matches ? false : "select", selections: state.pickedIn === k ? node.layout?.selections ?? [] : [], selectionrevision: `${state.pickedIn === k}`,
      newselection: { line: { color: t.ink, width: 1.5 } }, xaxis: axis(t, titled(column(plot.x)), turned), yaxis: axis(t, titled(column(plot.y)), turned) }), { ...config, modeBarButtons: [["toImage"], ["zoom2d", "pan2d", "select2d", "lasso2d"], ["resetScale2d"]] });
    if (plot.wired) return;
    plot.wired = true;
    node.on("plotly_click", ({ points: hit }) => { const row = hit.find((p) => p.customdata !== undefined)?.customdata; if (row !== undefined) show(row); });
    node.on("plotly_selected", (event) => {
      if (!event) return;
      const rows = event.points.filter((p) => p.customdata !== undefined).map((p) => p.customdata);
      pick(rows.length ? new Set(rows) : null, k);
    });
    node.on("plotly_deselect", () => pick(null, -1));
  };
});
function pick(rows, from) {
  state.picked = rows;
  state.pickedIn = rows ? from : -1;
  update();
}
function drawSnr() {
  const t = theme(), arms = Object.keys(columns).filter((name) => name.startsWith("snr_"));
  const all = arms.flatMap((name) => Array.from(columns[name])).filter((v) => v > 0);
  if (!all.length) { $("snr").textContent = "The catalogue has no S/N."; return; }
  let low = Math.log10(all.reduce((a, b) => Math.min(a, b))) - 0.05, high = Math.log10(all.reduce((a, b) => Math.max(a, b))) + 0.05;
  const step = Math.max((high - low) / 40, 0.02), n = Math.ceil((high - low) / step), edges = Array.from({ length: n + 1 }, (_, i) => 10 ** (low + i * step));
  const colours = [t.blue, t.orange, t.red], round = [1, 10, 100, 1000, 10000].flatMap((v) => [v, 2 * v, 5 * v]).filter((v) => Math.log10(v) > low && Math.log10(v) < high);
  let tallest = 0;
  const traces = arms.map((name, k) => {
    const counts = new Array(n + 1).fill(0);
    for (const row of state.shown) if (columns[name][row] > 0) counts[Math.min(n - 1, Math.floor((Math.log10(columns[name][row]) - low) / step))] += 1;
    tallest = Math.max(tallest, ...counts);
    return { name: name.slice(4), x: edges, y: counts, mode: "lines", line: { shape: "hv", color: colours[k % 3], width: 1.6, dash: ["solid", "dash", "dot"][k % 3] }, fill: "tozeroy", fillcolor: faded(colours[k % 3], 0.15), hovertemplate: "S/N %{x:.3~g}: %{y}<extra>%{fullData.name}</extra>" };
  });
  Plotly.react($("snr"), traces, layout(t, { showlegend: true, legend: { orientation: "h", y: 1.15 }, dragmode: false, xaxis: axis(t, "S/N per Å", { type: "log", tickvals: round, ticktext: round.map(String) }), yaxis: axis(t, "stars", { rangemode: "tozero", tickformat: ".0~f", ...(tallest < 6 ? { dtick: 1 } : {}) }) }), { ...config, displayModeBar: false });
}
function drawPlots() { page.plots.forEach((plot) => plot.draw()); drawSnr(); }

// ---- one star ----
let current = -1, star = null, everyLabel = false;
const unpack = ({ low, step, data }) => Float32Array.from(new Uint16Array(bytes(data).buffer), (v) => (v === 65535 ? NaN : low + step * v));

function show(row) {
  current = row;
  const source = $(`star-${row}`);
  star = source ? JSON.parse(source.textContent) : {};
  $("star-name").textContent = page.ids[row];
  const set = page.meanings.filter(([bit]) => flags[row] & bit).sort((a, b) => severity[b[2]] - severity[a[2]]);
  $("star-flags").replaceChildren(...(set.length ? set.map(([, name, kind, meaning]) => make("li", {},
    make("span", { className: `mark ${kind}` }, `${{ bad: "\u2715 bad", warn: "\u25b3 warning", info: "note" }[kind]}: ${name.replaceAll("_", " ")}. `), `${meaning[0].toUpperCase()}${meaning.slice(1)}.`))
    : [make("li", {}, "No flag is set.")]));
  const lost = new Set(undetermined(row).map((name) => labels.find((c) => c.name === name)?.short ?? name));
  const notes = [textOf("message", row), lost.size ? `Not determined by the spectrum: ${[...lost].join(", ")}` : "", star.note, star.why && `No model spectrum: ${star.why}`, !source && opened.size ? "The spectrum of this star is not on this page: specinn report puts it there with --stars." : "",
    star.off?.[0] ? `Observed and model differ by ${figure(star.off[0])} % of the continuum in the mean of the pixels that the model looks at; noise alone would make ${figure(star.off[1])} %.` : "", textOf("path", row)];
  $("star-note").replaceChildren(...notes.filter(Boolean).flatMap((note) => [make("span", {}, note), make("br")]));
  const place = state.shown.indexOf(row);
  $("before").disabled = place <= 0;
  $("after").disabled = place < 0 || place >= state.shown.length - 1;
  $("with-spectrum").hidden = !star.flux;
  $("with-corner").hidden = !star.corner;
  drawValues();
  if (!$("star").open) $("star").showModal();
  $("star").scrollTop = 0;
  $("star-name").focus();
  if (star.flux) fillWindows();
  drawStar();
}
const drawStar = () => { if (star?.flux) drawSpectrum(); if (star?.corner) drawCorner(); };
function drawValues() {
  const full = star.numbers, raw = full?.some((n) => n[6] !== null);
  const head = make("tr", {}, ...["", "MAP", ...(raw ? ["raw"] : []), ...(full ? ["median", "68 %", "95 %"] : ["68 %"])].map((text) => make("th", { scope: "col" }, text)));
  const to = (a, b, d) => `${figure(a, d)} to ${figure(b, d)}`;
  const lost = (name) => undetermined(current).some((one) => name === one || name.startsWith(`${one}_`)); // of "a_li", "a_li_3dnlte", too
  const rows = page.shown.map((c) => [c, columns[c.name][current]]).filter(([c, v]) => Number.isFinite(v) || (c.label && !lost(c.name))).map(([c, value]) => {
    const d = c.decimals, n = full?.[labels.indexOf(c)];
    const limit = upper(c.name, current), map = Number.isFinite(limit) ? `< ${figure(limit, d)}` : figure(value, d);
    const cells = !c.label ? [figure(value, d)] : n ? [map, ...(raw ? [figure(n[6], d)] : []), figure(n[1], d), to(n[2], n[3], d), to(n[4], n[5], d)]
      : [map, to(columns[`${c.name}_p16`][current], columns[`${c.name}_p84`][current], d)];
    return make("tr", {}, Object.assign(html("th", named(c)), { scope: "row", title: c.about }), ...cells.map((text) => make("td", {}, text)));
  });
  $("values").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}
function fillWindows() {
  const kept = $("window").value, wave = floats(page.wavelength), groups = new Map([["Arms", page.arms.map(([name, a, b]) => [`the ${name} arm`, wave[a], wave[b - 1]])]]);
  for (const [element, name, low, high] of star.windows) groups.set(element, [...(groups.get(element) ?? []), [name, low, high]]);
  $("window").replaceChildren(make("option", { value: "" }, "whole spectrum"), ...[...groups].map(([group, all]) =>
    make("optgroup", { label: group }, ...all.map(([name, low, high]) => make("option", { value: `${low} ${high} ${name}` }, name)))));
  const name = kept.split(" ").slice(2).join(" ");
  $("window").value = [...$("window").options].find((o) => o.value && o.value.endsWith(` ${name}`) && name)?.value ?? "";
}
function drawSpectrum() {
  const t = theme(), wave = floats(page.wavelength), flux = unpack(star.flux), model = unpack(star.model), bands = star.bands.map(unpack), bits = bytes(star.used);
  const used = flux.map((v, i) => ((bits[i >> 3] >> (i & 7)) & 1 ? v : NaN));
  const off = (values) => values.map((v, i) => 100 * (v - model[i]));
  const joined = (values) => page.arms.flatMap(([, a, b]) => [...values.subarray(a, b), NaN]); // no line across the gap of two arms
  const x = joined(wave), step = (v) => ({ x, y: joined(v), mode: "lines", hoverinfo: "skip", connectgaps: false });
  const ribbon = (low, high) => { // a closed shape for each run of pixels that have a band
    const found = { x: [], y: [] };
    const starts = new Set(page.arms.map(([, a]) => a));
    for (let a = 0, b; a < low.length; a = b + 1) {
      for (b = a; b < low.length && !Number.isNaN(low[b]) && (b === a || !starts.has(b)); b++);
      if (b === a) continue;
      const [w, l, h] = [wave, low, high].map((values) => [...values.subarray(a, b)]);
      found.x.push(...w, ...w.reverse(), null);
      found.y.push(...l, ...h.reverse(), null);
      if (starts.has(b)) b -= 1;
    }
    return found;
  };
  const traces = [];
  for (const [name, of] of [["y", (v) => v], ["y2", off]]) {
    bands.slice(0, 2).forEach((low, k) => traces.push({ ...ribbon(of(low), of(bands[3 - k])), yaxis: name, mode: "lines", hoverinfo: "skip", line: { width: 0 }, fill: "toself", fillcolor: faded(t.orange, k ? 0.45 : 0.3) }));
  }
  traces.push({ ...step(flux), line: { color: t.faint, width: 1 } }, { ...step(used), line: { color: t.ink, width: 1.1 } },
    { ...step(model), line: { color: t.red, width: 1.2 }, hoverinfo: "x+y" }, { ...step(off(flux)), yaxis: "y2", line: { color: t.faint, width: 1 } }, { ...step(off(used)), yaxis: "y2", line: { color: t.ink, width: 1 } });
  const lines = star.windows.map(([element, name, low, high]) => ({ at: (low + high) / 2, name }));
  const [low, high, ...name] = $("window").value.split(" ");
  const range = low ? [Number(low), Number(high)] : [wave[0], wave[wave.length - 1]];
  const within = (values, share) => { // so that a cosmic ray does not flatten all else
    const seen = Array.from(values).filter((v, i) => wave[i] >= range[0] && wave[i] <= range[1] && Number.isFinite(v)).sort((a, b) => a - b);
    return seen.length ? [seen[Math.floor(share * (seen.length - 1))], seen[Math.ceil((1 - share) * (seen.length - 1))]] : [0, 1];
  };
  const wide = bands.length ? [bands[0], bands[3]] : [model], far = Math.max(...within(off(flux), low ? 0 : 0.005).map(Math.abs), ...(low ? wide.flatMap((v) => within(off(v), 0).map(Math.abs)) : []), 0.5);
  const reached = [...within(flux, 0.0005), ...wide.flatMap((v) => within(v, 0))], ends = [Math.min(...reached), Math.max(...reached)], room = 0.06 * (ends[1] - ends[0]);
  const shapes = low ? lines.map(({ at }) => ({ type: "line", x0: at, x1: at, yref: "paper", y0: 0, y1: 1, layer: "below", line: { color: t.faint, width: 1, dash: "dot" } })) : [];
  const annotations = low ? lines.filter(({ at }) => at > range[0] && at < range[1]).map(({ at, name }) => ({ x: at, y: 1, yref: "paper", yanchor: "bottom", text: escaped(name), showarrow: false })) : [];
  Plotly.react($("spectrum"), traces, layout(t, { shapes, annotations, dragmode: coarse.matches ? false : "zoom", uirevision: `${current} ${$("window").value}`,
    xaxis: axis(t, `wavelength in ${page.medium} (Å)`, { range, anchor: "y2", tickformat: "~r", minallowed: wave[0] - 5, maxallowed: wave[wave.length - 1] + 5 }), yaxis: axis(t, "flux / continuum", { domain: [0.34, 1], range: [ends[0] - room, ends[1] + room] }),
    yaxis2: axis(t, "residual (%)", { domain: [0, 0.28], range: [-1.1 * far, 1.1 * far], zeroline: true, zerolinecolor: t.faint }) }), config);
}
function drawCorner() {
  const c = star.corner, t = theme(), n = c.low.length, main = ["teff", "logg", "fe_h", "mg_fe", "vmic", "vbroad"].map((name) => sampled.findIndex((c) => c.name === name)).filter((k) => k >= 0);
  const chosen = everyLabel || main.length < 2 ? Array.from({ length: n }, (_, i) => i) : main, m = chosen.length, size = m * CELLS;
  $("all-labels").hidden = main.length === n || main.length < 2;
  const ones = bytes(c.ones), pairs = bytes(c.pairs), together = floats(c.together);
  const shades = (i, j, a, b) => { // of labels i > j: bin a of i, bin b of j
    const cell = ((i * (i - 1)) / 2 + j) * BINS * BINS + a * BINS + b;
    return (pairs[cell >> 2] >> (2 * (cell & 3))) & 3;
  };
  // all panels are one image: the panel in column p and row q covers p to p + 1, and m - 1 - q to m - q
  const z = Array.from({ length: size }, () => new Array(size).fill(null));
  const across = (p, b) => p + (b + 0.5) / CELLS;
  const traces = [{ type: "heatmap", z, x0: across(0, 0), dx: 1 / CELLS, y0: across(0, 0), dy: 1 / CELLS, zmin: 1, zmax: 3, showscale: false, hoverinfo: "skip", colorscale: [[0, faded(t.blue, 0.3)], [0.5, faded(t.blue, 0.65)], [1, t.blue]] }];
  const at = (v, i) => (WIDE * (v - c.low[i])) / (c.high[i] - c.low[i]);
  const shapes = [], annotations = [], ticks = [[], []], names = [[], []];
  chosen.forEach((i, q) => {
    const base = m - 1 - q, d = sampled[i].decimals;
    const marginal = Array.from(ones.subarray(i * BINS, (i + 1) * BINS), (v) => base + (0.8 * v) / 255);
    traces.push({ x: Array.from(marginal, (_, b) => across(q, b)), y: marginal, mode: "lines", line: { shape: "hvh", color: t.blue, width: 1.5 }, hoverinfo: "skip" });
    annotations.push({ x: q + 0.46, y: base + 0.93, text: sampled[i].html, showarrow: false, font: { size: m > 8 ? 10 : 13 } });
    for (const share of [0.2, 0.8]) {
      const value = c.low[i] + share * (c.high[i] - c.low[i]), text = figure(value, Math.max(d, Math.min(3, Math.ceil(-Math.log10(c.high[i] - c.low[i])) + 1)));
      ticks[0].push(q + WIDE * share); names[0].push(text);
      if (q) { ticks[1].push(base + WIDE * share); names[1].push(text); }
    }
    chosen.forEach((j, p) => {
      if (p > q) {
        const value = together[i * n + j];
        if (Number.isFinite(value)) annotations.push({ x: p + 0.46, y: base + 0.46, text: figure(value, 2), showarrow: false, font: { size: (m > 8 ? 9 : 11) + (m > 8 ? 3 : 5) * Math.abs(value), color: t.soft } });
        return;
      }
      const panel = { type: "rect", x0: p, x1: p + WIDE, y0: base, y1: base + WIDE, line: { color: t.rule, width: 1 }, layer: "below" };
      const upright = { type: "line", x0: p + at(c.best[j], j), x1: p + at(c.best[j], j), y0: base, y1: base + (p === q ? 0.8 : WIDE), line: { color: t.orange, width: 1.2 } };
      shapes.push(...(p === q ? [] : [panel]), ...(c.best[j] === null ? [] : [upright]));
      if (p === q) return;
      if (c.best[i] !== null) shapes.push({ ...upright, x0: p, x1: p + WIDE, y0: base + at(c.best[i], i), y1: base + at(c.best[i], i) });
      for (let a = 0; a < BINS; a++) for (let b = 0; b < BINS; b++) {
        const shade = i > j ? shades(i, j, a, b) : shades(j, i, b, a);
        if (shade) z[base * CELLS + a][p * CELLS + b] = shade;
      }
    });
  });
  const plain = { showgrid: false, zeroline: false, showline: false, ticks: "", fixedrange: true, range: [-0.02, m], tickfont: { size: m > 8 ? 8 : 10 } };
  Plotly.react($("corner"), traces, layout(t, { shapes, annotations, dragmode: false, margin: { l: 45, r: 5, t: 5, b: 45 }, xaxis: { ...plain, tickvals: ticks[0], ticktext: names[0], tickangle: -60 }, yaxis: { ...plain, tickvals: ticks[1], ticktext: names[1] } }), { ...config, displayModeBar: false });
}

const step = (by) => { const row = state.shown[state.shown.indexOf(current) + by]; if (row !== undefined) show(row); };
$("before").onclick = () => step(-1);
$("after").onclick = () => step(1);
$("close").onclick = () => $("star").close();
$("star").addEventListener("keydown", (event) => {
  if (event.target.closest("select, input") || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "ArrowLeft" && !$("before").disabled) step(-1);
  if (event.key === "ArrowRight" && !$("after").disabled) step(1);
});
$("star").addEventListener("close", () => { // the focus goes to the star that was looked at last
  const place = state.shown.indexOf(current);
  if (place >= 0 && (place < state.first || place >= state.first + PER_PAGE)) { state.first = place - (place % PER_PAGE); drawRows(); }
  $("table").querySelector(`tr[data-row="${current}"] button`)?.focus();
});
$("window").onchange = drawSpectrum;
const nextWindow = (by) => { const s = $("window"); s.selectedIndex = (s.selectedIndex + by + s.options.length) % s.options.length; drawSpectrum(); };
$("line-before").onclick = () => nextWindow(-1);
$("line-after").onclick = () => nextWindow(1);
$("all-labels").onclick = () => { everyLabel = !everyLabel; $("all-labels").ariaPressed = String(everyLabel); drawCorner(); };

let waiting = 0;
$("filter").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(update, page.n > 1000 ? 250 : 80); });
$("status").onchange = update;
$("reset").onclick = () => { $("filter").value = ""; $("status").value = ""; state.flag = 0; pick(null, -1); };
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.closest("input, dialog")) { event.preventDefault(); $("filter").focus(); }
});
for (const media of [dark, paper]) media.addEventListener("change", () => { drawPlots(); if ($("star").open) drawStar(); });
sort("");
update();
})();
