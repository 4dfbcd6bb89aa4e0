// A call as a live row; opened, what it got, put out and gave. The row is the model's trait, so every view of it, and
// the page after a reload, shows the same. Details come as messages: `open` is answered by `full`, then `delta`s.

const LINES_SHOWN = 5;

// --- what an opened row shows

const section = (title, ...children) => h("div", { class: "epy-section" }, h("div", { class: "epy-label epy-second" }, title), h("div", { class: "epy-content" }, ...children));

const argumentsOf = (detail) => {
  if (detail.args === null) return detail.args_note ? section("Arguments", h("span", { class: "epy-second" }, detail.args_note)) : null;
  if (!detail.args.length) return null;
  const named = detail.args.some(([name]) => name);
  const list = h("div", { class: named ? "epy-args" : "epy-args epy-bare" });
  for (const [name, text] of detail.args) {
    if (named) list.append(h("span", { class: "epy-mono epy-second" }, name));
    list.append(h("span", { class: "epy-mono epy-value" }, text));
  }
  return section("Arguments", list);
};

const outputOf = (detail, view) => {
  if (!detail.outputs.length) return null;
  const nodes = [];
  const texts = detail.outputs.filter((output) => output.output_type === "stream");
  const lines = texts.reduce((sum, output) => sum + output.text.replace(/\n$/, "").split("\n").length, 0);
  let earlier = view.all ? 0 : Math.max(0, lines - LINES_SHOWN);
  const cut = earlier;
  let pre = null;
  for (const output of detail.outputs) {
    if (output.output_type !== "stream") { pre = null; nodes.push(bundle(output.data, output.metadata)); continue; }
    let text = output.text;
    if (earlier) {
      const all = text.replace(/\n$/, "").split("\n"), skipped = Math.min(earlier, all.length);
      earlier -= skipped;
      if (skipped === all.length) continue;
      text = all.slice(skipped).join("\n") + (text.endsWith("\n") ? "\n" : "");
    }
    if (!pre) {
      pre = h("pre", { class: "epy-output", tabindex: "0", "aria-label": "what the call printed" });
      if (cut && !nodes.length) pre.append(h("span", { class: "epy-second" }, `  … ${count(cut, "earlier line", "earlier lines")}\n`));
      nodes.push(pre);
    }
    const piece = h("span", { class: output.name === "stderr" ? "epy-stderr" : "" });
    piece.append(ansi(settleLines(text)));
    pre.append(piece);
  }
  if (lines) {
    const copy = button("Copy", () => copyText(texts.map((output) => output.text).join(""), copy), { class: "epy-button epy-link" });
    nodes.push(h("div", { class: "epy-tools" },
      lines > LINES_SHOWN ? button(view.all ? "Show the end only" : `Show all ${thousands(lines)} lines`, () => { view.all = !view.all; view.redraw(); }, { class: "epy-button epy-link" }) : null,
      copy));
  }
  return section("Output", ...nodes);
};

// The richest form that a page can draw; what a kernel formats is as trusted as the kernel.
const bundle = (data, metadata = {}) => {
  for (const type of ["image/png", "image/jpeg"]) {
    if (data[type]) return h("img", { src: `data:${type};base64,${String(data[type]).replace(/\s/g, "")}`, alt: data["text/plain"] || "", ...(metadata[type] || {}) });
  }
  if (data["image/svg+xml"]) return h("img", { src: `data:image/svg+xml;utf8,${encodeURIComponent(data["image/svg+xml"])}`, alt: data["text/plain"] || "" });
  if (data["text/html"]) { const node = h("div", { class: "epy-html jp-RenderedHTMLCommon" }); node.innerHTML = data["text/html"]; return node; }
  return h("pre", { class: "epy-text", tabindex: "0" }, ansi(data["text/plain"] || ""));
};

const resultOf = (detail) => {
  const result = detail.result;
  if (!result) return null;
  return section("Result", bundle(result.data, result.metadata), result.caption ? h("div", { class: "epy-caption epy-second" }, result.caption) : null);
};

