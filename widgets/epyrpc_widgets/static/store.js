// The transactions that a monitor's page knows, and files of them. The kernel sends rows as numbers, `full` once and then
// `delta`s.

const STATES = ["pending", "running", "streaming", "done", "failed", "timed out", "cancelled", "lost"];
const NUMBERS = 11;

// --- the transactions that this page knows

// Where the rows of a message begin, in the order of their numbers: the kernel tells first of what has ended.
const inOrder = (numbers) => {
  const places = [];
  let sorted = true;
  for (let i = 0; i < numbers.length; i += NUMBERS) { sorted = sorted && (!i || numbers[i] > numbers[i - NUMBERS]); places.push(i); }
  return sorted ? places : places.sort((a, b) => numbers[a] - numbers[b]);
};

const makeStore = () => {
  const store = { words: [], rows: new Map(), errors: {}, lanes: new Map(), summary: null, limit: 10000, workers: {} };
  store.clear = () => { store.rows = new Map(); store.lanes = new Map(); store.errors = {}; };
  // A call's lane is that of the worker which runs it. Those that were over before that was told, which takes 10 ms,
  // get the first one that was free when they began.
  const place = (row) => {
    const key = row.group = row.incoming ? "here" : row.target;
    let lanes = store.lanes.get(key);
    if (!lanes) store.lanes.set(key, lanes = { workers: [], events: false });
    if (row.event) { lanes.events = true; return; }
    if (row.lane === undefined && row.state === "pending") return;
    const workers = lanes.workers, begin = row.started + (row.waited || 0);
    if (row.worker) { row.lane = row.worker - 1; while (workers.length <= row.lane) workers.push({ until: 0, by: 0 }); }
    else if (row.lane === undefined) {
      row.lane = workers.findIndex((worker) => worker.until <= begin);
      if (row.lane < 0 && workers.length < (store.workers[key] || Infinity)) row.lane = workers.push({ until: 0, by: 0 }) - 1;
      if (row.lane < 0) { // none was free, so it had not begun when it seemed to
        row.lane = workers.reduce((best, worker, i) => (worker.until < workers[best].until ? i : best), 0);
        row.after = workers[row.lane].until;
      }
    }
    const worker = workers[row.lane], end = row.ended ? row.started + row.elapsed : Infinity;
    if (worker.by === row.number || end > worker.until) { worker.until = end; worker.by = row.number; }
  };
  store.take = (message, numbers) => {
    store.words.splice(message.first_word, store.words.length, ...message.words);
    Object.assign(store.errors, message.errors);
    store.summary = message.summary;
    store.limit = message.summary.limit;
    store.workers = message.summary.workers || {};
    for (const number of message.gone || []) { store.rows.delete(number); delete store.errors[number]; }
    for (const i of inOrder(numbers)) {
      const [number, prefix, id, path, target, code, started, waited, elapsed, worker, size] = numbers.subarray(i, i + NUMBERS);
      const row = store.rows.get(number) || { number };
      row.event = (code & 16) !== 0; row.incoming = (code & 8) !== 0; row.state = STATES[code & 7];
      row.id = row.event ? "" : store.words[prefix] + id; row.path = store.words[path]; row.target = store.words[target];
      row.started = started; row.waited = waited < 0 ? null : waited; row.elapsed = elapsed; row.ended = ENDED.has(row.state); row.worker = worker; row.size = size;
      store.rows.set(number, row);
      place(row);
    }
    if (store.rows.size > store.limit + 500) {
      let surplus = store.rows.size - store.limit;
      for (const [number, row] of store.rows) {
        if (surplus <= 0) break;
        if (!row.ended) continue;
        store.rows.delete(number); delete store.errors[number]; surplus--;
      }
    }
  };
  return store;
};
const numbersOf = (view) => {
  const raw = view instanceof ArrayBuffer ? view : view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
  return new Float64Array(raw);
};

// --- files to take away

const traceOf = (rows, errors) => {
  const events = [], bodies = new Map();
  for (const row of rows) {
    const body = row.group;
    if (!bodies.has(body)) { bodies.set(body, bodies.size + 1); events.push({ name: "process_name", ph: "M", pid: bodies.get(body), args: { name: body } }); }
    const at = { pid: bodies.get(body), tid: row.lane === undefined ? 0 : row.lane + 1, // the handler worker
      ts: Math.round(row.started * 1e6), cat: row.incoming ? "in" : "out" };
    if (row.event) { events.push({ ...at, name: row.path, ph: "i", s: "t" }); continue; }
    const waited = row.waited || 0;
    events.push({ ...at, name: row.path, ph: "X", ts: Math.round((row.started + waited) * 1e6), dur: Math.round(Math.max(0, row.elapsed - waited) * 1e6),
      args: { id: row.id, state: row.state, wait_seconds: waited, bytes: row.size, ...(errors[row.number] ? { error: errors[row.number] } : {}) } });
  }
  return JSON.stringify({ traceEvents: events, displayTimeUnit: "ms" });
};
const csvOf = (rows, errors) => {
  const quote = (value) => /[",\n]/.test(String(value)) ? `"${String(value).replace(/"/g, '""')}"` : String(value);
  const lines = [["state", "id", "direction", "path", "body", "started", "wait_seconds", "elapsed_seconds", "worker", "bytes", "error"].join(",")];
  for (const row of rows) {
    lines.push([row.event ? "event" : row.state, row.id, row.incoming ? "in" : "out", row.path, row.target, new Date(row.started * 1000).toISOString(), row.waited === null ? "" : row.waited.toFixed(6), row.elapsed.toFixed(6), row.worker || "", row.size || "", errors[row.number] || ""].map(quote).join(","));
  }
  return lines.join("\n") + "\n";
};
const giveFile = (name, type, text) => {
  const link = h("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  document.body.append(link); link.click(); link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};
