// What the cards and the monitor draw of numbers: figures with a label, small curves.

const BODY_SHAPES = { starting: "pending", stopping: "pending", restarting: "pending", running: "dot", died: "lost", stopped: "square", "shut down": "square", broken: "lost" };
const KERNEL_SILENT = 1000; // milliseconds until a press that nobody has heard is explained

const svgOf = (box, className) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", box); svg.setAttribute("class", className); svg.setAttribute("aria-hidden", "true");
  return svg;
};
// A curve of the last minute, a value a second, the latest at the right edge.
const sparkOf = () => svgOf("0 0 64 18", "epy-spark");
const sparkline = (svg, values, top) => {
  const width = 64, height = 18, n = 60;
  const key = `${values.length}|${values[values.length - 1]}|${top}`;
  if (svg.key === key) return;
  svg.key = key;
  if (values.length < 2) { svg.replaceChildren(); return; }
  const x = (i) => width - ((values.length - 1 - i) * width) / (n - 1);
  const y = (v) => height - 1 - (Math.min(v, top) / top) * (height - 2);
  const points = values.map((v, i) => `${x(i).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
  svg.innerHTML = `<polygon class="epy-area" points="${x(0).toFixed(1)},${height} ${points} ${width},${height}"/><polyline class="epy-curve" points="${points}"/>`;
};
const figureOf = (label, extra) => {
  const value = h("b", { class: "epy-value15" }), unit = h("span", { class: "epy-second" });
  const node = h("div", { class: "epy-figure" }, h("div", { class: "epy-figurelabel epy-second" }, label), h("div", { class: "epy-figureline" }, h("span", {}, value, " ", unit), extra || ""));
  return { node, value, unit };
};
const squaresOf = () => h("span", { class: "epy-squares", "aria-hidden": "true" });
const drawSquares = (squares, all, on) => {
  while (squares.children.length > all) squares.lastChild.remove();
  while (squares.children.length < all) squares.append(h("i"));
  [...squares.children].forEach((box, i) => box.classList.toggle("epy-on", i < on));
};
