// What the views share: elements, glyphs, words for numbers, ANSI colours, drawing once a frame, the page's clock.
// It stands in front of each view's own module, which is why it exports nothing.

const h = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
};

// Changing a text that is the same already would make screen readers, and the layout, look again.
const setText = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const setAttribute = (node, name, value) => {
  if (value === null) { if (node.hasAttribute(name)) node.removeAttribute(name); }
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
};

// --- glyphs: a state is a word, a shape and a colour; the shapes differ where the colours may look alike

const SHAPES = {
  pending: '<circle cx="7" cy="7" r="5.2" fill="none" stroke="currentColor" stroke-width="1.5"/>',
  running: '<circle cx="7" cy="7" r="5.2" fill="none" stroke="currentColor" stroke-width="1.5"/><path d="M7 1.8a5.2 5.2 0 0 0 0 10.4z" fill="currentColor"/>',
  streaming: '<path d="M2 3l4 4-4 4M7.5 3l4 4-4 4" fill="none" stroke="currentColor" stroke-width="1.7"/>',
  done: '<path d="M2 7.6l3.3 3.3L12 3.8" fill="none" stroke="currentColor" stroke-width="1.9"/>',
  failed: '<circle cx="7" cy="7" r="6" fill="currentColor"/><path d="M4.7 4.7l4.6 4.6M9.3 4.7L4.7 9.3" stroke="var(--epy-page)" stroke-width="1.6"/>',
  "timed out": '<circle cx="7" cy="7" r="5.2" fill="none" stroke="currentColor" stroke-width="1.5"/><path d="M7 3.8V7l2.2 1.6" fill="none" stroke="currentColor" stroke-width="1.5"/>',
  cancelled: '<circle cx="7" cy="7" r="5.2" fill="none" stroke="currentColor" stroke-width="1.5"/><path d="M3.4 10.6l7.2-7.2" stroke="currentColor" stroke-width="1.5"/>',
  lost: '<path d="M7 1.6L13 12.2H1z" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linejoin="round"/><path d="M7 5.4v3.2M7 9.6v1.3" stroke="currentColor" stroke-width="1.5"/>',
  dot: '<circle cx="7" cy="7" r="4" fill="currentColor"/>',
  square: '<rect x="3" y="3" width="8" height="8" fill="currentColor"/>',
  chevron: '<path d="M4.5 2.5L9 7l-4.5 4.5" fill="none" stroke="currentColor" stroke-width="1.6"/>',
};
const ENDED = new Set(["done", "failed", "timed out", "cancelled", "lost"]);

const glyph = (shape) => {
  const node = h("span", { class: "epy-glyph", "aria-hidden": "true" });
  setGlyph(node, shape);
  return node;
};
const setGlyph = (node, shape) => {
  if (node.dataset.shape === shape) return;
  node.dataset.shape = shape;
  node.innerHTML = `<svg viewBox="0 0 14 14" width="14" height="14">${SHAPES[shape] || ""}</svg>`;
};

// --- numbers as people read them

