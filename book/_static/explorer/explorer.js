// The page side of the explorer: controls, drawing and gestures. What a point does is decided in basins.js, which comes
// first. A landscape of two dimensions is shown as a map of the starting points, one of one dimension as its graph, with
// a strip of the starting points below. Nothing here moves by itself, so there is nothing to switch off for readers who
// prefer reduced motion.
(() => {
  "use strict";

  const MOST_PIXELS = 1024;  // of the map in a row; below that, as many as the screen has
  const BAND = 8;            // rows that a worker computes at once: a multiple of the coarsest stride
  const COARSE_TO_FINE = [8, 4, 2, 1];
  const STRIP = 24;          // height of the strip below a graph, in CSS pixels as explorer.css has it
  const SHORTEST = 1e-3, LAST_STEPS = 300;  // a settled trajectory is drawn on until its steps are so short, or so many
  const RISING = "#D55E00";  // what comes before the last rise of the loss; red in the paper

  const root = document.querySelector(".basin-explorer");
  const { landscapes: given, colours: palette } = JSON.parse(root.querySelector("script").textContent);
  const basins = eoslibBasins(given);
  const { LANDSCAPES, UNKNOWN } = basins;
  const [map, overlay, loss] = root.querySelectorAll("canvas");
  const [select, slider] = root.querySelectorAll("select, input");

  // --- the state: what is shown, kept in the address ---------------------------------------------------------------

  let state;      // { name, fraction, x, y, half, start }: the square, or the interval, of half-width `half` around (x, y)
  let landscape;  // that of the state
  let balls;      // the traps at this step size
  let cross;      // where the cross hair is, moved by keys

  function initial(name) {
    const { half, fraction, start: [x0, y0 = 0], centre: [x, y = 0] = [0] } = LANDSCAPES[name].view;
    return { name, fraction, x, y, half, start: [x0, y0] };
  }
  const onALine = () => landscape.dimension === 1;
  const stepSize = () => state.fraction * (2 / landscape.sharpness);
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const nearby = (value) => clamp(value, -1000, 1000);
  const view = (x, y, half) => ({ x: nearby(x), y: nearby(y), half: clamp(half, 1e-10, 100) });

  const PREFIX = "#explorer?";

  /** The state that the address tells; what it leaves out is as at first. Null if it makes no sense. */
  function fromAddress() {
    const told = new URLSearchParams(location.hash.slice(PREFIX.length)), name = told.get("f");
    if (!location.hash.startsWith(PREFIX) || !Object.hasOwn(LANDSCAPES, name)) return null;
    const { start, ...rest } = initial(name);
    const numbers = { ...rest, x0: start[0], y0: start[1] };
    for (const key of ["fraction", "x", "y", "half", "x0", "y0"])
      if (told.has(key)) numbers[key] = parseFloat(told.get(key));
    const { fraction, x, y, half, x0, y0 } = numbers;
    if (![fraction, x, y, half, x0, y0].every(Number.isFinite)) return null;
    return { name, fraction: clamp(fraction, slider.min, most(name)), start: [x0, y0], ...view(x, y, half) };
  }
  const most = (name) => LANDSCAPES[name].view.most ?? 0.995;

  let timer;
  function toAddress() {  // not at each event of a gesture: browsers limit how often the address may change
    clearTimeout(timer);
    timer = setTimeout(() => {
      const { name, fraction, x, y, half, start } = state;
      const given = new URLSearchParams({ f: name, fraction, x, y, half, x0: start[0], y0: start[1] });
      history.replaceState(null, "", PREFIX + given);
    }, 250);
  }

  // --- the map: bands of rows, coarse passes first, by workers -----------------------------------------------------

  let columns, rows;    // of the map; one row for a landscape of one dimension
  let outcomes, image;  // of each pixel, row by row
  let pixels;           // the image as 32-bit numbers
  const colours = new Uint32Array(256);  // as the bytes of an image lie in memory: alpha, blue, green, red
  palette.forEach((c, i) => {
    colours[i] = Number(`0xff${c.slice(5, 7)}${c.slice(3, 5)}${c.slice(1, 3)}`);
  });

  /** As many pixels as the screen has; whether that is another number than before. */
  function measure() {
    const wanted = clamp(Math.round(map.clientWidth * devicePixelRatio), 64, MOST_PIXELS);
    const lines = onALine() ? 1 : wanted;
    if (wanted === columns && lines === rows) return false;
    [map.width, map.height] = [columns, rows] = [wanted, lines];
    outcomes = new Uint8Array(columns * rows).fill(UNKNOWN);
    image = new ImageData(columns, rows);
    pixels = new Uint32Array(image.data.buffer);
    return true;
  }

  let generation = 0, queue = [], unpainted = 0;
  const idle = new Set();

  function startWorkers() {
    const source = `const basins = (${eoslibBasins})(${JSON.stringify(given)});
      onmessage = ({ data }) => postMessage({ ...data, outcomes: basins.band(data) });`;
    const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    for (let i = 0; i < clamp(navigator.hardwareConcurrency || 1, 1, 4); i++) {
      const worker = new Worker(url);
      worker.onmessage = ({ data }) => {
        if (data.generation === generation) received(data);
        giveWork(worker);
      };
      giveWork(worker);
    }
  }

  function giveWork(worker) {
    const work = queue.shift();
    if (work) worker.postMessage(work);
    else idle.add(worker);
  }

  /** Compute the map anew, in passes of these strides; what workers still send of earlier views is dropped. */
  function compute([stride, ...finer]) {
    generation++;
    const pixel = 2 * state.half / columns;
    const job = {
      generation, name: state.name, stepSize: stepSize(), balls, columns, finer, pixel,
      left: state.x - state.half, top: onALine() ? pixel / 2 : state.y + state.half,  // its one row lies on y = 0
    };
    queue = Array.from({ length: Math.ceil(rows / BAND) }, (_, i) => i * BAND)
      .map((row) => ({ ...job, row, rows: Math.min(BAND, rows - row), stride, known: 0 }));
    unpainted = queue.length * (1 + finer.length);
    overlay.setAttribute("aria-busy", "true");
    for (const worker of [...idle]) {
      idle.delete(worker);
      giveWork(worker);
    }
  }

  /** Paint a band, and have its next pass computed: not before, for a coarse pass that comes late would hide a finer. */
  function received({ outcomes: band, ...work }) {
    const { row, stride, finer: [next, ...finer] } = work;
    const begin = row * columns;
    for (let i = 0; i < band.length; i++) if (band[i] !== UNKNOWN) outcomes[begin + i] = band[i];
    paint(row, work.rows);
    if (next) queue.push({ ...work, stride: next, finer, known: stride });
    unpainted--;
    if (unpainted % Math.ceil(rows / BAND) === 0) showShares();  // about after each pass
    if (unpainted === 0) overlay.setAttribute("aria-busy", "false");
  }

  function paint(row, count) {
    for (let i = row * columns; i < (row + count) * columns; i++) pixels[i] = colours[outcomes[i]];
    map.getContext("2d").putImageData(image, 0, 0, 0, row, columns, count);
  }

  function showShares() {
    const counts = new Array(palette.length).fill(0);
    for (const outcome of outcomes) if (outcome !== UNKNOWN) counts[outcome]++;
    root.querySelectorAll(".bx-legend td:last-child").forEach((cell, i) => {
      cell.textContent = counts[i] ? `${(100 * counts[i] / outcomes.length).toFixed(1)} %` : "–";
    });
  }

  /** Show another part, at once with what is known of it and then computed. */
  function look(next) {
    const { x, y, half } = next;
    const before = outcomes.slice();
    const column = (i) => Math.floor(((x + ((2 * i + 1) / columns - 1) * half - state.x) / state.half + 1) * columns / 2);
    const row = (j) => Math.floor((1 - (y + (1 - (2 * j + 1) / rows) * half - state.y) / state.half) * rows / 2);
    const known = (i, j) => i >= 0 && i < columns && j >= 0 && j < rows;
    for (let j = 0; j < rows; j++)
      for (let i = 0; i < columns; i++)
        outcomes[j * columns + i] = known(column(i), row(j)) ? before[row(j) * columns + column(i)] : UNKNOWN;
    Object.assign(state, next);
    paint(0, rows);
    compute([2, 1]);  // the coarser passes would be worse than what is known
    drawOverlay();
    toAddress();
  }

  /** Zoom and move so that the point at (u, v) comes to lie at (u2, v2), in widths of the map from its top left. */
  function carry([u, v], [u2, v2], zoom) {
    const [x, y] = pointAt([u, v]);
    const { half } = view(x, y, state.half / zoom);
    look(view(x - (2 * u2 - 1) * half, onALine() ? 0 : y + (2 * v2 - 1) * half, half));
  }

  const pointAt = ([u, v]) => [state.x + (2 * u - 1) * state.half, onALine() ? 0 : state.y - (2 * v - 1) * state.half];
  const zoomBy = (factor) => carry([0.5, 0.5], [0.5, 0.5], factor);

  // --- one starting point: its trajectory, loss and outcome --------------------------------------------------------

  let path, losses, fate;
  let rises;  // the steps at which the loss rises; rounding, which decides where an iterate rests, is left out

  function followStart() {
    path = [];
    fate = basins.follow(landscape, stepSize(), balls, ...state.start, path);
    let [x, y] = path.at(-1);
    for (let i = 0; i < LAST_STEPS && fate.minimiser >= 0; i++) {
      const xStep = stepSize() * landscape.fx(x, y), yStep = stepSize() * landscape.fy(x, y);
      if (Math.hypot(xStep, yStep) < SHORTEST) break;
      x -= xStep;
      y -= yStep;
      path.push([x, y]);
    }
    losses = path.map(([x, y]) => landscape.value(x, y));
    rises = [...losses.keys()].filter((k) => losses[k] - losses[k - 1] > 1e-14 * Math.abs(losses[k]));
    root.querySelector(".bx-status").textContent = `From ${pair(state.start)}: ${inWords()}`;
    const ends = `from ${brief(losses[0])} to ${brief(losses.at(-1))}`;
    loss.setAttribute("aria-label", `Loss over ${path.length - 1} steps, ${ends}`);
    drawLoss();
    drawOverlay();
  }

  function inWords() {
    const { steps, lastRise, minimiser, outcome, period, x, y } = fate;
    const after = `after ${steps} ${steps === 1 ? "step" : "steps"}`;
    const fall = lastRise ? `The loss rises for the last time at step ${lastRise} and only falls from then on.`
      : "The loss falls at every step.";
    const where = pair(minimiser < 0 ? [x, y] : balls[minimiser]);
    return [
      `converges stably to ${where}, settled ${after}. ${fall}`,
      `converges to ${where}, but not stably; settled ${after}. ${fall}`,
      `diverges: further than 1000 from the origin ${after}.`,
      `comes to rest at ${where}, where the Hessian is singular, ${after}.`,
      `comes to rest at the ${onALine() ? "maximum" : "saddle"} ${where} ${after}.`,
      `cycles: still moving ${after}, but returns to where it was every ${period} steps.`,
      `undecided ${after}: near no minimiser, not at rest and in no cycle.`,
    ][outcome];
  }

  // As many digits as tell neighbouring pixels apart
  const digits = () => clamp(Math.ceil(-Math.log10(2 * state.half / columns)), 3, 15);
  const plain = (value) => value.toFixed(digits()).replace(/^-0(\.0*)?$/, "0$1").replace("-", "−");
  const pair = ([x, y]) => onALine() ? plain(x) : `(${plain(x)}, ${plain(y)})`;

  /** Three digits; 2e−7 where that is shorter. */
  function brief(value) {
    const plainly = value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5);
    const text = plainly ? String(Number(value.toPrecision(3))) : value.toExponential(1).replace(".0e", "e");
    return text.replace("e+", "e").replaceAll("-", "−");
  }

  // --- drawing -----------------------------------------------------------------------------------------------------

  /** A canvas's context in CSS pixels, cleared, sharp on dense screens; with its width and height. */
  function fresh(canvas) {
    const { clientWidth: width, clientHeight: height } = canvas, density = devicePixelRatio;
    canvas.width = Math.round(width * density);
    canvas.height = Math.round(height * density);
    const context = canvas.getContext("2d");
    context.scale(density, density);
    context.font = "12px system-ui, sans-serif";
    context.lineJoin = "round";
    return { context, width, height };
  }

  /** About `count` round numbers between low and high. */
  function ticks(low, high, count) {
    const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
    const first = Math.ceil(low / step), decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => (first + i) * step)
      .map((at) => ({ at, label: at.toFixed(Math.min(decimals, 15)).replace("-", "−") }));
  }

  function line(context, points, colour, width) {
    context.beginPath();
    for (const [u, v] of points) context.lineTo(u, v);
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.stroke();
  }

  function label(context, text, u, v) {  // legible on every colour
    context.strokeStyle = "#fff";
    context.lineWidth = 3;
    context.strokeText(text, u, v);
    context.fillStyle = "#000";
    context.fillText(text, u, v);
  }

  function dot(context, [u, v], radius, colour) {
    context.beginPath();
    context.arc(u, v, radius, 0, 2 * Math.PI);
    context.fillStyle = colour;
    context.fill();
  }

  const rimmed = [["#fff", 2], [null, 0]];  // colour instead, and added width: all lines have a white rim

  function drawOverlay() {
    const { context, width, height: whole } = fresh(overlay);
    const height = onALine() ? whole - STRIP : whole;
    const count = digits() > 6 ? 2 : 4;  // long labels
    const [low, high] = onALine() ? valuesInView() : [state.y - state.half, state.y + state.half];
    const across = (x) => ((x - state.x) / state.half + 1) * width / 2;
    const up = (y) => height * (high - y) / (high - low);
    const at = ([x, y]) => [across(x), up(onALine() ? landscape.value(x) : y)];
    for (const { at: x, label: text } of ticks(state.x - state.half, state.x + state.half, count)) {
      const u = across(x);
      line(context, [[u, height], [u, height - 5]], "#000", 1);
      context.textAlign = "center";
      const wide = context.measureText(text).width / 2;
      if (u - wide > 16 && u + wide < width) label(context, text, u, height - 8);
    }
    for (const { at: y, label: text } of ticks(low, high, count)) {
      const v = up(y);
      line(context, [[0, v], [5, v]], "#000", 1);
      context.textAlign = "left";
      if (v > 12 && v < height - 24) label(context, text, 8, v + 4);
    }
    if (onALine()) {
      const graph = Array.from({ length: width + 1 }, (_, i) => at([state.x + (2 * i / width - 1) * state.half]));
      line(context, graph, "#0072B2", 2);
    }
    const points = path.map(at), lastRise = rises.at(-1) ?? 0;
    for (const [colour, more] of rimmed) {
      line(context, points.slice(0, lastRise + 1), colour || RISING, 1.5 + more);
      line(context, points.slice(lastRise), colour || "#000", 1.5 + more);
    }
    points.slice(0, 200).forEach((point, k) => dot(context, point, 2, k < lastRise ? RISING : "#000"));
    for (const [u, v] of balls.map(at))
      for (const [colour, more] of rimmed) {
        line(context, [[u - 5, v], [u + 5, v]], colour || "#000", 1.5 + more);
        line(context, [[u, v - 5], [u, v + 5]], colour || "#000", 1.5 + more);
      }
    dot(context, points[0], 6, "#fff");
    dot(context, points[0], 4, "#000");
    if (document.activeElement === overlay) {
      const [u, v] = at(cross);
      for (const [colour, more] of rimmed)
        for (const [du, dv] of [[1, 0], [-1, 0], [0, 1], [0, -1]])
          line(context, [[u + 8 * du, v + 8 * dv], [u + 20 * du, v + 20 * dv]], colour || "#000", 1 + more);
    }
  }

  /** The least and the largest value of a graph in view, with room beside them. */
  function valuesInView() {
    let [low, high] = [Infinity, -Infinity];
    for (let i = 0; i <= columns; i++) {
      const value = landscape.value(state.x + (2 * i / columns - 1) * state.half);
      [low, high] = [Math.min(low, value), Math.max(high, value)];
    }
    const room = Math.max((high - low) / 10, 1e-12);
    return [low - room, high + room];
  }

  /** The loss above the minimum on a logarithmic axis; plainly if it falls below, as f₁ may, or hardly changes. */
  function drawLoss() {
    const { context, width, height } = fresh(loss);
    const [left, right, top, bottom] = [62, width - 8, 24, height - 34];
    const ink = getComputedStyle(loss).color;
    const least = landscape.value(...landscape.minimisers[0]);
    const above = losses.map((value) => value - least);
    const logarithmic = above.every((value) => value > -1e-12) && Math.max(...above) > 10 * Math.min(...above);
    const shown = above.map((value, k) => [k, logarithmic ? Math.log10(Math.max(value, 1e-16)) : losses[k]])
      .filter(([, value]) => Number.isFinite(value));
    let [low, high] = [Infinity, -Infinity];
    for (const [, value] of shown) [low, high] = [Math.min(low, value), Math.max(high, value)];
    if (high - low < 1e-9) [low, high] = [low - 0.5, high + 0.5];
    const last = Math.max(shown.at(-1)[0], 1);
    const at = ([k, value]) =>
      [left + (right - left) * k / last, bottom - (bottom - top) * (value - low) / (high - low)];

    line(context, [[left, top], [left, bottom], [right, bottom]], ink, 1);
    context.fillStyle = ink;
    for (const { at: value } of ticks(low, high, 4)) {
      const [, v] = at([0, value]);
      line(context, [[left - 4, v], [left, v]], ink, 1);
      context.textAlign = "right";
      context.fillText(brief(logarithmic ? 10 ** value : value), left - 7, v + 4);
    }
    context.textAlign = "center";
    for (const { at: k, label: text } of ticks(0, last, 5)) {
      const [u] = at([k, low]);
      line(context, [[u, bottom], [u, bottom + 4]], ink, 1);
      if (Number.isInteger(k)) context.fillText(text, clamp(u, left, right - 12), bottom + 16);
    }
    context.fillText("step", (left + right) / 2, height - 4);
    context.textAlign = "left";
    context.fillText(logarithmic ? "f − f(θ*)" : "f", 4, 14);

    const points = shown.map(at), lastRise = rises.at(-1) ?? 0;
    line(context, points.slice(0, lastRise + 1), RISING, 1.5);
    line(context, points.slice(lastRise), ink, 1.5);
    for (const k of rises) if (points[k]) dot(context, points[k], 2.5, RISING);
    if (rises.length) {
      dot(context, [right - 66, 10], 2.5, RISING);
      context.fillStyle = ink;
      context.fillText("loss rises", right - 58, 14);
    }
  }

  // --- controls and gestures ---------------------------------------------------------------------------------------

  /** Show a state whose function or step size is new. */
  function show(next) {
    state = next;
    landscape = LANDSCAPES[state.name];
    balls = basins.traps(landscape, stepSize());
    cross = [...state.start];
    root.classList.toggle("bx-on-a-line", onALine());
    overlay.setAttribute("aria-label", onALine() ? "Graph of the function" : "Map of the starting points");
    measure();
    select.value = state.name;
    slider.max = most(state.name);
    slider.value = state.fraction;
    const [eta, fraction] = [stepSize().toFixed(4), state.fraction.toFixed(3)];
    slider.setAttribute("aria-valuetext", `${eta}, ${fraction} of the largest`);
    root.querySelector(".bx-step-size").innerHTML = `η = ${eta} = ${fraction} · 2/λ<sub>max</sub>`;
    compute(COARSE_TO_FINE);
    followStart();
  }

  function pick(start) {
    state.start = cross = start;
    followStart();
    toAddress();
  }

  function moveCross(x, y) {
    cross = [x, y];
    root.querySelector(".bx-status").textContent =
      `Cross hair at ${pair(cross)}; Enter follows gradient descent from here.`;
    drawOverlay();
  }

  function onKey(event) {
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (arrow?.[1] && onALine()) return;
    if (arrow && event.shiftKey) moveCross(...[0, 1].map((i) => cross[i] + arrow[i] * state.half / 25));
    else if (arrow) look(view(state.x + arrow[0] * state.half / 5, state.y + arrow[1] * state.half / 5, state.half));
    else if (event.key === "+" || event.key === "=") zoomBy(1.5);
    else if (event.key === "-") zoomBy(1 / 1.5);
    else if (event.key === "0") reset();
    else if (event.key === "Enter" || event.key === " ") pick(cross);
    else return;
    event.preventDefault();
  }

  function reset() {
    const { x, y, half } = initial(state.name);
    look(view(x, y, half));
  }

  // One finger scrolls the page, as explorer.css says (touch-action): it is ours only if it taps. Two are ours.
  function listenToPointers() {
    const pointers = new Map();  // of each finger, or of the mouse: where it was last
    let travelled;               // of all pointers since the first came down: a click travels less than a few pixels
    const place = ({ clientX, clientY }) => {
      const box = overlay.getBoundingClientRect();
      return [(clientX - box.left) / box.width, (clientY - box.top) / box.height];
    };
    const middle = () => [0, 1].map((i) => [...pointers.values()].reduce((sum, p) => sum + p[i], 0) / pointers.size);
    const spread = () => {
      const [a, b] = [...pointers.values()];
      return b ? Math.hypot(a[0] - b[0], a[1] - b[1]) : 1;
    };
    overlay.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      if (pointers.size === 0) travelled = 0;
      if (pointers.size === 1) travelled = Infinity;  // a second finger: no tap
      if (pointers.size < 2) pointers.set(event.pointerId, place(event));
      overlay.setPointerCapture(event.pointerId);
    });
    overlay.addEventListener("pointermove", (event) => {
      if (!pointers.has(event.pointerId) || (event.pointerType === "touch" && pointers.size < 2)) return;
      const [from, apart] = [middle(), spread()];
      const [u, v] = pointers.get(event.pointerId), [u2, v2] = place(event);
      const distance = travelled + Math.hypot(u2 - u, v2 - v) * overlay.clientWidth;
      if (distance < 5) return;
      travelled = distance;
      pointers.set(event.pointerId, [u2, v2]);
      carry(from, middle(), spread() / apart);
    });
    overlay.addEventListener("pointerup", (event) => {
      if (pointers.delete(event.pointerId) && travelled < 5) pick(pointAt(place(event)));
    });
    overlay.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));

    for (const kind of ["touchstart", "touchmove"])
      overlay.addEventListener(kind, (event) => {
        if (event.touches.length > 1 && event.cancelable) event.preventDefault();
      }, { passive: false });

    overlay.addEventListener("wheel", (event) => {  // with Ctrl, as touch pads report a pinch; else it scrolls the page
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      carry(place(event), place(event), 1.0015 ** -event.deltaY);
    }, { passive: false });
  }

  // --- start -------------------------------------------------------------------------------------------------------

  select.addEventListener("change", () => {
    show(initial(select.value));
    toAddress();
  });
  slider.addEventListener("input", () => {
    show({ ...state, fraction: slider.valueAsNumber });
    toAddress();
  });
  root.querySelector("[name=in]").addEventListener("click", () => zoomBy(1.5));
  root.querySelector("[name=out]").addEventListener("click", () => zoomBy(1 / 1.5));
  root.querySelector("[name=reset]").addEventListener("click", reset);
  overlay.addEventListener("keydown", onKey);
  overlay.addEventListener("focus", drawOverlay);
  overlay.addEventListener("blur", drawOverlay);
  listenToPointers();

  function followAddress() {
    const linked = fromAddress();
    if (linked) show(linked);
    return linked;
  }
  window.addEventListener("hashchange", followAddress);
  if (!followAddress()) show(initial(select.value));
  // The first picture is computed here: workers need a while to start, and the page, busy with its mathematics, to hear
  // them. But no longer than a reader would not notice.
  const begun = performance.now();
  while (queue.length > 0 && queue[0].stride === COARSE_TO_FINE[0] && performance.now() - begun < 100) {
    const work = queue.shift();
    received({ ...work, outcomes: basins.band(work) });
  }
  startWorkers();

  new ResizeObserver(() => {
    if (measure()) compute(COARSE_TO_FINE);
    drawOverlay();
    drawLoss();
  }).observe(root);
  new MutationObserver(drawLoss).observe(document.documentElement, { attributeFilter: ["data-theme"] });
})();
