// A pool as a card: figures of the whole, and a line for each process.

function render({ model, el }) {
  const root = h("div", { class: "epy epy-body epy-pool", role: "group" });
  const leave = prepare(root, model, () => staticTable(["Body", "State", "Pid", "Tasks done", "CPU", "RSS"], model.get("card").members.map((m) => [m.name, m.state === "running" ? "● running" : said(m.state), m.pid || "", thousands(m.done), m.cpu === null || m.cpu === undefined ? "" : `${m.cpu} %`, m.rss ? bytes(m.rss) : ""]), 0));
  const view = { pressed: "", timer: 0, busy: false, said: "" };
  const icon = glyph("dot"), name = h("b", { class: "epy-name" }), state = h("span", { class: "epy-state" }), facts = h("span", { class: "epy-facts epy-second epy-cut" });
  icon.classList.add("epy-toned");
  const buttons = {
    interrupt: button("Interrupt all", () => press("interrupt"), { title: "Interrupts what runs now." }),
    restart: button("Restart", () => press("restart"), { title: "Starts every process again, with its handlers. What runs is lost." }),
    stop: button("Stop", () => press("stop"), { title: "What runs is lost." }),
  };
  const head = h("div", { class: "epy-bodyhead" }, icon, h("span", { class: "epy-title epy-cut" }, name, " ", state, " ", facts), h("span", { class: "epy-buttons" }, ...Object.values(buttons)));
  const squares = squaresOf(), cpuCurve = sparkOf(), rssCurve = sparkOf();
  const busy = figureOf("bodies busy", squares), queue = figureOf("queue"), cpu = figureOf("CPU", cpuCurve), rss = figureOf("memory (RSS)", rssCurve), done = figureOf("done");
  const figures = h("div", { class: "epy-figures" }, ...[busy, queue, cpu, rss, done].map(({ node }) => node));
  const titles = h("div", { class: "epy-member epy-second", "aria-hidden": "true" }, ...["", "body", "state", "pid", "now", "for", "busy", "CPU", "", "RSS"].map((text, i) => h("span", { class: ["pid", "for", "RSS"].includes(text) ? "epy-number" : "" }, text)));
  const members = h("div", { class: "epy-members" }, titles);
  const spoken = h("div", { class: "epy-hidden", "aria-live": "polite" });
  root.append(head, figures, members, spoken);
  el.append(root);
  const lines = [];

  const press = (what) => {
    if (view.pressed) return;
    view.pressed = what; view.timer = setTimeout(() => { view.busy = true; drawing.now(); }, KERNEL_SILENT);
    model.send({ kind: what }); drawing.now();
  };
  let before = null;
  const draw = () => {
    const card = model.get("card");
    if (!card || !card.state) return;
    const alive = card.state === "running";
    setAttribute(head, "data-state", alive ? "done" : card.state === "broken" ? "died" : "stopped");
    setGlyph(icon, BODY_SHAPES[card.state] || "square"); setText(name, card.name); setText(state, card.state);
    setText(facts, view.busy ? "the notebook is busy: press ■ to interrupt the cell" : view.said || [`pool of ${card.processes}`, card.transport ? `${card.transport} transport` : "", alive ? `up ${ticking(kernelNow() - card.started)}` : ""].filter(Boolean).join(" · "));
    facts.classList.toggle("epy-warn", view.busy);
    for (const node of Object.values(buttons)) { node.hidden = !alive; node.disabled = Boolean(view.pressed); }
    figures.hidden = members.hidden = !alive;
    setText(busy.value, `${card.busy}/${card.processes}`);
    drawSquares(squares, Math.min(card.processes, 32), card.busy);
    setText(queue.value, thousands(card.queued)); setText(queue.unit, card.queued === 1 ? "task" : "tasks");
    const now = card.cpu[card.cpu.length - 1], size = card.rss[card.rss.length - 1];
    cpu.node.hidden = now === undefined; rss.node.hidden = size === undefined;
    if (now !== undefined) { setText(cpu.value, now.toFixed(2)); setText(cpu.unit, "cores"); sparkline(cpuCurve, card.cpu, Math.max(1, card.processes, ...card.cpu)); }
    if (size !== undefined) { setText(rss.value, bytes(size)); sparkline(rssCurve, card.rss, 1.25 * Math.max(1, ...card.rss)); }
    setText(done.value, thousands(card.done)); setText(done.unit, card.rate ? perSecond(card.rate) : "");
    while (lines.length > card.members.length) lines.pop().node.remove();
    while (lines.length < card.members.length) {
      const mark = glyph("dot"); mark.classList.add("epy-toned");
      const bar = h("span", { class: "epy-bar" }, h("i"));
      const what = h("code", {}), items = h("span", { class: "epy-second" });
      const cells = [mark, h("code", { class: "epy-cut" }), h("span", { class: "epy-state" }), h("span", { class: "epy-number epy-second" }), h("span", { class: "epy-cut" }, what, " ", items), h("span", { class: "epy-number epy-second" }), h("span", { class: "epy-squares" }, h("i")), h("span", {}, bar), h("span", { class: "epy-number" }), h("span", { class: "epy-number" })];
      const node = h("div", { class: "epy-member" }, ...cells);
      members.append(node); lines.push({ node, cells, bar, what, items });
    }
    card.members.forEach((member, i) => {
      const { node, cells, bar, what, items } = lines[i];
      setAttribute(node, "data-state", member.state === "running" ? "done" : member.state);
      setGlyph(cells[0], BODY_SHAPES[member.state]); setText(cells[1], member.name); setText(cells[2], member.state); setText(cells[3], member.pid === null ? "" : String(member.pid));
      setText(what, member.now); setText(items, member.items ? `items ${thousands(member.items[0])}–${thousands(member.items[1])}` : member.now ? "" : member.replaces);
      setText(cells[5], member.since ? ticking(kernelNow() - member.since) : "");
      cells[6].firstChild.classList.toggle("epy-on", member.busy);
      bar.firstChild.style.transform = `scaleX(${Math.min(1, (member.cpu || 0) / 100)})`;
      setText(cells[8], member.cpu === null || member.cpu === undefined ? "" : `${member.cpu} %`); setText(cells[9], member.rss ? bytes(member.rss) : "");
      setAttribute(node, "title", `${thousands(member.done)} done by this process`);
    });
    setAttribute(root, "aria-label", `pool ${card.name}, ${card.state}`);
    if (before !== null && before !== card.state) setText(spoken, `pool ${card.name} ${card.state}`);
    before = card.state;
  };
  const drawing = drawer(root, draw);
  const heard = (message) => {
    if (message.kind !== "did") return;
    clearTimeout(view.timer); view.pressed = ""; view.busy = false;
    if (message.text) { view.said = message.text; setText(spoken, message.text); setTimeout(() => { view.said = ""; drawing.now(); }, 5000); }
    drawing.now();
  };
  const changed = () => drawing.now();
  model.on("change:card", changed); model.on("msg:custom", heard);
  const ticker = setInterval(changed, 1000);
  draw();
  return () => { leave(); clearInterval(ticker); clearTimeout(view.timer); drawing.end(); model.off("change:card", changed); model.off("msg:custom", heard); };
}
export default { render };