const two = (n) => String(n).padStart(2, "0");
const three = (value) => value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
const thousands = (n) => Math.round(n).toLocaleString("en-US");
const seconds = (s) => {
  if (s < 0.0001) return `${Math.round(s * 1e6)} µs`;
  if (s < 0.00995) return `${(s * 1000).toFixed(1)} ms`;
  if (s < 0.9995) return `${Math.round(s * 1000)} ms`;
  if (s < 59.95) return `${s < 9.995 ? s.toFixed(2) : s.toFixed(1)} s`;
  return minutes(Math.round(s));
};
const minutes = (whole) => whole < 3600
  ? `${Math.floor(whole / 60)} min ${two(whole % 60)} s`
  : `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
const ticking = (s) => { const whole = Math.max(0, Math.floor(s)); return whole < 60 ? `${whole} s` : minutes(whole); };
const remaining = (s) => s < 1 ? "<1 s" : s < 60 ? `${Math.round(s)} s` : minutes(Math.round(s));
// For who listens: units as words.
const UNITS = { "µs": "microsecond", ms: "millisecond", s: "second", min: "minute", h: "hour" };
const aloud = (text) => text.replace("<1 s", "less than 1 s").replace(/([\d.]+) (µs|ms|s|min|h)\b/g, (_, n, unit) => `${Number(n)} ${UNITS[unit]}${Number(n) === 1 ? "" : "s"}`);
const perSecond = (rate) => `${rate < 100 ? rate.toFixed(1) : thousands(rate)}/s`;
const bytes = (n) => {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) if (n >= size) return `${three(n / size)} ${unit}`;
  return `${Math.round(n)} B`;
};
const clock = (epoch, digits = 3) => {
  const at = new Date(epoch * 1000);
  const text = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  return digits ? `${text}.${String(at.getMilliseconds()).padStart(3, "0")}` : text;
};
const count = (n, one, many) => `${thousands(n)} ${n === 1 ? one : many}`;

// --- text with ANSI colours, as elements

const ANSI = /\x1b\[([0-9;]*)m|\x1b\[[0-9;?]*[A-Za-z]/g;
const COLOURS = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];
const ansi = (text) => {
  const out = document.createDocumentFragment();
  let classes = new Set(), from = 0;
  const add = (piece) => {
    if (!piece) return;
    out.append(classes.size ? h("span", { class: [...classes].join(" ") }, piece) : piece);
  };
  const colour = (code) => {
    classes = new Set([...classes].filter((name) => name === "epy-bold" || name === "epy-faint"));
    classes.add(`epy-ansi-${COLOURS[code]}`);
  };
  for (const match of text.matchAll(ANSI)) {
    add(text.slice(from, match.index));
    from = match.index + match[0].length;
    if (match[1] === undefined) continue;
    const codes = match[1].split(";").map(Number);
    for (let i = 0; i < codes.length; i++) {
      const code = codes[i];
      if (code === 0) classes = new Set();
      else if (code === 1) classes.add("epy-bold");
      else if (code === 2) classes.add("epy-faint");
      else if (code === 22) { classes.delete("epy-bold"); classes.delete("epy-faint"); }
      else if (code >= 30 && code <= 37) colour(code - 30);
      else if (code >= 90 && code <= 97) colour(code - 90);
      else if (code === 39) classes = new Set([...classes].filter((name) => !name.startsWith("epy-ansi")));
      else if (code === 38 || code === 48) i += codes[i + 1] === 5 ? 2 : 4; // 256 and true colours: the ink serves
    }
  }
  add(text.slice(from));
  return out;
};
// A carriage return starts the line again, as progress bars of terminals want it.
const settleLines = (text) => text.replace(/\r+\n/g, "\n").split("\n").map((line) => line.slice(line.lastIndexOf("\r") + 1)).join("\n");

// --- drawing

// At most one drawing a frame, and none while the view is off the screen.
const drawer = (node, draw) => {
  let asked = 0, visible = true, missed = false;
  const run = () => { asked = 0; if (visible) draw(); else missed = true; };
  const watcher = new IntersectionObserver((entries) => {
    visible = entries[entries.length - 1].isIntersecting;
    if (visible && missed) { missed = false; run(); }
  });
  watcher.observe(node);
  return {
    now: () => { if (!asked) asked = requestAnimationFrame(run); },
    end: () => { cancelAnimationFrame(asked); watcher.disconnect(); },
  };
};

// The kernel's clock may differ from the page's; a difference of less than two seconds is the way of a message.
const skew = { seconds: 0 };
const heardClock = (now) => { const off = now - Date.now() / 1000; skew.seconds = Math.abs(off) > 2 ? off : 0; };
const kernelNow = () => skew.stopped || Date.now() / 1000 + skew.seconds;

const button = (text, action, attributes = {}) => h("button", { type: "button", class: "epy-button", onclick: action, ...attributes }, text);

const copyText = async (text, node) => {
  const before = node.textContent;
  try { await navigator.clipboard.writeText(text); setText(node, "Copied"); }
  catch { setText(node, "Cannot copy here"); }
  setTimeout(() => setText(node, before), 1500);
};
