// All transactions: counters, rates, a timeline, a table of the last ones, and the details of the chosen one. The kernel
// sends rows as numbers, `full` once and then `delta`s; filtering, drawing, pausing and exporting happen here.

const STATES = ["pending", "running", "streaming", "done", "failed", "timed out", "cancelled", "lost"];
const NUMBERS = 9, ROW = 22, LANE = 18, BAR = 14, LANES_SHOWN = 14, LABELS = 92, AXIS = 18;
const KERNEL_SILENT = 1000;

// --- the transactions that this page knows

const makeStore = () => {
  const store = { words: [], rows: new Map(), errors: {}, lanes: new Map(), summary: null, limit: 10000 };
  store.clear = () => { store.rows = new Map(); store.lanes = new Map(); store.errors = {}; };
  // A call keeps its lane: the first of its body's that is free when it begins to run.
  const place = (row) => {
    const key = row.group = row.incoming ? "here" : row.target;
    if (!store.lanes.has(key)) store.lanes.set(key, []);
    if (row.event || (row.lane === undefined && row.state === "pending")) return;
    const lanes = store.lanes.get(key), begin = row.started + (row.waited || 0);
    if (row.lane === undefined) {
      row.lane = lanes.findIndex((lane) => lane.until <= begin);
      if (row.lane < 0) row.lane = lanes.push({ until: 0, by: 0 }) - 1;
    }
    const lane = lanes[row.lane], end = row.ended ? row.started + row.elapsed : Infinity;
    if (lane.by === row.number || end > lane.until) { lane.until = end; lane.by = row.number; }
  };
  store.take = (message, numbers) => {
    store.words.splice(message.first_word, store.words.length, ...message.words);
    Object.assign(store.errors, message.errors);
    store.summary = message.summary;
    store.limit = message.summary.limit;
    for (let i = 0; i < numbers.length; i += NUMBERS) {
      const [number, prefix, id, path, target, code, started, waited, elapsed] = numbers.subarray(i, i + NUMBERS);
      const row = store.rows.get(number) || { number };
      row.event = (code & 16) !== 0; row.incoming = (code & 8) !== 0; row.state = STATES[code & 7];
      row.id = row.event ? "" : store.words[prefix] + id; row.path = store.words[path]; row.target = store.words[target];
      row.started = started; row.waited = waited < 0 ? null : waited; row.elapsed = elapsed; row.ended = ENDED.has(row.state);
      store.rows.set(number, row);
      place(row);
    }
    if (store.rows.size > store.limit + 500) {
      let surplus = store.rows.size - store.limit;
      for (const [number, row] of store.rows) {
        if (surplus <= 0) break;
        if (!row.ended) continue;
        store.rows.delete(number); delete store.errors[number]; surplus--;
      }
    }
  };
  return store;
};
const numbersOf = (view) => {
  const raw = view instanceof ArrayBuffer ? view : view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
  return new Float64Array(raw);
};

// --- files to take away

