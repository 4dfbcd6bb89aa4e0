// A body as a card. The card is the model's trait; what a button did comes as a message.

const SAID_FOR = 5000; // milliseconds that a button's effect is told

function render({ model, el }) {
  const root = h("div", { class: "epy epy-body", role: "group" });
  const leave = prepare(root, model, () => {
    const c = model.get("card"), cpu = c.cpu[c.cpu.length - 1], size = c.rss[c.rss.length - 1];
    return staticTable(["Body", "State", "Pid", "Handlers busy", "Queue", "CPU", "RSS", "Transport"], [[c.name, c.state === "running" ? "● running" : said(c.state), c.pid || "", `${c.busy}/${c.workers}`, c.waiting, cpu === undefined ? "" : `${cpu} %`, size === undefined ? "" : bytes(size), c.transport]], 0);
  });
  const view = { pressed: "", timer: 0, busy: false, said: "", sayTimer: 0 };
  const icon = glyph("dot"), name = h("b", { class: "epy-name" }), state = h("span", { class: "epy-state" });
  icon.classList.add("epy-toned");
  const facts = h("span", { class: "epy-facts epy-second epy-cut" });
  const buttons = {
    interrupt: button("Interrupt", () => press("interrupt"), { title: "Interrupts what runs now. Variables stay." }),
    restart: button("Restart", () => press("restart")),
    stop: button("Stop", () => press("stop"), { title: "Calls that run may finish within 5 seconds." }),
    "stop now": button("Stop now", () => press("stop now"), { title: "Stops by force." }),
  };
  const head = h("div", { class: "epy-bodyhead" }, icon, h("span", { class: "epy-title epy-cut" }, name, " ", state, " ", facts), h("span", { class: "epy-buttons" }, ...Object.values(buttons)));
  const squares = squaresOf(), cpuCurve = sparkOf(), rssCurve = sparkOf();
  const busy = figureOf("handlers busy", squares), queue = figureOf("queue"), cpu = figureOf("CPU", cpuCurve), rss = figureOf("memory (RSS)", rssCurve), calls = figureOf("calls");
  const figures = h("div", { class: "epy-figures" }, ...[busy, queue, cpu, rss, calls].map(({ node }) => node));
  const line = (label) => { const name = h("div", { class: "epy-second" }, label), value = h("div", { class: "epy-linevalue" }); return { node: h("div", { class: "epy-bodyline" }, name, value), name, value }; };
  const handles = line("handles"), why = line("why"), last = line("stderr");
  const spoken = h("div", { class: "epy-hidden", "aria-live": "polite" });
  root.append(head, figures, why.node, handles.node, last.node, spoken);
  el.append(root);

  const press = (what) => {
    if (view.pressed) return;
    view.pressed = what;
    view.timer = setTimeout(() => { view.busy = true; drawing.now(); }, KERNEL_SILENT);
    model.send({ kind: what });
    drawing.now();
  };
  let before = null;
  const draw = () => {
    const card = model.get("card");
    if (!card || !card.state) return;
    const alive = card.state === "running", stopping = card.state === "stopping", ended = card.state === "died" || card.state === "stopped";
    // A press has been heard when what it asks for shows, or when its answer has come.
    if (view.pressed && card.state !== view.pressedState && view.pressedState) answered();
    if (view.pressed) view.pressedState = view.pressedState || card.state;
    setAttribute(root.querySelector(".epy-bodyhead"), "data-state", alive ? "done" : card.state);
    setGlyph(icon, BODY_SHAPES[card.state]); setText(name, card.name); setText(state, card.state);
    const up = kernelNow() - card.started, parts = [];
    if (view.busy) parts.push("the notebook is busy: press ■ to interrupt the cell");
    else if (view.said) parts.push(view.said);
    else if (stopping) {
      if (card.busy + card.waiting) parts.push(`${count(card.busy + card.waiting, "call still runs", "calls still run")}`);
      parts.push(`stopped by force in ${Math.max(0, Math.ceil(card.stop_seconds - (kernelNow() - card.stopping_since)))} s`);
    } else {
      if (card.pid !== null) parts.push(card.thread ? "a thread" : `pid ${card.pid}`, `${card.transport} transport`, `up ${ticking(up)}`);
      else if (ended) {
        if (card.last_pid) parts.push(`pid ${card.last_pid}`);
        if (card.lived) parts.push(`lived ${ticking(card.lived)}`, `ended ${clock(card.ended - skew.seconds, 0)}`);
        if (card.exitcode !== null && card.state === "stopped") parts.push(`exit code ${card.exitcode}`);
      }
    }
    setText(facts, parts.join(" · "));
    facts.classList.toggle("epy-warn", view.busy);
    buttons.interrupt.hidden = ended; buttons.stop.hidden = ended || stopping; buttons["stop now"].hidden = !stopping;
    for (const [key, node] of Object.entries(buttons)) node.disabled = Boolean(view.pressed && !(view.pressed === "stop" && key === "stop now")) || (stopping && key !== "stop now") || (card.state === "starting");
    setText(buttons.restart, view.pressed === "restart" ? "Restarting" : "Restart");
    setAttribute(buttons.restart, "title", `Starts again with its ${count(card.handlers, "handler", "handlers")}. Variables are lost.`);
    figures.hidden = !alive;
    setText(busy.value, `${card.busy}/${card.workers}`);
    drawSquares(squares, Math.min(card.workers, 16), card.busy);
    setText(calls.value, thousands(card.calls)); setText(calls.unit, card.rate ? perSecond(card.rate) : "");
    setText(queue.value, thousands(card.waiting)); setText(queue.unit, card.waiting === 1 ? "call" : "calls");
    const now = card.cpu[card.cpu.length - 1], size = card.rss[card.rss.length - 1];
    cpu.node.hidden = now === undefined; rss.node.hidden = size === undefined;
    if (now !== undefined) { setText(cpu.value, `${now} %`); sparkline(cpuCurve, card.cpu, Math.max(100, ...card.cpu)); }
    if (size !== undefined) { setText(rss.value, bytes(size)); sparkline(rssCurve, card.rss, 1.25 * Math.max(1, ...card.rss)); }
    handles.node.hidden = !card.paths.length || ended || stopping;
    const key = card.paths.join(" ") + card.more_paths;
    if (handles.key !== key) { handles.key = key; handles.value.replaceChildren(...card.paths.map((path) => h("code", {}, path)), card.more_paths ? h("span", { class: "epy-second" }, `and ${card.more_paths} more`) : ""); }
    why.node.hidden = card.state !== "died"; setText(why.value, card.why || `exit code ${card.exitcode}`); why.value.className = "epy-linevalue epy-bad";
    const words = card.last_lines.length ? (card.state === "died" ? card.last_lines : card.last_lines.slice(-1)) : [];
    last.node.hidden = !words.length || card.state === "stopped" || stopping;
    setText(last.name, card.state === "died" ? "last stderr" : "stderr");
    const text = words.join("\n");
    if (last.key !== text + card.state) {
      last.key = text + card.state;
      const pre = h("pre", { class: card.state === "died" ? "epy-last epy-lastbox" : "epy-last epy-cut" });
      if (card.state === "died" && card.earlier_lines) pre.append(h("span", { class: "epy-second" }, `  … ${count(card.earlier_lines, "earlier line", "earlier lines")}\n`));
      pre.append(ansi(text));
      last.value.replaceChildren(pre);
    }
    setAttribute(root, "aria-label", `body ${card.name}, ${card.state}`);
    if (before !== null && before !== card.state) setText(spoken, `body ${card.name} ${card.state}`);
    before = card.state;
  };
  const answered = () => { clearTimeout(view.timer); view.pressed = ""; view.pressedState = ""; view.busy = false; };
  const drawing = drawer(root, draw);
  const heard = (message) => {
    if (message.now) heardClock(message.now);
    if (message.kind === "did") {
      answered();
      if (message.text) {
        view.said = message.text; setText(spoken, message.text);
        clearTimeout(view.sayTimer); view.sayTimer = setTimeout(() => { view.said = ""; drawing.now(); }, SAID_FOR);
      }
    }
    drawing.now();
  };
  const changed = () => drawing.now();
  model.on("change:card", changed);
  model.on("msg:custom", heard);
  const ticker = setInterval(changed, 1000);
  draw();
  model.send({ kind: "hello" });
  return () => {
    leave(); clearInterval(ticker); clearTimeout(view.timer); clearTimeout(view.sayTimer); drawing.end();
    model.off("change:card", changed); model.off("msg:custom", heard);
  };
}
export default { render };
