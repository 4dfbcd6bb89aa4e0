// When the kernel has gone: the last state stays, as a small static table, in the notebook itself where the page lets us
// at it, so that it is there too when the page is loaded again. Elsewhere the view stays, without its buttons.

const VIEW_TYPE = "application/vnd.jupyter.widget-view+json";
const GLYPHS = { pending: "○", running: "◐", streaming: "»", done: "✓", failed: "×", "timed out": "◷", cancelled: "⊘", lost: "△", starting: "○", stopping: "○", died: "△", stopped: "■" };
const GONE = new Set(["restarting", "autorestarting", "dead"]);

const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const said = (state) => `${GLYPHS[state] || ""} ${state}`.trim();
const staticTable = (header, rows, code = -1) => `<table><thead><tr>${header.map((name) => `<th>${escaped(name)}</th>`).join("")}</tr></thead><tbody>${rows.map((row) => `<tr>${row.map((cell, i) => `<td>${i === code ? `<code>${escaped(cell)}</code>` : escaped(cell)}</td>`).join("")}</tr>`).join("")}</tbody></table>`;
const CALL_HEADER = ["State", "Call", "Body", "Id", "Elapsed", "Detail"];
const callFacts = (row) => [said(row.state), row.path, row.target, row.id, row.ended ? seconds(row.elapsed) : ticking(kernelNow() - row.started), row.progress && row.progress[1] ? `${thousands(row.progress[0])}/${thousands(row.progress[1])}` : row.text];

// The outputs of a notebook that show this model; none on pages that do not say which document they are of.
const outputsOf = (model) => {
  const document = model.widget_manager && model.widget_manager.context, cells = document && document.model && document.model.cells, found = [];
  for (const cell of cells || []) {
    const outputs = cell.type === "code" ? cell.outputs : null;
    for (let i = 0; outputs && i < outputs.length; i++) {
      const data = outputs.get(i).data || {}, view = data[VIEW_TYPE];
      if (view && view.model_id === model.get("ident")) found.push([outputs, i]);
    }
  }
  return found;
};
const leaveStill = (model, html) => {
  const places = outputsOf(model);
  for (const [outputs, i] of places) {
    const { [VIEW_TYPE]: _, ...data } = outputs.get(i).toJSON().data;
    outputs.set(i, { ...outputs.get(i).toJSON(), data: { ...data, "text/html": html } });
  }
  return places.length;
};

// Keys that are pressed in a view are not the notebook's. `still` gives the last state as a static table.
const prepare = (root, model, still) => {
  root.setAttribute("data-lm-suppress-shortcuts", "true");
  let over = false;
  const gone = () => {
    if (over) return;
    over = true;
    skew.stopped = kernelNow();
    const when = `kernel gone · state as of ${clock(skew.stopped - skew.seconds, 0)}`;
    root.classList.add("epy-gone");
    root.append(h("div", { class: "epy-gonenote epy-second" }, when));
    setTimeout(() => leaveStill(model, `${still()}<p>${when}</p>`), 0);
  };
  model.on("comm_live_update", gone);
  const session = model.widget_manager && model.widget_manager.context && model.widget_manager.context.sessionContext;
  if (!session) return () => undefined;
  const status = (_, now) => { if (GONE.has(now)) gone(); };
  const changed = (_, { oldValue, newValue }) => { if (!session.isDisposed && oldValue && (!newValue || newValue.id !== oldValue.id)) gone(); };
  session.statusChanged.connect(status); session.kernelChanged.connect(changed);
  return () => { model.off("comm_live_update", gone); session.statusChanged.disconnect(status); session.kernelChanged.disconnect(changed); };
};