const traceOf = (rows, errors) => {
  const events = [], bodies = new Map();
  for (const row of rows) {
    const body = row.group;
    if (!bodies.has(body)) { bodies.set(body, bodies.size + 1); events.push({ name: "process_name", ph: "M", pid: bodies.get(body), args: { name: body } }); }
    const at = { pid: bodies.get(body), tid: row.lane === undefined ? 0 : row.lane + 1, ts: Math.round(row.started * 1e6), cat: row.incoming ? "in" : "out" };
    if (row.event) { events.push({ ...at, name: row.path, ph: "i", s: "t" }); continue; }
    const waited = row.waited || 0;
    events.push({ ...at, name: row.path, ph: "X", ts: Math.round((row.started + waited) * 1e6), dur: Math.round(Math.max(0, row.elapsed - waited) * 1e6),
      args: { id: row.id, state: row.state, wait_seconds: waited, ...(errors[row.number] ? { error: errors[row.number] } : {}) } });
  }
  return JSON.stringify({ traceEvents: events, displayTimeUnit: "ms" });
};
const csvOf = (rows, errors) => {
  const quote = (value) => /[",\n]/.test(String(value)) ? `"${String(value).replace(/"/g, '""')}"` : String(value);
  const lines = [["state", "id", "direction", "path", "body", "started", "wait_seconds", "elapsed_seconds", "error"].join(",")];
  for (const row of rows) {
    lines.push([row.event ? "event" : row.state, row.id, row.incoming ? "in" : "out", row.path, row.target, new Date(row.started * 1000).toISOString(), row.waited === null ? "" : row.waited.toFixed(6), row.elapsed.toFixed(6), errors[row.number] || ""].map(quote).join(","));
  }
  return lines.join("\n") + "\n";
};
const giveFile = (name, type, text) => {
  const link = h("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  document.body.append(link); link.click(); link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};

// --- small charts

const chart = (className) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 36"); svg.setAttribute("preserveAspectRatio", "none"); svg.setAttribute("class", className); svg.setAttribute("aria-hidden", "true");
  return svg;
};
const curveOf = (values, scale) => values.map((v, i) => v < 0 ? null : `${(100 - ((values.length - 1 - i) * 100) / 59).toFixed(2)},${(34 - 32 * scale(v)).toFixed(2)}`).filter(Boolean).join(" ");

function render({ model, el }) {
  const root = h("div", { class: "epy epy-monitor", role: "group", "aria-label": "transactions" });
  prepare(root, model);
  const store = makeStore();
  const view = { paused: null, pausedAt: 0, states: new Set(), text: "", body: "", way: "", chosen: null, detail: undefined, span: 10, until: null, follow: true, shown: [], newer: 0, known: 0, busy: false };

  // Title
  const facts = h("span", { class: "epy-second" });
  const pause = button("Pause", () => {
    if (view.paused) view.paused = null; else { view.paused = [...store.rows.values()].map((row) => ({ ...row })); view.pausedAt = kernelNow(); view.pausedCount = newest(); }
    setText(pause, view.paused ? "Resume" : "Pause"); pause.setAttribute("aria-pressed", String(Boolean(view.paused))); drawing.now();
  }, { "aria-pressed": "false" });
  const clear = button("Clear", () => { view.chosen = null; view.paused = null; setText(pause, "Pause"); pause.setAttribute("aria-pressed", "false"); heed(); model.send({ kind: "clear" }); }, { title: "Forgets what has ended." });
  const exporting = h("select", { class: "epy-button epy-select epy-export", "aria-label": "Export", onchange: () => {
    const rows = view.paused || [...store.rows.values()];
    if (exporting.value === "trace") giveFile("transactions.json", "application/json", traceOf(rows, store.errors));
    if (exporting.value === "csv") giveFile("transactions.csv", "text/csv", csvOf(rows, store.errors));
    exporting.value = "";
  } }, h("option", { value: "" }, "Export"), h("option", { value: "trace" }, "Perfetto trace (JSON)"), h("option", { value: "csv" }, "Table (CSV)"));
  const title = h("div", { class: "epy-bar38" }, h("span", { class: "epy-cut" }, h("b", { class: "epy-name" }, "Transactions"), " ", facts), h("span", { class: "epy-buttons" }, pause, clear, exporting));

  // Counters
  const counters = STATES.map((state, i) => {
    const icon = glyph(state); icon.classList.add("epy-toned");
    const number = h("b", {}, "0");
    const node = h("button", { type: "button", class: "epy-counter", "data-state": state, "aria-pressed": "false", title: `Show ${state} only`, onclick: () => {
      if (view.states.has(state)) view.states.delete(state); else view.states.add(state);
      node.setAttribute("aria-pressed", String(view.states.has(state))); drawing.now();
    } }, icon, number, h("span", { class: "epy-second" }, state));
    return { node, number };
  });

  // Rates
  const rate = h("b", { class: "epy-value15" }), peak = h("span", { class: "epy-second" }), rateChart = chart("epy-chart");
  const p50 = h("span", { class: "epy-number" }), p99 = h("span", { class: "epy-number" }), latencyChart = chart("epy-chart");
  const charts = h("div", { class: "epy-charts" },
    h("div", { class: "epy-chartbox" }, h("div", {}, h("div", { class: "epy-second" }, "calls/s"), rate, " ", peak), rateChart),
    h("div", { class: "epy-chartbox" }, h("div", { class: "epy-latency" }, h("span", { class: "epy-key" }), h("span", { class: "epy-second" }, "p50"), p50, h("span", { class: "epy-key epy-dotted" }), h("span", { class: "epy-second" }, "p99"), p99), latencyChart));

  // Banner
  const bannerText = h("div", { class: "epy-bannertext" }), bannerAction = button("", () => { if (view.waits) { model.send({ kind: "cancel id", id: view.waits.cancel }); } });
  const warning = glyph("lost"); warning.classList.add("epy-warn");
  const banner = h("div", { class: "epy-banner", hidden: true, role: "status" }, warning, bannerText, bannerAction);

  // Timeline
  const range = h("span", { class: "epy-second" });
  const follow = button("Follow", () => { view.follow = true; view.until = null; drawing.now(); }, { "aria-pressed": "true" });
  const zoom = (factor) => { view.span = Math.min(600, Math.max(0.02, view.span * factor)); drawing.now(); };
  const pan = (share) => { view.until = (view.until || timeNow()) + share * view.span; view.follow = false; if (view.until >= timeNow()) { view.follow = true; view.until = null; } drawing.now(); };
  const canvas = h("canvas", { class: "epy-canvas", tabindex: "0", role: "img", "aria-label": "timeline; the table below says the same in words" });
  const timeline = h("div", { class: "epy-timeline" },
    h("div", { class: "epy-bar38" }, h("span", { class: "epy-cut" }, "Timeline ", range), h("span", { class: "epy-buttons" }, button("−", () => zoom(2), { "aria-label": "zoom out" }), button("+", () => zoom(0.5), { "aria-label": "zoom in" }), follow)), canvas);
  canvas.addEventListener("keydown", (event) => {
    const does = { ArrowLeft: () => pan(-0.25), ArrowRight: () => pan(0.25), "+": () => zoom(0.5), "-": () => zoom(2) }[event.key];
    if (does) { event.preventDefault(); does(); }
  });
  let drag = null;
  canvas.addEventListener("pointerdown", (event) => { drag = { x: event.clientX, until: view.until || timeNow(), moved: false }; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const width = canvas.clientWidth - labelWidth(), by = event.clientX - drag.x;
    if (Math.abs(by) > 3) drag.moved = true;
    if (!drag.moved) return;
    view.until = drag.until - (by / width) * view.span; view.follow = view.until >= timeNow(); if (view.follow) view.until = null;
    drawing.now();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (drag && !drag.moved) { const hit = (view.boxes || []).find((box) => event.offsetX >= box.x && event.offsetX <= box.x + box.w && event.offsetY >= box.y && event.offsetY <= box.y + BAR); if (hit) choose(hit.row.number); }
    drag = null;
  });
  canvas.addEventListener("wheel", (event) => { if (event.ctrlKey || event.metaKey) { event.preventDefault(); zoom(event.deltaY > 0 ? 1.25 : 0.8); } }, { passive: false });

  // Filters
  const text = h("input", { class: "epy-input", type: "search", placeholder: "Filter path, id or error", "aria-label": "Filter path, id or error", oninput: () => { view.text = text.value.toLowerCase(); drawing.now(); } });
  const body = h("select", { class: "epy-button epy-select", "aria-label": "body", onchange: () => { view.body = body.value; drawing.now(); } }, h("option", { value: "" }, "all bodies"));
  const way = h("select", { class: "epy-button epy-select", "aria-label": "direction", onchange: () => { view.way = way.value; drawing.now(); } }, h("option", { value: "" }, "both ways"), h("option", { value: "out" }, "made here →"), h("option", { value: "in" }, "answered here ←"));
  const total = h("span", { class: "epy-second epy-total" });
  const filters = h("div", { class: "epy-filters" }, text, body, way, total);
  const clearFilters = () => { view.states.clear(); counters.forEach(({ node }) => node.setAttribute("aria-pressed", "false")); text.value = view.text = ""; body.value = view.body = ""; way.value = view.way = ""; drawing.now(); };

  // Table
  const spacer = h("div", { class: "epy-spacer" });
  const newerButton = button("", () => { scroller.scrollTop = 0; drawing.now(); }, { class: "epy-button epy-newer", hidden: true });
  const scroller = h("div", { class: "epy-scroller", tabindex: "0", role: "grid", "aria-label": "transactions, the newest first", onscroll: () => drawing.now() }, spacer);
  const empty = h("div", { class: "epy-empty epy-second" });
  const names = h("div", { class: "epy-trow epy-thead epy-second", "aria-hidden": "true" }, ...["state", "id", "", "path", "body", "started ↓", "wait", "run"].map((name, i) => h("span", { class: i > 4 ? "epy-number" : "" }, name)));
  const detail = h("div", { class: "epy-side", hidden: true, role: "region", "aria-label": "details" });
  const tableBox = h("div", { class: "epy-tablebox" }, h("div", { class: "epy-table" }, names, scroller, newerButton, empty), detail);
  scroller.addEventListener("keydown", (event) => {
    const at = view.shown.findIndex((row) => row.number === view.chosen), last = view.shown.length - 1;
    const to = { ArrowDown: Math.min(last, at + 1), ArrowUp: Math.max(0, at - 1), Home: 0, End: last, PageDown: Math.min(last, at + 10), PageUp: Math.max(0, at - 10) }[event.key];
    if (to !== undefined && last >= 0) {
      event.preventDefault();
      choose(view.shown[to].number);
      const top = to * ROW;
      if (top < scroller.scrollTop) scroller.scrollTop = top;
      if (top + ROW > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = top + ROW - scroller.clientHeight;
    } else if (event.key === "Escape") choose(null);
  });
  root.addEventListener("keydown", (event) => {
    if (event.key === "/" && event.target !== text) { event.preventDefault(); text.focus(); }
    if (event.key === "Escape" && event.target === text) scroller.focus();
    if (event.key === "Enter" && event.target === scroller && view.chosen !== null) detail.querySelector("button")?.focus();
  });
  root.append(title, h("div", { class: "epy-counters" }, ...counters.map(({ node }) => node)), charts, banner, timeline, filters, tableBox);
  el.append(root);

  // What is shown now
  const timeNow = () => view.paused ? view.pausedAt : kernelNow();
  const newest = () => { let last = 0; for (const number of store.rows.keys()) last = number; return last; };
  const rowsNow = () => view.paused || [...store.rows.values()];
  const labelWidth = () => root.clientWidth <= 560 ? 70 : LABELS;
  const matches = (row) => !row.event && (!view.states.size || view.states.has(row.state)) && (!view.body || row.target === view.body) && (!view.way || (view.way === "in") === row.incoming)
    && (!view.text || row.path.toLowerCase().includes(view.text) || row.id.toLowerCase().includes(view.text) || (store.errors[row.number] || "").toLowerCase().includes(view.text));
  let heedTimer = 0;
  const heed = () => { clearTimeout(heedTimer); heedTimer = setTimeout(() => { view.busy = true; drawing.now(); }, KERNEL_SILENT); };
  const heardBack = () => { clearTimeout(heedTimer); view.busy = false; };
  const choose = (number) => {
    view.chosen = number; view.detail = undefined;
    if (number !== null) { heed(); model.send({ kind: "look", number }); }
    drawing.now();
  };

  // Colours as the canvas takes them: the page mixes, a hidden element tells the outcome.
  const probe = h("span", { hidden: true }); root.append(probe);
  let palette = null, paletteAt = 0;
  const colours = () => {
    if (palette && Date.now() - paletteAt < 1000) return palette;
    palette = {}; paletteAt = Date.now();
    for (const name of ["brand", "done-fill", "warn-fill", "lost-fill", "bad-fill", "bad", "warn", "ink", "ink2", "hair", "page", "full"]) { probe.style.color = `var(--epy-${name})`; palette[name] = getComputedStyle(probe).color; }
    palette.font = `12px ${getComputedStyle(root).getPropertyValue("--epy-code")}`;
    palette.contrast = matchMedia("(forced-colors: active)").matches;
    return palette;
  };

  const drawTimeline = (rows) => {
    const until = view.until || timeNow(), from = until - view.span, label = labelWidth();
    const groups = [...store.lanes.keys()].sort((a, b) => (a === "here") - (b === "here") || a.localeCompare(b));
    const seen = rows.filter((row) => row.started < until && (row.ended ? row.started + row.elapsed : Infinity) > from && (row.event || matches(row)));
    const lines = [], index = new Map();
    for (const group of groups) {
      const used = new Set(seen.filter((row) => row.group === group && row.lane !== undefined).map((row) => row.lane));
      const hasEvents = seen.some((row) => row.group === group && row.event);
      if (!used.size && !hasEvents) continue;
      for (const lane of [...used].sort((a, b) => a - b)) { if (lines.length < LANES_SHOWN) { index.set(`${group} ${lane}`, lines.length); lines.push({ label: used.size > 1 || group !== "here" ? `${group}·${lane + 1}` : group }); } }
      if (hasEvents && lines.length <= LANES_SHOWN) { index.set(`${group} events`, lines.length); lines.push({ label: "events", small: true }); }
    }
    const width = canvas.clientWidth, height = AXIS + Math.max(2, lines.length) * LANE + 4, ratio = devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) { canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio); canvas.style.height = `${height}px`; }
    const c = canvas.getContext("2d"), p = colours();
    c.setTransform(ratio, 0, 0, ratio, 0, 0); c.clearRect(0, 0, width, height); c.font = p.font; c.textBaseline = "middle";
    const room = width - label - 8, x = (moment) => label + ((moment - from) / view.span) * room;
    const step = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120].find((s) => (s / view.span) * room >= 64) || 300;
    c.fillStyle = p.ink2; c.strokeStyle = p.hair; c.lineWidth = 1;
    for (let k = Math.ceil(from / step); k * step < until; k++) {
      const at = Math.round(x(k * step)) + 0.5;
      c.beginPath(); c.moveTo(at, AXIS); c.lineTo(at, height); c.stroke();
      const words = step >= 1 ? clock(k * step, 0) : clock(k * step, 3);
      if (at + c.measureText(words).width < width) c.fillText(words, at + 3, AXIS / 2);
    }
    lines.forEach((line, i) => { c.fillStyle = p.ink2; c.textAlign = "right"; c.fillText(line.label, label - 8, AXIS + i * LANE + LANE / 2, label - 10); c.textAlign = "left"; });
    c.save(); c.beginPath(); c.rect(label, AXIS, room + 8, height); c.clip();
    view.boxes = [];
    const drawn = [];
    for (const row of seen) {
      if (row.event) {
        const line = index.get(`${row.group} events`);
        if (line !== undefined) { c.fillStyle = p.ink2; c.fillRect(x(row.started), AXIS + line * LANE + 4, 1, 10); }
        continue;
      }
      const line = row.lane === undefined ? undefined : index.get(`${row.group} ${row.lane}`);
      if (line === undefined) continue;
      const begin = row.started + (row.waited || 0), end = row.ended ? row.started + row.elapsed : timeNow();
      const left = Math.max(label - 4, x(begin)), w = Math.max(1.5, Math.min(x(end), width + 4) - left - 0.5), y = AXIS + line * LANE + 2;
      let ink = p.ink;
      if (row.state === "done" && w <= 2 && row.number !== view.chosen) { // ten thousand of these: one a pixel will do
        const pixel = Math.round(left);
        if (drawn[line] !== pixel) { drawn[line] = pixel; c.fillStyle = p["done-fill"]; c.fillRect(left, y, w, BAR); view.boxes.push({ x: left, y, w, row }); }
        continue;
      }
      if (row.state === "failed") { c.fillStyle = p["bad-fill"]; ink = p.page; } else if (row.state === "timed out") c.fillStyle = p["warn-fill"];
      else if (row.state === "lost") c.fillStyle = p["lost-fill"]; else if (row.state === "cancelled" || row.state === "pending") c.fillStyle = p.page;
      else if (row.ended) c.fillStyle = p["done-fill"]; else { c.fillStyle = p.brand; ink = p.page; }
      c.beginPath(); c.roundRect(left, y, w, BAR, Math.min(2, w / 2)); c.fill();
      c.setLineDash(row.state === "cancelled" || row.state === "pending" ? [3, 2] : []);
      const edge = { "timed out": p.warn, lost: p.bad, cancelled: p.ink2, pending: p.ink2 }[row.state] || (p.contrast ? p.full : null);
      if (edge && w > 3) { c.strokeStyle = edge; c.stroke(); }
      c.setLineDash([]);
      if (row.state === "timed out" && w > 12) { // a hatched tail
        c.save(); c.clip(); c.strokeStyle = p.warn; c.beginPath();
        for (let d = 0; d < 18; d += 4) { c.moveTo(left + w - 18 + d, y + BAR); c.lineTo(left + w - 11 + d, y); }
        c.stroke(); c.restore();
      }
      if (row.number === view.chosen) {
        c.strokeStyle = p.full; c.lineWidth = 2; c.beginPath(); c.roundRect(left - 1, y - 1, w + 2, BAR + 2, 3); c.stroke(); c.lineWidth = 1;
        if (row.waited) { c.strokeStyle = p.ink2; c.beginPath(); c.moveTo(x(row.started), y + BAR / 2); c.lineTo(left, y + BAR / 2); c.moveTo(x(row.started), y + 4); c.lineTo(x(row.started), y + BAR - 4); c.stroke(); }
      }
      const sign = { failed: "×", lost: "△", cancelled: "⊘" }[row.state], words = sign ? `${sign} ${row.path}` : row.path;
      if (w > 20 && w > c.measureText(words).width + 8) { c.fillStyle = ink; c.fillText(words, Math.max(label, left) + 4, y + BAR / 2 + 0.5); } else if (sign && w > 12) { c.fillStyle = ink; c.fillText(sign, left + 3, y + BAR / 2 + 0.5); }
      view.boxes.push({ x: left, y, w, row });
    }
    c.restore();
    setText(range, `· ${view.follow ? "last" : ""} ${view.span >= 1 ? `${Math.round(view.span)} s` : `${Math.round(view.span * 1000)} ms`}${view.follow ? "" : ` until ${clock(until, 0)}`} · one lane per call at a time`);
    setAttribute(follow, "aria-pressed", String(view.follow));
    timeline.hidden = !rows.length;
  };

  const pool = [];
  const drawTable = (rows) => {
    const shown = rows.filter(matches).reverse();
    if (scroller.scrollTop > 0 && view.shown.length && shown.length && shown[0].number !== view.shown[0].number) {
      const first = view.shown[0].number; // still while scrolled: what one reads does not move
      let added = shown.findIndex((row) => row.number === first);
      if (added < 0) added = 0;
      view.newer += added; spacer.style.height = `${shown.length * ROW}px`; scroller.scrollTop += added * ROW;
    }
    if (scroller.scrollTop === 0) view.newer = 0;
    view.shown = shown;
    spacer.style.height = `${shown.length * ROW}px`;
    newerButton.hidden = !view.newer; setText(newerButton, `${thousands(view.newer)} newer ↑`);
    const first = Math.max(0, Math.floor(scroller.scrollTop / ROW) - 2), many = Math.ceil(scroller.clientHeight / ROW) + 4;
    setAttribute(scroller, "aria-rowcount", shown.length);
    while (pool.length < many) {
      const icon = glyph("pending"); icon.classList.add("epy-toned");
      const cells = [h("span", { class: "epy-tstate" }, icon, h("span", { class: "epy-state" })), ...["epy-second", "epy-second", "epy-mono epy-cut", "epy-cut", "epy-number epy-second", "epy-number epy-second", "epy-number"].map((name) => h("span", { class: name, role: "gridcell" }))];
      const node = h("div", { class: "epy-trow epy-item", role: "row", onclick: () => choose(node.number) }, ...cells);
      spacer.append(node); pool.push({ node, cells, icon });
    }
    pool.forEach(({ node, cells, icon }, i) => {
      const row = shown[first + i];
      node.hidden = !row || i >= many;
      if (node.hidden) return;
      node.number = row.number;
      node.style.transform = `translateY(${(first + i) * ROW}px)`;
      setAttribute(node, "aria-rowindex", first + i + 1); setAttribute(node, "aria-selected", String(row.number === view.chosen)); setAttribute(node, "data-state", row.state);
      setGlyph(icon, row.state); setText(cells[0].lastChild, row.state); setText(cells[1], row.id); setText(cells[2], row.incoming ? "←" : "→"); setText(cells[3], row.path); setText(cells[4], row.target); setText(cells[5], clock(row.started));
      const age = timeNow() - row.started;
      setText(cells[6], row.waited !== null ? seconds(row.waited) : row.state === "pending" ? ticking(age) : "");
      setText(cells[7], row.ended ? seconds(row.elapsed - (row.waited || 0)) : row.state === "pending" ? "" : ticking(age - (row.waited || 0)));
    });
    const any = rows.some((row) => !row.event);
    empty.hidden = shown.length > 0; scroller.hidden = names.hidden = !shown.length;
    if (!shown.length) {
      const key = any ? "filtered" : "none";
      if (empty.dataset.key !== key) { empty.dataset.key = key; empty.replaceChildren(...(any ? ["Nothing matches. ", button("Clear filters", clearFilters, { class: "epy-button epy-link" })] : ["No transactions yet. Try ", h("code", {}, "worker.call.maths.scale(4)"), "."])); }
    }
    const from = Math.min(shown.length, Math.floor(scroller.scrollTop / ROW) + 1), to = Math.min(shown.length, from + Math.floor(scroller.clientHeight / ROW) - 1);
    setText(total, shown.length ? `${thousands(from)}–${thousands(to)} of ${thousands(shown.length)}${store.summary && store.summary.dropped ? ` · ${thousands(store.summary.dropped)} older dropped` : ""}` : "");
  };

  let sideKey = null;
  const drawDetail = (rows) => {
    const row = view.chosen === null ? null : rows.find((row) => row.number === view.chosen);
    detail.hidden = !row; tableBox.classList.toggle("epy-split", Boolean(row));
    if (!row) { sideKey = null; return; }
    const key = [row.number, row.state, view.detail, view.busy].map((part) => typeof part === "object" ? part && part.stamp : part).join("|");
    if (key === sideKey) return;
    sideKey = key;
    const icon = glyph(row.state); icon.classList.add("epy-toned");
    const parts = [h("div", { class: "epy-sidehead", "data-state": row.state }, icon, h("span", { class: "epy-state" }, row.state), h("code", { class: "epy-cut" }, row.path), h("span", { class: "epy-second" }, row.id))];
    const add = (...children) => parts.push(h("div", { class: "epy-sidepart" }, ...children));
    const known = view.detail;
    const message = known && known.error ? known.error.message : store.errors[row.number];
    if (message) add(h("div", { class: "epy-mono epy-bad epy-message" }, message));
    if (known && known.args && known.args.length) add(...known.args.map(([name, text]) => h("div", { class: "epy-cut epy-mono", title: text }, name ? h("span", { class: "epy-second" }, `${name}  `) : "", text)));
    if (known && known.outputs.length) { const pre = h("pre", { class: "epy-output", tabindex: "0" }); pre.append(ansi(settleLines(known.outputs.filter((output) => output.text).map((output) => output.text).join("").split("\n").slice(-8).join("\n")))); add(pre); }
    if (known && known.result) add(h("div", { class: "epy-mono epy-cut" }, "→ ", known.result.caption || known.result.data["text/plain"] || ""));
    const spent = row.ended ? row.elapsed : null, waited = row.waited;
    if (spent !== null) {
      const bar = h("div", { class: "epy-waitrun", "aria-hidden": "true" }, h("i"), h("i", { class: row.state === "failed" || row.state === "lost" ? "epy-isbad" : "" }));
      bar.firstChild.style.flexGrow = String((1000 * (waited || 0)) / (spent || 1)); bar.lastChild.style.flexGrow = String(Math.max(1, 1000 - (1000 * (waited || 0)) / (spent || 1)));
      add(bar, h("div", { class: "epy-times" }, ...[["wait", waited], ["run", spent - (waited || 0)]].filter(([, s]) => s !== null).map(([name, s]) => h("span", {}, h("span", { class: "epy-second" }, `${name} `), seconds(s)))));
    }
    if (view.busy) add(h("span", { class: "epy-warn" }, "the notebook is busy: press ■ to interrupt the cell"));
    else if (known === null) add(h("span", { class: "epy-second" }, row.incoming ? "It was answered here; what it got and gave is not kept." : "Its result has been let go, so there is no more to tell."));
    const buttons = [];
    if (!row.ended && !row.incoming) buttons.push(button("Cancel", () => { heed(); model.send({ kind: "cancel", number: row.number }); }));
    if (known && known.can_retry) buttons.push(button("Retry", () => model.send({ kind: "retry", number: row.number })));
    buttons.push(button("Only this path", () => { text.value = row.path; view.text = row.path.toLowerCase(); drawing.now(); }), button("Close", () => { choose(null); scroller.focus(); }, { class: "epy-button epy-link" }));
    add(h("div", { class: "epy-tools" }, ...buttons));
    detail.replaceChildren(...parts);
  };

  const drawSummary = () => {
    const summary = store.summary || model.get("summary");
    if (!summary || !summary.counts) return;
    summary.counts.forEach((n, i) => { setText(counters[i].number, thousands(n)); setAttribute(counters[i].node, "aria-label", `${thousands(n)} ${STATES[i]}`); });
    const behind = view.paused ? ` · paused · ${thousands(newest() - view.pausedCount)} new` : "";
    setText(facts, `${store.lanes.size ? `${count([...store.lanes.keys()].filter((name) => name !== "here").length, "body", "bodies")} · ` : ""}since ${clock(summary.since, 0).slice(0, 5)}${behind}`);
    const rates = summary.rates, per = rates.map((r) => r[0]), mids = rates.map((r) => r[1]), tails = rates.map((r) => r[2]);
    const most = Math.max(1, ...per), latest = per.length ? per[per.length - 1] : 0;
    setText(rate, thousands(latest)); setText(peak, per.length ? `peak ${thousands(Math.max(...per))}` : "");
    const line = curveOf(per, (v) => v / most);
    rateChart.innerHTML = per.length > 1 ? `<polygon class="epy-area" points="${(100 - ((per.length - 1) * 100) / 59).toFixed(2)},36 ${line} 100,36"/><polyline class="epy-curve" points="${line}"/>` : "";
    const valid = [...mids, ...tails].filter((v) => v > 0), low = Math.log(Math.min(...valid, 1e-3)), high = Math.log(Math.max(...valid, 1e-2)), log = (v) => (Math.log(Math.max(v, 1e-6)) - low) / (high - low);
    latencyChart.innerHTML = valid.length > 1 ? `<polyline class="epy-curve" points="${curveOf(mids, log)}"/><polyline class="epy-curve epy-tail" points="${curveOf(tails, log)}"/>` : "";
    const lastOf = (values) => { for (let i = values.length - 1; i >= 0; i--) if (values[i] >= 0) return seconds(values[i]); return ""; };
    setText(p50, lastOf(mids)); setText(p99, lastOf(tails));
    const targets = [...new Set([...store.rows.values()].map((row) => row.target))].sort();
    if (body.options.length - 1 !== targets.length) body.replaceChildren(h("option", { value: "" }, "all bodies"), ...targets.map((name) => h("option", { value: name, selected: name === view.body }, name)));
  };
  const drawBanner = () => {
    banner.hidden = !view.waits;
    if (!view.waits) return;
    const key = JSON.stringify(view.waits);
    if (banner.key === key) return;
    banner.key = key;
    banner.classList.toggle("epy-deadlock", Boolean(view.waits.deadlock));
    bannerText.replaceChildren(h("b", {}, view.waits.title), h("span", { class: "epy-second" }, ` for ${ticking(view.waits.seconds)}`), h("div", { class: "epy-mono" }, view.waits.chain));
    bannerAction.hidden = !view.waits.cancel; setText(bannerAction, `Cancel ${view.waits.cancel}`);
  };

  const draw = () => {
    const began = performance.now(), rows = rowsNow();
    drawSummary(); drawBanner(); drawTimeline(rows); drawTable(rows); drawDetail(rows);
    view.frames = view.frames || [];
    view.frames.push(performance.now() - began); if (view.frames.length > 500) view.frames.shift();
    root.dataset.rows = String(rows.length);
  };
  root.frameTimes = () => view.frames; // milliseconds that drawings took, for whoever measures
  const drawing = drawer(root, draw);
  const heard = (message, buffers) => {
    if (message.now) heardClock(message.now);
    if (message.kind === "full") { store.clear(); store.words = []; heardBack(); view.greeted = true; }
    if (message.kind === "full" || (message.kind === "delta" && view.greeted)) store.take(message, numbersOf(buffers[0]));
    else if (message.kind === "detail" && message.number === view.chosen) { heardBack(); view.detail = message.detail ? { ...message.detail, can_retry: message.can_retry, stamp: Math.random() } : null; }
    else if (message.kind === "waits") view.waits = message.waits;
    if (!view.paused || message.kind === "detail") drawing.now(); else drawSummary();
  };
  const first = () => { if (!view.greeted) drawSummary(); };
  model.on("msg:custom", heard);
  model.on("change:summary", first);
  const size = new ResizeObserver(() => drawing.now()); size.observe(root);
  const ticker = setInterval(() => { if (!view.paused && view.follow) drawing.now(); }, 1000);
  draw();
  model.send({ kind: "hello" });
  return () => { clearInterval(ticker); clearTimeout(heedTimer); size.disconnect(); drawing.end(); model.off("msg:custom", heard); model.off("change:summary", first); };
}
export default { render };
