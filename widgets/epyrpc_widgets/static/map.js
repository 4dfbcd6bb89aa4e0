// A map over a pool: the head that gathered calls have too, closed at first; opened, a line for each body.

function render({ model, el }) {
  const root = h("div", { class: "epy epy-list epy-map", role: "group" });
  const leave = prepare(root, model, () => {
    const s = model.get("summary"), done = s.counts.done + s.counts.failed;
    return staticTable(["State", "Map", "Pool", "Items", "Failed", "Elapsed"], [[said(s.state), s.path, s.pool, `${thousands(done)}/${s.total === null ? "?" : thousands(s.total)}`, thousands(s.counts.failed), s.over ? seconds(s.elapsed) : ticking(kernelNow() - s.started)]], 1);
  });
  const view = { open: false, pressed: false, timer: 0, busy: false, lines: [] };
  const total = totalOf(() => { view.open = !view.open; drawing.now(); }, () => {
    if (view.pressed) return;
    view.pressed = true; view.timer = setTimeout(() => { view.busy = true; drawing.now(); }, KERNEL_SILENT);
    model.send({ kind: "cancel all" }); drawing.now();
  });
  const body = h("div", { class: "epy-bodylines", role: "list" }), note = h("div", { class: "epy-note epy-second" }), more = h("div", { class: "epy-more epy-warn" }, "the notebook is busy: press ■ to interrupt the cell");
  const spoken = h("div", { class: "epy-hidden", "aria-live": "polite" });
  root.append(total.top, more, body, note, spoken);
  el.append(root);

  const lineOf = () => {
    const bar = h("span", { class: "epy-bar", role: "progressbar", "aria-valuemin": 0 }, h("i"));
    const cells = [h("code", { class: "epy-cut" }), h("span", { class: "epy-second epy-cut" }), bar, h("span", { class: "epy-number epy-second" }), h("span", { class: "epy-number" }), h("span", { class: "epy-number epy-second" }), h("span", { class: "epy-number epy-second" })];
    const node = h("div", { class: "epy-mapline", role: "listitem" }, ...cells);
    body.append(node);
    return { node, cells, bar };
  };
  const drawLines = (summary) => {
    const bodies = model.get("bodies") || [], spent = Math.max(0.001, summary.over ? summary.elapsed : kernelNow() - summary.started);
    while (view.lines.length > bodies.length) view.lines.pop().node.remove();
    while (view.lines.length < bodies.length) view.lines.push(lineOf());
    bodies.forEach((one, i) => {
      const { cells, bar } = view.lines[i], many = one.items ? one.items[1] - one.items[0] + 1 : 0;
      setText(cells[0], one.body);
      setText(cells[1], !one.items ? "" : many > 1 ? `items ${thousands(one.items[0])}–${thousands(one.items[1])}` : `item ${thousands(one.items[0])}`);
      bar.style.visibility = one.items ? "" : "hidden";
      bar.firstChild.style.transform = `scaleX(${many ? one.at / many : 0})`;
      setAttribute(bar, "aria-valuemax", many); setAttribute(bar, "aria-valuenow", one.at); setAttribute(bar, "aria-label", `chunk of ${one.body}`);
      setText(cells[3], many ? `${thousands(one.at)}/${thousands(many)}` : ""); setText(cells[4], `${thousands(one.done)} done`);
      setText(cells[5], one.done ? perSecond(one.done / spent) : ""); setText(cells[6], one.cpu === null || one.cpu === undefined || summary.over ? "" : `CPU ${one.cpu} %`);
    });
    const key = summary.note;
    if (note.key !== key) { note.key = key; note.replaceChildren(...key.split("`").map((text, i) => i % 2 ? h("code", {}, text) : text)); }
    note.hidden = !key;
  };

  let over = null;
  const draw = () => {
    const summary = model.get("summary");
    if (!summary || !summary.counts) return;
    if (summary.over) { clearTimeout(view.timer); view.pressed = view.busy = false; }
    const words = [h("code", {}, summary.path), h("span", { class: "epy-second" }, ` ${summary.pool} · ${count(summary.processes, "body", "bodies")}`)];
    const label = view.pressed ? "Cancelling" : summary.over ? "" : "Cancel";
    const { ended, wrong, state } = total.draw(summary, words, view.open, label, view.pressed);
    root.classList.toggle("epy-shut", !view.open); root.classList.toggle("epy-over", summary.over);
    more.hidden = !view.busy; body.hidden = !view.open;
    if (view.open) drawLines(summary); else note.hidden = true;
    if (over === false && summary.over) setText(spoken, `map of ${summary.path} ${state}, ${ended} ended, ${wrong} failed`);
    over = summary.over;
  };
  const drawing = drawer(root, draw);
  const heard = (message) => { if (message.now) heardClock(message.now); drawing.now(); };
  const changed = () => drawing.now();
  model.on("change:summary", changed); model.on("change:bodies", changed); model.on("msg:custom", heard);
  const ticker = setInterval(() => { if (!model.get("summary").over) drawing.now(); }, 1000);
  draw();
  model.send({ kind: "hello" });
  return () => { leave(); clearInterval(ticker); clearTimeout(view.timer); drawing.end(); model.off("change:summary", changed); model.off("change:bodies", changed); model.off("msg:custom", heard); };
}
export default { render };
