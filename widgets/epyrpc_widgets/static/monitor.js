// All transactions: counters, rates, a timeline, a table of the last ones, and the details of the chosen one. Filtering,
// drawing, pausing and exporting happen here; see store.js for what comes from the kernel.

const ROW = 22;

// --- small charts

const chart = (className) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 36"); svg.setAttribute("preserveAspectRatio", "none"); svg.setAttribute("class", className); svg.setAttribute("aria-hidden", "true");
  return svg;
};
const curveOf = (values, scale) => values.map((v, i) => v < 0 ? null : `${(100 - ((values.length - 1 - i) * 100) / 59).toFixed(2)},${(34 - 32 * scale(v)).toFixed(2)}`).filter(Boolean).join(" ");

function render({ model, el }) {
  const root = h("div", { class: "epy epy-monitor", role: "group", "aria-label": "transactions" });
  const leave = prepare(root, model, () => {
    const s = store.summary || model.get("summary");
    return staticTable(STATES.map((state) => state[0].toUpperCase() + state.slice(1)).concat("p50", "p99"), [[...s.counts.map(thousands), p50.textContent, p99.textContent]]);
  });
  const store = makeStore();
  const view = { paused: null, pausedAt: 0, states: new Set(), text: "", body: "", way: "", chosen: null, detail: undefined, shown: [], newer: 0, known: 0, busy: false, found: { text: "", numbers: new Set() }, asking: 0 };

  // Title
  const facts = h("span", { class: "epy-second epy-since" });
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
  const bannerShow = button("Show", () => {
    const shown = rowsNow().find((row) => row.id === view.waits.show);
    if (shown) { clearFilters(); choose(shown.number); timeline.show(shown); }
  });
  const warning = glyph("lost"); warning.classList.add("epy-warn");
  const banner = h("div", { class: "epy-banner", hidden: true, role: "status" }, warning, bannerText, h("span", { class: "epy-buttons" }, bannerShow, bannerAction));

  // Timeline
  const timeline = timelineOf({ now: () => timeNow(), matches: (row) => matches(row), choose: (number) => choose(number), redraw: () => drawing.now(), speak: (text) => setText(spoken, text), root });
  // Filters
  const text = h("input", { class: "epy-input", type: "search", placeholder: "Filter path, argument or error", "aria-label": "Filter path, id, argument or error", title: "Finds paths, ids and errors; arguments too, of calls that submit made and that somebody still holds", oninput: () => search(text.value) });
  const body = h("select", { class: "epy-button epy-select", "aria-label": "body", onchange: () => { view.body = body.value; drawing.now(); } }, h("option", { value: "" }, "all bodies"));
  const way = h("select", { class: "epy-button epy-select", "aria-label": "direction", onchange: () => { view.way = way.value; drawing.now(); } }, h("option", { value: "" }, "both ways"), h("option", { value: "out" }, "made here →"), h("option", { value: "in" }, "answered here ←"));
  const total = h("span", { class: "epy-second epy-total" });
  const filters = h("div", { class: "epy-filters" }, text, body, way, total);
  // Arguments stay in the kernel, so it is asked which calls have the text in theirs; again, as long as calls come.
  const search = (value) => { view.text = value.toLowerCase(); askSoon(250); drawing.now(); };
  const askSoon = (delay) => {
    if (!view.text || view.asking) return;
    view.asking = setTimeout(() => { view.asking = 0; if (view.text) model.send({ kind: "find", text: view.text }); }, delay);
  };
  const clearFilters = () => { view.states.clear(); counters.forEach(({ node }) => node.setAttribute("aria-pressed", "false")); text.value = view.text = ""; body.value = view.body = ""; way.value = view.way = ""; drawing.now(); };

  // Table
  const spacer = h("div", { class: "epy-spacer" });
  const newerButton = button("", () => { scroller.scrollTop = 0; drawing.now(); }, { class: "epy-button epy-newer", hidden: true });
  const scroller = h("div", { class: "epy-scroller", tabindex: "0", role: "grid", "aria-label": "transactions, the newest first", onscroll: () => drawing.now() }, spacer);
  const empty = h("div", { class: "epy-empty epy-second" });
  const names = h("div", { class: "epy-trow epy-thead epy-second", "aria-hidden": "true" }, ...["state", "id", "", "path", "body", "started ↓", "wait", "run", "size"].map((name, i) => h("span", { class: i > 4 ? "epy-number" : "" }, name)));
  const detail = h("div", { class: "epy-side", hidden: true, role: "region", "aria-label": "details" });
  const spoken = h("div", { class: "epy-hidden", "aria-live": "polite" });
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
    if (event.key === "Enter" && event.target === scroller && view.chosen !== null) detail.querySelector(".epy-tools button")?.focus();
  });
  root.append(title, h("div", { class: "epy-counters" }, ...counters.map(({ node }) => node)), charts, banner, timeline.node, filters, tableBox, spoken);
  el.append(root);

  // What is shown now
  const timeNow = () => view.paused ? view.pausedAt : kernelNow();
  const newest = () => { let last = 0; for (const number of store.rows.keys()) last = number; return last; };
  const rowsNow = () => view.paused || [...store.rows.values()];
  const matches = (row) => !row.event && (!view.states.size || view.states.has(row.state)) && (!view.body || row.target === view.body) && (!view.way || (view.way === "in") === row.incoming)
    && (!view.text || row.path.toLowerCase().includes(view.text) || row.id.toLowerCase().includes(view.text) || (store.errors[row.number] || "").toLowerCase().includes(view.text) || (view.found.text === view.text && view.found.numbers.has(row.number)));
  let heedTimer = 0;
  const heed = () => { clearTimeout(heedTimer); clearTimeout(view.asking); heedTimer = setTimeout(() => { view.busy = true; drawing.now(); }, KERNEL_SILENT); };
  const heardBack = () => { clearTimeout(heedTimer); clearTimeout(view.asking); view.busy = false; };
  const choose = (number) => {
    view.chosen = number; view.detail = undefined;
    if (number !== null) { heed(); model.send({ kind: "look", number }); }
    drawing.now();
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
      const cells = [h("span", { class: "epy-tstate" }, icon, h("span", { class: "epy-state" })), ...["epy-second", "epy-second", "epy-mono epy-cut", "epy-cut", "epy-number epy-second", "epy-number epy-second", "epy-number", "epy-number epy-second"].map((name) => h("span", { class: name, role: "gridcell" }))];
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
      setText(cells[8], row.size ? bytes(row.size) : "");
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
    const key = [row.number, row.state, view.detail, view.busy, view.traceback].map((part) => String(part && part.stamp || part)).join("|");
    if (key === sideKey) return;
    sideKey = key;
    const icon = glyph(row.state); icon.classList.add("epy-toned");
    const parts = [h("div", { class: "epy-sidehead", "data-state": row.state }, icon, h("span", { class: "epy-state" }, row.state), h("code", { class: "epy-cut" }, row.path), h("span", { class: "epy-second" }, row.id),
      button("×", () => { choose(null); scroller.focus(); }, { class: "epy-button epy-link", "aria-label": "Close", title: "Close (Esc)" }))];
    const add = (...children) => parts.push(h("div", { class: "epy-sidepart" }, ...children));
    const known = view.detail;
    const message = known && known.error ? known.error.message : store.errors[row.number];
    if (message) add(h("div", { class: "epy-mono epy-bad epy-message" }, message));
    if (known && known.args && known.args.length) add(h("div", { class: "epy-sideargs epy-mono" }, ...known.args.flatMap(([name, text]) => [h("span", { class: "epy-second epy-cut" }, name), h("span", { class: "epy-cut", title: text }, text)])));
    if (known && known.outputs.length) { const pre = h("pre", { class: "epy-output", tabindex: "0" }); pre.append(ansi(settleLines(known.outputs.filter((output) => output.text).map((output) => output.text).join("").split("\n").slice(-8).join("\n")))); add(pre); }
    if (known && known.result) add(h("div", { class: "epy-mono epy-cut" }, "→ ", known.result.caption || known.result.data["text/plain"] || ""));
    const spent = row.ended ? row.elapsed : null, waited = row.waited, facts = known && known.facts ? h("div", { class: "epy-second epy-facts" }, known.facts) : "";
    if (known && view.traceback && known.error && known.error.text) { const pre = h("pre", { class: "epy-output", tabindex: "0" }); pre.append(ansi(known.error.drawn || known.error.text)); add(pre); }
    if (spent !== null) {
      const bar = h("div", { class: "epy-waitrun", "aria-hidden": "true" }, h("i"), h("i", { class: row.state === "failed" || row.state === "lost" ? "epy-isbad" : "" }));
      bar.firstChild.style.flexGrow = String((1000 * (waited || 0)) / (spent || 1)); bar.lastChild.style.flexGrow = String(Math.max(1, 1000 - (1000 * (waited || 0)) / (spent || 1)));
      add(bar, h("div", { class: "epy-times" }, ...(known && known.timings.length > 1 ? known.timings : [["wait", waited], ["run", spent - (waited || 0)]]).filter(([, s]) => s !== null).map(([name, s]) => h("span", {}, h("span", { class: "epy-second" }, `${name} `), seconds(s)))), facts);
    } else if (facts) add(facts);
    if (view.busy) add(h("span", { class: "epy-warn" }, "the notebook is busy: press ■ to interrupt the cell"));
    else if (known === null) add(h("span", { class: "epy-second" }, row.incoming ? "It was answered here; what it got and gave is not kept." : "Its result has been let go, so there is no more to tell."));
    const buttons = [];
    if (known && known.error && known.error.text) buttons.push(button("Traceback", () => { view.traceback = !view.traceback; drawing.now(); }, { "aria-pressed": String(Boolean(view.traceback)) }));
    if (!row.ended && !row.incoming) buttons.push(button("Cancel", () => { heed(); model.send({ kind: "cancel", number: row.number }); }));
    if (known && known.can_retry) buttons.push(button("Retry", () => model.send({ kind: "retry", number: row.number })));
    buttons.push(button("Only this path", () => { text.value = row.path; search(row.path); }));
    add(h("div", { class: "epy-tools" }, ...buttons));
    detail.replaceChildren(...parts);
  };

  // Bodies whose names differ in their number only are those of a pool.
  const whose = () => {
    const names = [...store.lanes.keys()].filter((name) => name !== "here"), stems = new Map();
    for (const name of names) stems.set(stemOf(name), (stems.get(stemOf(name)) || 0) + 1);
    const pools = [...stems].filter(([stem, many]) => many > 1 || !names.includes(stem)).length, bodies = stems.size - pools;
    const parts = [bodies ? count(bodies, "body", "bodies") : "", pools ? (pools === 1 ? "a pool" : `${pools} pools`) : ""].filter(Boolean);
    return parts.length ? `${parts.join(" and ")} · ` : "";
  };
  const drawSummary = () => {
    const summary = store.summary || model.get("summary");
    if (!summary || !summary.counts) return;
    summary.counts.forEach((n, i) => { setText(counters[i].number, thousands(n)); setAttribute(counters[i].node, "aria-label", `${thousands(n)} ${STATES[i]}`); });
    const behind = view.paused ? ` · paused · ${thousands(newest() - view.pausedCount)} new` : "";
    setText(facts, `${whose()}since ${clock(summary.since - skew.seconds, 0).slice(0, 5)}${behind}`);
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
    bannerText.replaceChildren(h("b", {}, view.waits.title), h("span", { class: "epy-second" }, ` for ${ticking(view.waits.seconds)}`), h("div", {}, ...view.waits.chain.split(" → ").flatMap((link, i) => {
      const [id, path, ...where] = link.split(" ");
      return [i ? h("span", { class: "epy-second" }, " → ") : "", h("code", {}, `${id} ${path}`), h("span", { class: "epy-second" }, ` ${where.join(" ")}`)];
    })));
    bannerShow.hidden = !view.waits.show; bannerAction.hidden = !view.waits.cancel; setText(bannerAction, `Cancel ${view.waits.cancel}`);
  };

  const draw = () => {
    const began = performance.now(), rows = rowsNow();
    drawSummary(); drawBanner(); timeline.draw(rows, store.lanes, view.chosen); drawTable(rows); drawDetail(rows);
    view.frames = view.frames || [];
    view.frames.push(performance.now() - began); if (view.frames.length > 500) view.frames.shift();
    root.dataset.rows = String(rows.length);
  };
  root.timeline = timeline.window; // what its window is
  root.frameTimes = () => view.frames; // milliseconds that drawings took, for whoever measures
  const drawing = drawer(root, draw);
  const heard = (message, buffers) => {
    if (message.now) heardClock(message.now);
    if (message.kind === "full") { store.clear(); store.words = []; heardBack(); view.greeted = true; }
    if (message.kind === "full" || (message.kind === "delta" && view.greeted)) { store.take(message, numbersOf(buffers[0])); view.waits = message.waits; askSoon(1000); }
    else if (message.kind === "found") view.found = { text: message.text, numbers: new Set(message.numbers) };
    else if (message.kind === "detail" && message.number === view.chosen) { heardBack(); view.detail = message.detail ? { ...message.detail, can_retry: message.can_retry, stamp: Math.random() } : null; }
    if (!view.paused || message.kind === "detail") drawing.now(); else drawSummary();
  };
  const first = () => { if (!view.greeted) drawSummary(); };
  model.on("msg:custom", heard);
  model.on("change:summary", first);
  const size = new ResizeObserver(() => drawing.now()); size.observe(root);
  const ticker = setInterval(() => { if (!view.paused && timeline.follows()) drawing.now(); }, 1000);
  draw();
  model.send({ kind: "hello" });
  return () => { leave(); clearInterval(ticker); clearTimeout(heedTimer); clearTimeout(view.asking); size.disconnect(); drawing.end(); model.off("msg:custom", heard); model.off("change:summary", first); };
}
export default { render };