const frameOf = (frame) => {
  if (frame.folded) return h("details", { class: "epy-frame" }, h("summary", {}, h("span", {}, `${count(frame.folded.length, "frame", "frames")} in `, h("code", {}, frame.where))),
    h("pre", { class: "epy-text" }, frame.folded.join("\n")));
  const lines = h("div", { class: "epy-source", tabindex: "0", "aria-label": `source, line ${frame.line} raised` });
  for (const [number, text] of frame.source) {
    lines.append(h("div", { class: number === frame.line ? "epy-line epy-marked" : "epy-line" }, h("span", { class: "epy-lineno" }, String(number)), h("code", {}, text || " ")));
  }
  return h("div", { class: "epy-frame" }, h("div", { class: "epy-place" }, h("b", {}, frame.place), h("span", { class: "epy-second" }, ` line ${frame.line}, in `), h("code", {}, frame.function)), frame.source.length ? lines : null);
};

const errorOf = (detail) => {
  const error = detail.error;
  if (!error) return null;
  const nodes = [h("div", { class: "epy-mono epy-bad epy-message" }, error.message), ...error.frames.map(frameOf)];
  if (error.drawn) { const pre = h("pre", { class: "epy-output", tabindex: "0" }); pre.append(ansi(error.drawn)); nodes.push(pre); }
  if (error.text) {
    const copy = button("Copy traceback", () => copyText(error.text, copy), { class: "epy-button epy-link" });
    nodes.push(h("div", { class: "epy-tools" }, copy, h("span", { class: "epy-second" }, error.where)));
  }
  return section("Error", ...nodes);
};

const timingsOf = (detail) => {
  const timings = detail.timings || [];
  if (timings.length < 2) return null;
  const total = timings.reduce((sum, [, spent]) => sum + spent, 0) || 1;
  let before = 0;
  const table = h("div", { class: "epy-timings" });
  for (const [name, spent] of timings) {
    const bar = h("span", { class: name === "run" ? "epy-span epy-run" : "epy-span" });
    bar.style.marginLeft = `${(100 * before) / total}%`;
    bar.style.width = `max(2px, ${(100 * spent) / total}%)`;
    before += spent;
    table.append(h("span", { class: "epy-second" }, name), h("span", { class: "epy-lane" }, bar), h("span", { class: "epy-number" }, seconds(spent)));
  }
  return section("Timings", table, detail.facts ? h("div", { class: "epy-caption epy-second" }, detail.facts) : null);
};

