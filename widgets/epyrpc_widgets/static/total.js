// The head of a list of many things: what they are, a tally by state, a bar of all, rate, rest, a button.

const TALLY = ["done", "failed", "timed out", "lost", "cancelled", "running", "streaming", "pending"];

const totalOf = (toggle, act) => {
  const chevron = glyph("chevron"), icon = glyph("pending"), title = h("b", { class: "epy-name" }), tally = h("span", { class: "epy-tally" });
  chevron.classList.add("epy-chevron"); icon.classList.add("epy-toned");
  const parts = { done: h("i", { class: "epy-partdone" }), failed: h("i", { class: "epy-partfailed" }), running: h("i", { class: "epy-partrunning" }) };
  const bar = h("span", { class: "epy-bar epy-totalbar", role: "progressbar", "aria-valuemin": 0 }, ...Object.values(parts));
  const of = h("span", { class: "epy-number epy-of" }), rate = h("span", { class: "epy-number epy-second epy-rate" }), eta = h("span", { class: "epy-number epy-second epy-eta" }), elapsed = h("span", { class: "epy-number epy-lasted" });
  const head = h("button", { type: "button", class: "epy-listhead", "aria-expanded": "true", onclick: toggle }, chevron, icon, title, tally, bar, of, rate, eta, elapsed);
  const action = button("", act, { class: "epy-button epy-action" });
  const top = h("div", { class: "epy-listtop" }, head, action);

  const drawTally = (counts) => {
    const key = JSON.stringify(counts);
    if (tally.key === key) return;
    tally.key = key;
    tally.replaceChildren(...TALLY.filter((state) => counts[state]).map((state) => {
      const mark = glyph(state); mark.classList.add("epy-toned");
      return h("span", { "data-state": state, title: state }, mark, ` ${thousands(counts[state])}`, h("span", { class: "epy-hidden" }, ` ${state}`));
    }));
  };
  // `words` is the title; a total of null is not known yet.
  const draw = (summary, words, open, label, disabled) => {
    const n = (state) => summary.counts[state] || 0, wrong = n("failed") + n("timed out") + n("lost"), ended = n("done") + wrong + n("cancelled"), active = n("running") + n("streaming");
    const spent = summary.over ? summary.elapsed : kernelNow() - summary.started, all = summary.total === null ? ended + active : summary.total;
    const state = summary.state || (summary.over ? (wrong ? "failed" : "done") : active ? "running" : "pending");
    setAttribute(top, "data-state", state); setGlyph(icon, state);
    const said = words.map((word) => word.textContent || word).join("");
    if (title.textContent !== said) title.replaceChildren(...words);
    drawTally(summary.tally || summary.counts);
    parts.done.style.flexGrow = String(n("done")); parts.failed.style.flexGrow = String(wrong); parts.running.style.flexGrow = String(active);
    bar.style.setProperty("--epy-rest", String(Math.max(0, all - n("done") - wrong - active)));
    const speed = ended / Math.max(0.001, spent), known = summary.total !== null && !summary.over && (ended >= 3 || (ended > 0 && spent >= 1));
    const rest = known ? remaining((all - ended) / speed) : "";
    setAttribute(bar, "aria-valuemax", all); setAttribute(bar, "aria-valuenow", ended); setAttribute(bar, "aria-valuetext", `${thousands(ended)} of ${summary.total === null ? "an unknown number" : thousands(all)}${known ? `, about ${aloud(rest)} left` : ""}`);
    setText(of, summary.total === null ? thousands(ended) : `${thousands(ended)}/${thousands(all)}`);
    setText(rate, ended ? perSecond(speed) : ""); setText(eta, known ? `ETA ${rest}` : "");
    setText(elapsed, summary.over ? seconds(spent) : ticking(spent));
    setText(action, label); action.disabled = disabled; action.style.visibility = label ? "" : "hidden";
    setAttribute(action, "aria-label", label ? `${label}, ${said}` : null);
    setAttribute(head, "aria-expanded", String(open));
    setAttribute(head, "aria-label", `${state}, ${said}, ${thousands(ended)} ended, ${thousands(wrong)} failed`);
    return { ended, wrong, state };
  };
  return { top, draw };
};
