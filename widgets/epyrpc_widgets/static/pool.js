// A pool as a card: figures of the whole, and a line for each process.

const KERNEL_SILENT = 1000;
const BODY_SHAPES = { starting: "pending", stopping: "pending", running: "dot", died: "lost", stopped: "square", "shut down": "square", broken: "lost" };

const sparkline = (svg, values, top) => {
  const width = 64, height = 18, n = 60;
  if (values.length < 2) { svg.replaceChildren(); return; }
  const x = (i) => width - ((values.length - 1 - i) * width) / (n - 1), y = (v) => height - 1 - (Math.min(v, top) / top) * (height - 2);
  const points = values.map((v, i) => `${x(i).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
  svg.innerHTML = `<polygon class="epy-area" points="${x(0).toFixed(1)},${height} ${points} ${width},${height}"/><polyline class="epy-curve" points="${points}"/>`;
};

function render({ model, el }) {
  const root = h("div", { class: "epy epy-body epy-pool", role: "group" });
  prepare(root, model);
  const view = { pressed: "", timer: 0, busy: false, said: "" };
  const icon = glyph("dot"), name = h("b", { class: "epy-name" }), state = h("span", { class: "epy-state" }), facts = h("span", { class: "epy-facts epy-second epy-cut" });
  icon.classList.add("epy-toned");
  const buttons = {
    interrupt: button("Interrupt all", () => press("interrupt"), { title: "Interrupts what runs now." }),
    restart: button("Restart", () => press("restart"), { title: "Starts every process again, with its handlers. What runs is lost." }),
    stop: button("Stop", () => press("stop"), { title: "What runs is lost." }),
  };
  const head = h("div", { class: "epy-bodyhead" }, icon, h("span", { class: "epy-title epy-cut" }, name, " ", state, " ", facts), h("span", { class: "epy-buttons" }, ...Object.values(buttons)));
  const figure = (label) => {
    const value = h("b", { class: "epy-value15" }), unit = h("span", { class: "epy-second" }), extra = h("span", {});
    return { node: h("div", { class: "epy-figure" }, h("div", { class: "epy-figurelabel epy-second" }, label), h("div", { class: "epy-figureline" }, h("span", {}, value, " ", unit), extra)), value, unit, extra };
  };
  const curve = () => { const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"); svg.setAttribute("viewBox", "0 0 64 18"); svg.setAttribute("class", "epy-spark"); svg.setAttribute("aria-hidden", "true"); return svg; };
  const busy = figure("bodies busy"), queue = figure("queue"), cpu = figure("CPU"), rss = figure("memory (RSS)"), done = figure("done");
  const squares = h("span", { class: "epy-squares", "aria-hidden": "true" }), cpuCurve = curve(), rssCurve = curve();
  busy.extra.append(squares); cpu.extra.append(cpuCurve); rss.extra.append(rssCurve);
  const figures = h("div", { class: "epy-figures epy-five" }, ...[busy, queue, cpu, rss, done].map(({ node }) => node));
  const titles = h("div", { class: "epy-member epy-second", "aria-hidden": "true" }, ...["", "body", "state", "pid", "", "done", "CPU", "", "RSS"].map((text, i) => h("span", { class: i > 4 || i === 3 ? "epy-number" : "" }, text)));
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
    setText(facts, view.busy ? "the notebook is busy: press ■ to interrupt the cell" : view.said || `pool of ${card.processes}`);
    facts.classList.toggle("epy-warn", view.busy);
    for (const node of Object.values(buttons)) { node.hidden = !alive; node.disabled = Boolean(view.pressed); }
    figures.hidden = members.hidden = !alive;
    setText(busy.value, `${card.busy}/${card.processes}`);
    const boxes = Math.min(card.processes, 32);
    while (squares.children.length > boxes) squares.lastChild.remove();
    while (squares.children.length < boxes) squares.append(h("i"));
    [...squares.children].forEach((box, i) => box.classList.toggle("epy-on", i < card.busy));
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
      const cells = [mark, h("code", { class: "epy-cut" }), h("span", { class: "epy-state" }), h("span", { class: "epy-number epy-second" }), h("span", { class: "epy-squares" }, h("i")), h("span", { class: "epy-number" }), h("span", {}, bar), h("span", { class: "epy-number" }), h("span", { class: "epy-number" })];
      const node = h("div", { class: "epy-member" }, ...cells);
      members.append(node); lines.push({ node, cells, bar });
    }
    card.members.forEach((member, i) => {
      const { node, cells, bar } = lines[i];
      setAttribute(node, "data-state", member.state === "running" ? "done" : member.state);
      setGlyph(cells[0], BODY_SHAPES[member.state]); setText(cells[1], member.name); setText(cells[2], member.state); setText(cells[3], member.pid === null ? "" : String(member.pid));
      cells[4].firstChild.classList.toggle("epy-on", member.busy);
      setText(cells[5], thousands(member.done));
      bar.firstChild.style.transform = `scaleX(${Math.min(1, (member.cpu || 0) / 100)})`;
      setText(cells[7], member.cpu === null || member.cpu === undefined ? "" : `${member.cpu} %`); setText(cells[8], member.rss ? bytes(member.rss) : "");
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
  draw();
  return () => { clearTimeout(view.timer); drawing.end(); model.off("change:card", changed); model.off("msg:custom", heard); };
}
export default { render };
