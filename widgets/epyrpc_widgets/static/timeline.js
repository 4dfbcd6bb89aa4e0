// The monitor's timeline: an overview with a window that can be dragged, and one lane for each handler worker.

const LANE = 18, BAR = 14, EVENTS = 13, LANES_SHOWN = 16, LABELS = 92, AXIS = 18, OVERVIEW = 20, OVERVIEW_SECONDS = 60;
const EDGE = 6; // pixels from the window's edge where it is taken hold of
const STEPS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300];
const WRONG = new Set(["failed", "lost", "timed out"]);
const stemOf = (name) => name.replace(/_\d+$/, "");
const spanText = (s) => s >= 120 && s % 60 === 0 ? `${s / 60} min` : s >= 10 ? `${Math.round(s)} s` : s >= 1 ? `${+s.toFixed(1)} s` : `${Math.round(s * 1000)} ms`;

const timelineOf = ({ now, matches, choose, redraw, speak, root }) => {
  const view = { span: 10, until: null, lane: -1, lines: [], boxes: [], overview: null, unsaid: false };
  const range = h("span", { class: "epy-second" });
  const follow = button("Follow", () => { view.until = null; redraw(); }, { "aria-pressed": "true" });
  const zoom = (factor, about) => {
    const span = Math.min(600, Math.max(0.02, view.span * factor));
    if (view.until !== null) { const middle = about === undefined ? view.until - view.span / 2 : about; view.until = middle + (view.until - middle) * (span / view.span); }
    view.span = span;
    settle();
  };
  // At the right end it follows again what happens.
  const settle = () => { if (view.until !== null && view.until >= now()) view.until = null; redraw(); };
  const pan = (share) => { view.until = (view.until || now()) + share * view.span; settle(); };
  const canvas = h("canvas", { class: "epy-canvas", tabindex: "0", role: "img", "aria-label": "timeline, one lane for each handler worker; the table below says the same in words" });
  const overview = h("canvas", { class: "epy-overview", role: "img", "aria-label": "the last minute, and the part of it that is shown" });
  const scroller = h("div", { class: "epy-lanes" }, canvas);
  const node = h("div", { class: "epy-timeline" },
    h("div", { class: "epy-bar38" }, h("span", { class: "epy-cut" }, "Timeline ", range), h("span", { class: "epy-buttons" }, button("−", () => zoom(2), { "aria-label": "zoom out" }), button("+", () => zoom(0.5), { "aria-label": "zoom in" }), follow)), overview, scroller);
  const labelWidth = () => root.clientWidth <= 560 ? 70 : LABELS;

  // Keys and pointers
  canvas.addEventListener("keydown", (event) => {
    const moved = (by) => {
      const lanes = view.lines.map((line, i) => i).filter((i) => !view.lines[i].events);
      if (!lanes.length) return;
      const at = lanes.indexOf(view.lane);
      view.lane = lanes[at < 0 ? 0 : Math.min(lanes.length - 1, Math.max(0, at + by))];
      view.unsaid = true; // it is said when it is drawn: what is there now may be another window's
      redraw();
    };
    const enter = () => { const last = view.boxes.filter((box) => box.line === view.lane).pop(); if (last) choose(last.row.number); };
    const does = { ArrowLeft: () => pan(-0.25), ArrowRight: () => pan(0.25), ArrowUp: () => moved(-1), ArrowDown: () => moved(1), Enter: enter, "+": () => zoom(0.5), "-": () => zoom(2), End: () => { view.until = null; redraw(); } }[event.key];
    if (does) { event.preventDefault(); does(); }
  });
  const dragged = (target, begin, move, end) => {
    let drag = null;
    target.addEventListener("pointerdown", (event) => { drag = { x: event.clientX, moved: false, ...begin(event) }; target.setPointerCapture(event.pointerId); });
    target.addEventListener("pointermove", (event) => {
      if (!drag) return;
      const by = event.clientX - drag.x;
      if (Math.abs(by) > 3) drag.moved = true;
      if (drag.moved) { move(drag, by); settle(); }
    });
    target.addEventListener("pointerup", (event) => { if (drag) end(drag, event); drag = null; });
    target.addEventListener("pointercancel", () => { drag = null; });
  };
  dragged(canvas, () => ({ until: view.until || now() }), (drag, by) => { view.until = drag.until - (by / (canvas.clientWidth - labelWidth() - 8)) * view.span; }, (drag, event) => {
    if (drag.moved) return;
    const hit = view.boxes.find((box) => event.offsetX >= box.x - 2 && event.offsetX <= box.x + box.w + 2 && event.offsetY >= box.y && event.offsetY <= box.y + BAR);
    if (hit) choose(hit.row.number);
  });
  dragged(overview, (event) => {
    const o = view.overview, until = view.until || now(), x = (moment) => o.left + ((moment - o.from) / o.seconds) * o.room;
    const left = x(until - view.span), right = x(until), at = event.offsetX;
    if (Math.abs(at - left) <= EDGE) return { what: "left", until, span: view.span };
    if (Math.abs(at - right) <= EDGE && view.until !== null) return { what: "right", until, span: view.span };
    if (at < left || at > right) { view.until = o.from + ((at - o.left) / o.room) * o.seconds + view.span / 2; settle(); }
    return { what: "move", until: view.until || now(), span: view.span };
  }, (drag, by) => {
    const seconds = (by / view.overview.room) * view.overview.seconds;
    if (drag.what === "left") view.span = Math.min(600, Math.max(0.02, drag.span - seconds));
    else if (drag.what === "right") { view.span = Math.min(600, Math.max(0.02, drag.span + seconds)); view.until = drag.until + view.span - drag.span; }
    else view.until = drag.until + seconds;
  }, () => undefined);
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const left = labelWidth(), share = (event.offsetX - left) / (canvas.clientWidth - left - 8);
    zoom(event.deltaY > 0 ? 1.25 : 0.8, (view.until || now()) - (1 - share) * view.span);
  }, { passive: false });

  // Colours as the canvas takes them: the page mixes, a hidden element tells the outcome.
  const probe = h("span", { class: "epy-probe", hidden: true }); root.append(probe);
  let palette = null, paletteAt = 0;
  const colours = () => {
    if (palette && Date.now() - paletteAt < 1000) return palette;
    palette = {}; paletteAt = Date.now();
    for (const name of ["brand", "done-fill", "warn-fill", "lost-fill", "bad-fill", "bad", "warn", "ink", "ink2", "hair", "wash", "page", "full"]) { probe.style.color = `var(--epy-${name})`; palette[name] = getComputedStyle(probe).color; }
    palette.font = `12px ${getComputedStyle(root).getPropertyValue("--epy-code")}`;
    palette.small = `11px ${getComputedStyle(root).fontFamily}`;
    palette.contrast = matchMedia("(forced-colors: active)").matches || matchMedia("(prefers-contrast: more)").matches || /contrast/i.test(document.body.dataset.jpThemeName || "");
    return palette;
  };
  const fit = (target, height) => {
    const width = target.clientWidth, ratio = devicePixelRatio || 1;
    if (target.width !== Math.round(width * ratio) || target.height !== Math.round(height * ratio)) { target.width = Math.round(width * ratio); target.height = Math.round(height * ratio); target.style.height = `${height}px`; }
    const c = target.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0); c.clearRect(0, 0, width, height); c.textBaseline = "middle"; c.textAlign = "left"; c.lineWidth = 1;
    return { c, width };
  };

  const drawOverview = (rows, until) => {
    const { c, width } = fit(overview, OVERVIEW + 4), p = colours(), left = labelWidth(), room = width - left - 8, end = now();
    const seconds = Math.max(OVERVIEW_SECONDS, end - until + view.span), from = end - seconds, bins = Math.max(1, Math.floor(room / 3));
    view.overview = { left, room, from, seconds };
    const high = new Uint32Array(bins), wrong = new Uint8Array(bins), binOf = (moment) => Math.floor(((moment - from) / seconds) * bins);
    for (const row of rows) {
      if (row.event || row.started > end || !matches(row)) continue;
      const last = row.ended ? row.started + row.elapsed : end;
      if (last < from) continue;
      const a = Math.max(0, binOf(row.started + (row.waited || 0))), b = Math.min(bins - 1, binOf(last));
      for (let i = a; i <= b; i++) high[i]++;
      if (WRONG.has(row.state) && b >= 0) wrong[b] = 1;
    }
    let most = 1;
    for (const value of high) if (value > most) most = value;
    c.fillStyle = p.ink2; c.font = p.small; c.textAlign = "right"; c.fillText(spanText(Math.round(seconds)), left - 8, OVERVIEW / 2 + 2); c.textAlign = "left";
    const x = (moment) => left + ((moment - from) / seconds) * room, a = Math.max(left, x(until - view.span)), b = Math.min(left + room, x(until));
    view.windowLeft = a;
    c.fillStyle = p.wash; c.fillRect(a, 1, b - a, OVERVIEW + 1);
    for (let i = 0; i < bins; i++) {
      if (!high[i]) continue;
      const tall = wrong[i] ? OVERVIEW - 2 : Math.max(2, (Math.sqrt(high[i] / most)) * (OVERVIEW - 6));
      c.fillStyle = wrong[i] ? p["bad-fill"] : p.contrast ? p.ink2 : p["done-fill"];
      c.fillRect(left + i * 3, OVERVIEW + 1 - tall, 2, tall);
    }
    c.strokeStyle = p.brand; c.lineWidth = 1.5; c.strokeRect(a + 0.75, 1.75, Math.max(3, b - a - 1.5), OVERVIEW - 0.5);
    c.fillStyle = p.brand; c.fillRect(a - 1.5, OVERVIEW / 2 - 3, 4, 9);
    if (view.until !== null) c.fillRect(b - 2.5, OVERVIEW / 2 - 3, 4, 9);
  };

  // One line a handler worker, bodies in the order of their names, this process last; then the events of a body or pool.
  const linesOf = (lanes) => {
    const lines = [], index = new Map(), groups = [...lanes.keys()].sort((a, b) => (a === "here") - (b === "here") || a.localeCompare(b, "en", { numeric: true }));
    let top = AXIS;
    groups.forEach((group, g) => {
      const { workers } = lanes.get(group), stem = stemOf(group), last = g + 1 === groups.length || stemOf(groups[g + 1]) !== stem;
      workers.forEach((worker, i) => {
        index.set(`${group} ${i}`, lines.length);
        lines.push({ label: workers.length > 1 ? `${group}·${i + 1}` : group, top, height: LANE });
        top += LANE;
      });
      const family = groups.filter((other) => stemOf(other) === stem);
      if (last && family.some((other) => lanes.get(other).events)) {
        for (const other of family) index.set(`${other} events`, lines.length);
        lines.push({ label: "events", top, height: EVENTS, events: true });
        top += EVENTS;
      }
      if (last && g + 1 < groups.length && lines.length) { lines[lines.length - 1].rule = top + 3.5; top += 7; }
    });
    return { lines, index, height: Math.max(AXIS + 2 * LANE, top) + 4 };
  };

  const drawBar = (c, p, row, line, left, w, y, x, label, chosen) => {
    let ink = p.ink;
    if (row.state === "failed") { c.fillStyle = p["bad-fill"]; ink = p.page; } else if (row.state === "timed out") c.fillStyle = p["warn-fill"];
    else if (row.state === "lost") c.fillStyle = p["lost-fill"]; else if (row.state === "cancelled" || row.state === "pending") c.fillStyle = p.page;
    else if (row.ended) c.fillStyle = p["done-fill"]; else { c.fillStyle = p.brand; ink = p.page; }
    c.beginPath(); c.roundRect(left, y, w, BAR, Math.min(2, w / 2)); c.fill();
    c.setLineDash(row.state === "cancelled" || row.state === "pending" ? [3, 2] : []);
    const edge = { "timed out": p.warn, lost: p.bad, cancelled: p.ink2, pending: p.ink2 }[row.state] || (p.contrast ? p.full : null);
    if (edge && w > 3) { c.strokeStyle = edge; c.stroke(); }
    c.setLineDash([]);
    if (row.state === "timed out" && w > 12) { // a hatched tail
      const tail = Math.min(18, w / 2);
      c.save(); c.beginPath(); c.rect(left + w - tail, y, tail, BAR); c.clip(); c.strokeStyle = p.warn; c.lineWidth = 2; c.beginPath();
      for (let d = -BAR; d < tail; d += 5) { c.moveTo(left + w - tail + d, y + BAR); c.lineTo(left + w - tail + d + BAR, y); }
      c.stroke(); c.restore();
    }
    if (chosen) {
      c.strokeStyle = p.full; c.lineWidth = 2; c.beginPath(); c.roundRect(left - 1, y - 1, w + 2, BAR + 2, 3); c.stroke(); c.lineWidth = 1;
      if (row.waited) { c.strokeStyle = p.ink2; c.beginPath(); c.moveTo(x(row.started), y + BAR / 2); c.lineTo(left, y + BAR / 2); c.moveTo(x(row.started), y + 4); c.lineTo(x(row.started), y + BAR - 4); c.stroke(); }
    }
    const sign = { failed: "×", lost: "△", cancelled: "⊘" }[row.state], words = sign ? `${sign} ${row.path}` : row.path;
    const free = row.state === "timed out" && w > 12 ? w - Math.min(18, w / 2) : w;
    if (w > 20 && free > c.measureText(words).width + 8) { c.fillStyle = ink; c.fillText(words, Math.max(label, left) + 4, y + BAR / 2 + 0.5); }
    else if (sign && w > 12) { c.fillStyle = ink; c.fillText(sign, left + w / 2 - 4, y + BAR / 2 + 0.5); }
  };

  const draw = (rows, lanes, chosen) => {
    node.hidden = !rows.length;
    if (node.hidden) return;
    const until = view.until || now(), from = until - view.span, label = labelWidth();
    drawOverview(rows, until);
    const { lines, index, height } = linesOf(lanes);
    view.lines = lines;
    scroller.style.maxHeight = `${AXIS + LANES_SHOWN * LANE}px`;
    const { c, width } = fit(canvas, height), p = colours(), room = width - label - 8, x = (moment) => label + ((moment - from) / view.span) * room;
    c.font = p.small; c.fillStyle = p.ink2; c.strokeStyle = p.hair;
    const step = STEPS.find((s) => (s / view.span) * room >= 64) || 300, first = clock(from - skew.seconds, view.span < 2 ? 3 : 0);
    c.fillText(first, label + 2, AXIS / 2);
    const last = view.until === null ? "now" : clock(until - skew.seconds, view.span < 2 ? 3 : 0), lastAt = width - 8 - c.measureText(last).width;
    for (let k = 0; k * step < view.span; k++) {
      const at = Math.round(x(from + k * step)) + 0.5, words = `+${spanText(k * step)}`, half = c.measureText(words).width / 2;
      c.beginPath(); c.moveTo(at, AXIS); c.lineTo(at, height); c.stroke();
      if (k && at - half > label + 8 + c.measureText(first).width && at + half < lastAt - 8) c.fillText(words, at - half, AXIS / 2);
    }
    c.fillText(last, lastAt, AXIS / 2);
    lines.forEach((line, i) => {
      if (i === view.lane && document.activeElement === canvas) { c.fillStyle = p.wash; c.fillRect(0, line.top, width, line.height); }
      c.font = line.events ? p.small : p.font; c.fillStyle = p.ink2; c.textAlign = "right"; c.fillText(line.label, label - 8, line.top + line.height / 2 + 0.5, label - 10); c.textAlign = "left";
      if (line.rule) { c.strokeStyle = p.hair; c.beginPath(); c.moveTo(8, line.rule); c.lineTo(width, line.rule); c.stroke(); }
    });
    c.font = p.font; c.save(); c.beginPath(); c.rect(label, AXIS, room + 8, height); c.clip();
    view.boxes = [];
    const drawn = [];
    for (const row of rows) {
      const begin = Math.max(row.started + (row.waited || 0), row.after || 0), end = row.ended ? row.started + row.elapsed : now();
      if (row.started > until || end < from) continue;
      if (row.event) {
        const line = lines[index.get(`${row.group} events`)];
        if (line) { c.fillStyle = p.ink2; c.fillRect(x(row.started), line.top + 3, 1, 8); }
        continue;
      }
      const at = row.lane === undefined ? undefined : index.get(`${row.group} ${row.lane}`);
      if (at === undefined || !matches(row)) continue;
      const left = Math.max(label - 4, x(begin)), w = Math.max(1.5, Math.min(x(end), width + 4) - left - 0.5), y = lines[at].top + 2;
      if (row.state === "done" && w <= 2 && row.number !== chosen) { // ten thousand of these: one a pixel will do
        const pixel = Math.round(left);
        if (drawn[at] !== pixel) { drawn[at] = pixel; c.fillStyle = p["done-fill"]; c.fillRect(left, y, w, BAR); view.boxes.push({ x: left, y, w, row, line: at }); }
        continue;
      }
      drawBar(c, p, row, lines[at], left, w, y, x, label, row.number === chosen);
      view.boxes.push({ x: left, y, w, row, line: at });
    }
    c.restore();
    if (view.unsaid && view.lines[view.lane]) {
      view.unsaid = false;
      speak(`lane ${view.lines[view.lane].label}, ${count(view.boxes.filter((box) => box.line === view.lane).length, "call", "calls")}`);
    }
    setText(range, `· ${view.until === null ? "last " : ""}${spanText(view.span)}${root.clientWidth <= 560 ? "" : " · one lane per handler worker"}`);
    setAttribute(follow, "aria-pressed", String(view.until === null));
  };
  canvas.addEventListener("focus", redraw); canvas.addEventListener("blur", redraw);
  // Bring a call into the window.
  const show = (row) => { if (row.ended) { view.until = Math.min(now(), row.started + row.elapsed + view.span / 4); settle(); } else { view.until = null; view.span = Math.min(600, Math.max(view.span, (now() - row.started) * 1.2)); redraw(); } };
  return { node, draw, show, follows: () => view.until === null, window: () => ({ span: view.span, left: view.windowLeft, until: view.until, lines: view.lines.map((line) => line.label), boxes: view.boxes.length }) };
};