function render({ model, el }) {
  const root = h("div", { class: "epy epy-call", role: "group" });
  const leave = prepare(root, model, () => staticTable(CALL_HEADER, [callFacts(model.get("row"))], 1));
  const id = Math.random().toString(36).slice(2);
  const view = { open: false, all: false, detail: null, asked: "", cancelling: 0, busy: false, redraw: () => drawing.now() };
  const chevron = glyph("chevron"), icon = glyph("pending"), state = h("span", { class: "epy-state" });
  icon.classList.add("epy-toned"); chevron.classList.add("epy-chevron");
  const path = h("code", { class: "epy-path" }), where = h("span", { class: "epy-where epy-second" });
  const slot = h("span", { class: "epy-middle" }), elapsed = h("span", { class: "epy-elapsed epy-number" });
  const head = h("button", { type: "button", class: "epy-head", "aria-expanded": "false", onclick: () => toggle() },
    chevron, icon, state, h("span", { class: "epy-who epy-cut" }, path, where), slot, elapsed);
  const action = button("", () => press(), { class: "epy-button epy-action" });
  const details = h("div", { class: "epy-details", hidden: true }), again = h("div", { class: "epy-again" });
  const spoken = h("div", { class: "epy-hidden", "aria-live": "polite" });
  const line = h("div", { class: "epy-row" }, head, action);
  root.append(line, details, again, spoken);
  el.append(root);

  const ask = () => {
    const row = model.get("row"), key = `${row.state}`;
    if (view.asked === key) return;
    view.asked = key;
    model.send({ kind: "open", view: id });
  };
  const toggle = () => {
    view.open = !view.open;
    if (view.open) { view.asked = ""; ask(); } else model.send({ kind: "close", view: id });
    drawing.now();
  };
  const press = () => {
    const row = model.get("row");
    if (row.button === "cancel" && !view.cancelling) {
      view.cancelling = setTimeout(() => { view.busy = true; drawing.now(); }, KERNEL_SILENT);
      model.send({ kind: "cancel" });
    } else if (row.button === "retry" && !view.retrying) {
      view.retrying = setTimeout(() => { view.busy = true; drawing.now(); }, KERNEL_SILENT);
      model.send({ kind: "retry" });
    }
    drawing.now();
  };

  let last = null;
  const draw = () => {
    const row = model.get("row");
    if (!row || !row.state) return;
    if (row.ended && view.cancelling) { clearTimeout(view.cancelling); view.cancelling = 0; view.busy = false; }
    setAttribute(line, "data-state", row.state);
    setGlyph(icon, row.state); setText(state, row.state); setText(path, row.path);
    whereabouts(where, row);
    setAttribute(head, "title", `${row.path}${row.target ? ` on ${row.target}` : ""}${row.pid ? `, pid ${row.pid}` : ""}, started ${clock(row.started)}, ${row.id}`);
    const spent = row.ended ? seconds(row.elapsed) : ticking(kernelNow() - row.started);
    setText(elapsed, spent);
    const bare = view.open && row.ended; // an opened row does not repeat its preview
    if (!bare) middle(slot, row, view.busy, view.note);
    slot.hidden = bare;
    head.classList.toggle("epy-wide", bare);
    const label = view.cancelling ? "Cancelling" : view.retrying ? "Retrying" : row.button === "cancel" ? "Cancel" : row.button === "retry" ? "Retry" : "";
    setText(action, label); action.disabled = Boolean(view.cancelling || view.retrying); action.style.visibility = label ? "" : "hidden";
    setAttribute(action, "aria-label", label ? `${label} ${row.path}` : null);
    setAttribute(head, "aria-label", `${row.state}, ${row.path}${row.target ? ` on ${row.target}` : ""}, ${aloud(spent)}`);
    setAttribute(head, "aria-expanded", String(view.open));
    root.classList.toggle("epy-open", view.open);
    if (last !== null && last !== row.state && row.ended) setText(spoken, `${row.path} ${row.state} after ${aloud(spent)}`);
    last = row.state;
    details.hidden = !view.open;
    if (view.open) { ask(); drawDetails(row); }
  };
  let drawn = null;
  const drawDetails = (row) => {
    const key = [view.detail, view.all, row.ended];
    if (drawn && key.every((part, i) => part === drawn[i])) return;
    drawn = key;
    const parts = view.detail ? [argumentsOf(view.detail), outputOf(view.detail, view), resultOf(view.detail), errorOf(view.detail), timingsOf(view.detail)].filter(Boolean) : [];
    if (!parts.length) parts.push(section("", h("span", { class: "epy-second" }, view.detail ? row.ended ? "Nothing was printed or returned." : "Nothing yet." : "The details come as soon as the notebook is free.")));
    details.replaceChildren(...parts);
  };
  const drawing = drawer(root, draw);

  const heard = (message) => {
    if (message.now) heardClock(message.now);
    if (message.kind === "full") view.detail = message.detail;
    else if (message.kind === "delta" && view.detail) view.detail = { ...view.detail, outputs: message.outputs };
    else if (message.kind === "retried") {
      clearTimeout(view.retrying); view.retrying = 0; view.busy = false;
      if (message.error) { setText(spoken, message.error); view.note = message.error; }
    }
    drawing.now();
  };
  const changed = () => drawing.now();
  const children = async () => {
    const models = model.get("retries") || [];
    for (const reference of models.slice(again.children.length)) {
      const node = h("div", { class: "epy-retry" });
      again.append(node);
      const child = await model.widget_manager.get_model(reference.slice("IPY_MODEL_".length));
      const made = await model.widget_manager.create_view(child);
      node.append(made.el);
    }
  };
  model.on("change:row", changed);
  model.on("change:retries", children);
  model.on("msg:custom", heard);
  const ticker = setInterval(() => { if (!model.get("row").ended) drawing.now(); }, 1000);
  draw(); // the first one at once: the row is there before anything else is heard
  children();
  model.send({ kind: "hello" });
  return () => {
    leave(); clearInterval(ticker); clearTimeout(view.cancelling); clearTimeout(view.retrying); drawing.end();
    model.off("change:row", changed); model.off("change:retries", children); model.off("msg:custom", heard);
    if (view.open) model.send({ kind: "close", view: id });
  };
}
export default { render };
