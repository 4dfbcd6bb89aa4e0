// What the middle of a call's row says, in each state.

const SAYS = { pending: "waiting for a handler" };
const KERNEL_SILENT = 1000; // milliseconds until a press that nobody has heard is explained

// Whose call it is, and its id, which narrow rows leave out.
const whereabouts = (node, row) => {
  const id = [row.id, row.retry_of ? `retry of ${row.retry_of}` : ""].filter(Boolean).join(" · "), key = `${row.target}|${id}`;
  if (node.key === key) return;
  node.key = key;
  node.replaceChildren(row.target, id ? h("span", { class: "epy-id" }, `${row.target ? " · " : ""}${id}`) : "");
};

const middle = (slot, row, busy, note) => {
  const show = (kind, ...children) => { slot.className = `epy-middle epy-cut epy-${kind}`; slot.replaceChildren(...children); };
  const progress = row.progress;
  if (note) return show("bad", note);
  if (busy) return show("warn", "the notebook is busy: press ■ to interrupt the cell");
  if (row.ended && row.state === "done") return row.text ? show("mono", `→ ${row.text}`) : show("plain");
  if (row.state === "failed") return show("mono epy-bad", row.text);
  if (row.state === "lost") return show("bad", row.text);
  if (row.ended) return show("second", row.text);
  if (row.state === "streaming") {
    const since = Math.max(0.001, kernelNow() - row.started);
    if (row.unread >= 64) return show("plain", count(row.unread, "part waits", "parts wait"), " to be read");
    return show("plain", count(row.parts, "part", "parts"), h("span", { class: "epy-second epy-gap" }, perSecond(row.parts / since)), row.bytes ? h("span", { class: "epy-second epy-gap" }, bytes(row.bytes)) : "");
  }
  if (progress && progress[1] > 0) {
    const [done, total, rate, eta] = progress, spent = kernelNow() - row.started;
    let bar = slot.querySelector(".epy-bar");
    if (!bar) {
      slot.className = "epy-middle epy-progress";
      bar = h("span", { class: "epy-bar", role: "progressbar", "aria-valuemin": 0 }, h("i"));
      slot.replaceChildren(bar, h("span", { class: "epy-number epy-of" }), h("span", { class: "epy-number epy-rate epy-second" }), h("span", { class: "epy-number epy-eta epy-second" }));
    }
    const known = eta !== null && done < total && (done >= 3 || spent >= 1);
    bar.firstChild.style.transform = `scaleX(${Math.min(1, done / total)})`;
    setAttribute(bar, "aria-valuemax", total); setAttribute(bar, "aria-valuenow", done);
    setAttribute(bar, "aria-valuetext", `${thousands(done)} of ${thousands(total)}${known ? `, about ${aloud(remaining(eta))} left` : ""}`);
    setText(slot.children[1], `${thousands(done)}/${thousands(total)}`);
    setText(slot.children[2], rate ? perSecond(rate) : "");
    setText(slot.children[3], known ? `ETA ${remaining(eta)}` : "");
    return undefined;
  }
  if (progress) return show("plain", `${thousands(progress[0])} steps`, h("span", { class: "epy-second epy-gap" }, progress[2] ? perSecond(progress[2]) : ""));
  if (row.state === "pending") return show("second", row.text ? `${SAYS.pending} · ${row.text}` : SAYS.pending);
  if (row.text) return show("mono epy-second", row.text);
  return show("second", SAYS[row.state] || "");
};

