// Gathered calls as a compact list. A row that is opened shows the call's own view, which the kernel makes then.

function render({ model, el }) {
  const root = h("div", { class: "epy epy-list", role: "group" });
  const leave = prepare(root, model, () => {
    const wrong = (row) => (row.state === "failed" || row.state === "lost" || row.state === "timed out" ? 0 : 1), summary = model.get("summary");
    const first = [...view.rows].sort((a, b) => wrong(a) - wrong(b)).slice(0, 5), counts = Object.entries(summary.counts).map(([state, n]) => `${thousands(n)} ${state}`).join(", ");
    return `${staticTable(CALL_HEADER, first.map(callFacts), 1)}<p>${count(summary.total, "call", "calls")}: ${counts}.${summary.total > first.length ? ` ${thousands(summary.total - first.length)} more rows not shown.` : ""}</p>`;
  });
  const view = { open: true, rows: [], made: [], pressed: "", timer: 0, busy: false };
  const total = totalOf(() => { view.open = !view.open; drawing.now(); }, () => {
    const what = model.get("summary").over ? "retry" : "cancel all";
    if (view.pressed) return;
    view.pressed = what; view.timer = setTimeout(() => { view.busy = true; drawing.now(); }, KERNEL_SILENT);
    model.send({ kind: what }); drawing.now();
  });
  const body = h("div", { class: "epy-listbody" }), more = h("div", { class: "epy-more epy-second" }), again = h("div", { class: "epy-retry" });
  const spoken = h("div", { class: "epy-hidden", "aria-live": "polite" });
  root.append(total.top, body, more, again, spoken);
  el.append(root);

  const lineOf = (index) => {
    const chevron = glyph("chevron"), icon = glyph("pending"), state = h("span", { class: "epy-state" }), path = h("code", { class: "epy-path" }), where = h("span", { class: "epy-where epy-second" }), slot = h("span", { class: "epy-middle" }), elapsed = h("span", { class: "epy-elapsed epy-number" });
    chevron.classList.add("epy-chevron"); icon.classList.add("epy-toned");
    const head = h("button", { type: "button", class: "epy-head", "aria-expanded": "false", onclick: () => open(index) }, chevron, icon, state, h("span", { class: "epy-who epy-cut" }, path, where), slot, elapsed);
    const cancel = button("Cancel", () => {
      cancel.disabled = true;
      if (view.rows[index].button === "cancel") return model.send({ kind: "cancel", index });
      if (made.nested.hidden) open(index); // the new call's row appears in there
      model.send({ kind: "retry one", index });
      setTimeout(() => { cancel.disabled = false; }, KERNEL_SILENT);
      return undefined;
    }, { class: "epy-button epy-action epy-quiet" });
    const line = h("div", { class: "epy-row epy-compact" }, head, cancel), nested = h("div", { class: "epy-retry", hidden: true });
    body.append(line, nested);
    const made = { line, nested, head, icon, state, path, where, slot, elapsed, cancel };
    return made;
  };
  const open = (index) => {
    const made = view.made[index], shut = made.nested.hidden;
    made.nested.hidden = !shut; made.head.setAttribute("aria-expanded", String(shut)); made.line.classList.toggle("epy-open", shut);
    if (shut && !made.nested.children.length) model.send({ kind: "open", index });
  };
  const place = async (id, node, opened) => {
    const child = await model.widget_manager.get_model(id);
    const made = await model.widget_manager.create_view(child);
    node.append(made.el);
    for (let frame = 0; opened && frame < 300; frame++) { // its module may still be on its way
      const head = node.querySelector(".epy-head");
      if (head) { head.click(); return; }
      await new Promise(requestAnimationFrame);
    }
  };

  let over = null;
  const draw = () => {
    const summary = model.get("summary");
    if (!summary || summary.total === undefined) return;
    if (view.pressed === "cancel all" && summary.over) { clearTimeout(view.timer); view.pressed = ""; view.busy = false; }
    const label = view.pressed === "cancel all" ? "Cancelling" : view.pressed ? "Retrying" : !summary.over ? "Cancel all" : summary.retry ? "Retry failed" : "";
    const { wrong } = total.draw(summary, [count(summary.total, "call", "calls")], view.open, label, Boolean(view.pressed));
    root.classList.toggle("epy-shut", !view.open); root.classList.toggle("epy-over", summary.over);
    body.hidden = !view.open; more.hidden = !view.open || !(summary.hidden || view.busy || view.error);
    setText(more, view.error || (view.busy ? "the notebook is busy: press ■ to interrupt the cell" : `${thousands(summary.hidden)} more rows not shown`));
    if (over === false && summary.over) setText(spoken, `${summary.total} calls ended, ${wrong} failed`);
    over = summary.over;
    if (!view.open) return;
    view.rows.forEach((row, index) => {
      const made = view.made[index] || (view.made[index] = lineOf(index));
      setAttribute(made.line, "data-state", row.state); setGlyph(made.icon, row.state); setText(made.state, row.state); setText(made.path, row.path); whereabouts(made.where, row);
      if (made.shown !== row || !row.ended) middle(made.slot, row, false);
      made.shown = row;
      setText(made.elapsed, row.ended ? seconds(row.elapsed) : ticking(kernelNow() - row.started));
      made.cancel.style.visibility = row.button ? "" : "hidden";
      if (made.button !== row.button) { made.button = row.button; made.cancel.disabled = false; made.cancel.classList.toggle("epy-quiet", row.button !== "retry"); setText(made.cancel, row.button === "retry" ? "Retry" : "Cancel"); made.cancel.setAttribute("aria-label", `${made.cancel.textContent} ${row.path} ${row.id}`); }
      setAttribute(made.head, "aria-label", `${row.state}, ${row.path}${row.target ? ` on ${row.target}` : ""}, ${aloud(made.elapsed.textContent)}`);
    });
  };
  const drawing = drawer(root, draw);
  const heard = (message) => {
    if (message.now) heardClock(message.now);
    if (message.kind === "full") { view.rows = []; view.greeted = true; }
    if (message.kind === "full" || (message.kind === "delta" && view.greeted)) for (const [index, row] of Object.entries(message.rows)) view.rows[Number(index)] = row;
    else if (message.kind === "opened") { const made = view.made[message.index]; if (made && !made.nested.hidden && !made.nested.children.length) place(message.model, made.nested, true); }
    else if (message.kind === "retried") {
      clearTimeout(view.timer); view.pressed = ""; view.busy = false; view.error = message.error;
      if (message.model) place(message.model, again, false);
    }
    drawing.now();
  };
  const changed = () => drawing.now();
  model.on("change:summary", changed); model.on("msg:custom", heard);
  const ticker = setInterval(() => { if (!model.get("summary").over) drawing.now(); }, 1000);
  draw();
  model.send({ kind: "hello" });
  return () => { leave(); clearInterval(ticker); clearTimeout(view.timer); drawing.end(); model.off("change:summary", changed); model.off("msg:custom", heard); };
}
export default { render };
