// The page side of the explorer: controls, drawing and gestures. What a point does is decided in worker.js.
// Nothing here moves by itself, so there is nothing to switch off for readers who prefer reduced motion.
(() => {
  "use strict";

  const SIZE = 400;  // pixels of the map in a row
  const BAND = 8;    // rows that a worker computes at once: a multiple of the coarsest stride
  const COARSE_TO_FINE = [8, 4, 2, 1];
  const FRACTIONS = { least: 0.05, most: 0.995 };  // of the largest step size, which condition (6) itself excludes
  const SHORTEST = 1e-3, LAST_STEPS = 300;  // a settled trajectory is drawn on until its steps are so short, or so many

  // In the order of eoslib.basins.Outcome; the palette is that of Okabe and Ito, as in the figures
  const OUTCOMES = [
    { colour: "#56B4E9", name: "stable (<i>U</i><sub>η</sub>)" },
    { colour: "#0072B2", name: "convergent, not stable (<i>V</i><sub>η</sub> ∖ <i>U</i><sub>η</sub>)" },
    { colour: "#F2F2F2", name: "diverges" },
    { colour: "#E69F00", name: "rests where the Hessian is singular" },
    { colour: "#D55E00", name: "rests at a saddle" },
    { colour: "#CC79A7", name: "cycles" },
    { colour: "#6E6E6E", name: "undecided after 5000 steps" },
  ];
  const RISING = "#D55E00";  // what comes before the last rise of the loss; red in the paper

  // What is shown of a function at first: a square around the origin, the step size as a fraction of the largest, a start
  const FUNCTIONS = {
    f1: { formula: "f₁ = x² + y² + x²y + x³ + y³", half: 1.25, fraction: 0.9, start: [0.1, 0.25] },
    f2: { formula: "f₂ = x² + y² + x²y + x⁴ + y⁴", half: 1.25, fraction: 0.7, start: [-0.35, 0.42] },
    f3: { formula: "f₃ = x⁴y² + x²y⁴ − 3x²y² + 1", half: 2.5, fraction: 0.9, start: [1.2, 1.1] },
    f4: { formula: "f₄ = (1 − xy)² + (x² + y²)/20", half: 4, fraction: 0.4, start: [0.1, 2.5] },
  };

  const HTML = `
    <div class="bx-controls">
      <label>Function <select name="f">${Object.entries(FUNCTIONS)
        .map(([name, { formula }]) => `<option value="${name}">${formula}</option>`).join("")}</select></label>
      <label>Step size <input name="fraction" type="range" min="${FRACTIONS.least}" max="${FRACTIONS.most}"
        step="0.005"></label>
      <output class="bx-step-size"></output>
    </div>
    <div class="bx-columns">
      <div>
        <div class="bx-map">
          <canvas width="${SIZE}" height="${SIZE}" aria-hidden="true"></canvas>
          <canvas tabindex="0" role="application" aria-label="Map of the starting points"
            aria-describedby="bx-help"></canvas>
        </div>
        <div class="bx-zoom">
          <button type="button" name="in" aria-label="Zoom in">+</button>
          <button type="button" name="out" aria-label="Zoom out">−</button>
          <button type="button" name="reset">Reset view</button>
        </div>
      </div>
      <div>
        <canvas class="bx-loss" role="img"></canvas>
        <p class="bx-status" role="status"></p>
      </div>
      <table class="bx-legend">
        <caption>Share of the starting points in view</caption>
        <tbody>${OUTCOMES.map(({ colour, name }) =>
          `<tr><td><span style="background:${colour}"></span></td><th scope="row">${name}</th><td></td></tr>`).join("")}
        </tbody>
      </table>
      <p class="bx-help" id="bx-help">Click or tap a point to follow gradient descent from there; drag to move the map,
        zoom with the wheel or two fingers. On the keyboard: arrows move the map, + and − zoom, 0 resets, Shift with
        arrows moves the cross hair, Enter follows its point. The line is orange until the loss rises for the last
        time. <i>Settled</i> means so near a minimiser that it must converge to it. The address of the page keeps what
        you see.</p>
    </div>`;

  const basins = eoslibBasins();
  const { LANDSCAPES, UNKNOWN } = basins;

  // --- the state: what is shown, kept in the address ---------------------------------------------------------------

  let state;     // { name, fraction, x, y, half, start }: the map is the square of half-width `half` around (x, y)
  let balls;     // the traps at this step size
  let cross;     // where the cross hair is, moved by keys

  const initial = (name) => ({ name, x: 0, y: 0, ...FUNCTIONS[name] });
  const stepSize = () => state.fraction * (2 / LANDSCAPES[state.name].sharpness);
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const nearby = (value) => clamp(value, -1000, 1000);
  const view = (x, y, half) => ({ x: nearby(x), y: nearby(y), half: clamp(half, 1e-10, 100) });

  const PREFIX = "#basin-explorer?";

  function fromAddress() {
    if (!location.hash.startsWith(PREFIX)) return null;
    const given = new URLSearchParams(location.hash.slice(PREFIX.length));
    const name = given.get("f");
    const [fraction, x, y, half, ...start] =
      ["fraction", "x", "y", "half", "x0", "y0"].map((key) => parseFloat(given.get(key)));
    if (!Object.hasOwn(FUNCTIONS, name) || ![fraction, x, y, half, ...start].every(Number.isFinite)) return null;
    return { name, fraction: clamp(fraction, FRACTIONS.least, FRACTIONS.most), start, ...view(x, y, half) };
  }

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

  const outcomes = new Uint8Array(SIZE * SIZE).fill(UNKNOWN);
  const image = new ImageData(SIZE, SIZE);
  const pixels = new Uint32Array(image.data.buffer);
  const colours = new Uint32Array(256);  // as the bytes of an image lie in memory: alpha, blue, green, red
  OUTCOMES.forEach(({ colour: c }, i) => {
    colours[i] = Number(`0xff${c.slice(5, 7)}${c.slice(3, 5)}${c.slice(1, 3)}`);
  });

  let generation = 0, queue = [], unpainted = 0;
  const idle = new Set();

  function startWorkers() {
    const source = `const basins = (${eoslibBasins})();
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
    const job = {
      generation, name: state.name, stepSize: stepSize(), balls, size: SIZE, rows: BAND,
      left: state.x - state.half, top: state.y + state.half, pixel: 2 * state.half / SIZE,
    };
    queue = Array.from({ length: SIZE / BAND }, (_, i) => ({ ...job, row: i * BAND, stride, finer, known: 0 }));
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
    const begin = row * SIZE;
    for (let i = 0; i < band.length; i++) if (band[i] !== UNKNOWN) outcomes[begin + i] = band[i];
    paint(row, BAND);
    if (next) queue.push({ ...work, stride: next, finer, known: stride });
    unpainted--;
    if (unpainted % (SIZE / BAND) === 0) showShares();  // about after each pass
    if (unpainted === 0) overlay.setAttribute("aria-busy", "false");
  }

  function paint(row, rows) {
    for (let i = row * SIZE; i < (row + rows) * SIZE; i++) pixels[i] = colours[outcomes[i]];
    map.getContext("2d").putImageData(image, 0, 0, 0, row, SIZE, rows);
  }

  function showShares() {
    const counts = new Array(OUTCOMES.length).fill(0);
    for (const outcome of outcomes) counts[outcome]++;
    root.querySelectorAll(".bx-legend td:last-child").forEach((cell, i) => {
      cell.textContent = counts[i] ? `${(100 * counts[i] / outcomes.length).toFixed(1)} %` : "–";
    });
  }

  /** Show another square, at once with what is known of it and then computed. */
  function look(next) {
    const { x, y, half } = next;
    const before = outcomes.slice();
    const column = (i) => Math.floor(((x + ((2 * i + 1) / SIZE - 1) * half - state.x) / state.half + 1) * SIZE / 2);
    const row = (j) => Math.floor((1 - (y + (1 - (2 * j + 1) / SIZE) * half - state.y) / state.half) * SIZE / 2);
    const inside = (i) => i >= 0 && i < SIZE;
    for (let j = 0; j < SIZE; j++)
      for (let i = 0; i < SIZE; i++)
        outcomes[j * SIZE + i] = inside(column(i)) && inside(row(j)) ? before[row(j) * SIZE + column(i)] : UNKNOWN;
    Object.assign(state, next);
    paint(0, SIZE);
    compute([2, 1]);  // the coarser passes would be worse than what is known
    drawOverlay();
    toAddress();
  }

  /** Zoom and move so that the point at (u, v) comes to lie at (u2, v2), in widths of the map from its top left. */
  function carry([u, v], [u2, v2], zoom) {
    const [x, y] = pointAt([u, v]);
    const { half } = view(x, y, state.half / zoom);
    look(view(x - (2 * u2 - 1) * half, y + (2 * v2 - 1) * half, half));
  }

  const pointAt = ([u, v]) => [state.x + (2 * u - 1) * state.half, state.y - (2 * v - 1) * state.half];
  const zoomBy = (factor) => carry([0.5, 0.5], [0.5, 0.5], factor);

  // --- one starting point: its trajectory, loss and outcome --------------------------------------------------------

  let path, losses, fate;
  let rises;  // the steps at which the loss rises; rounding, which decides where an iterate rests, is left out

  function followStart() {
    const landscape = LANDSCAPES[state.name];
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
    const { steps, lastRise, minimiser, outcome, x, y } = fate;
    const after = `after ${steps} ${steps === 1 ? "step" : "steps"}`;
    const fall = lastRise ? `The loss rises for the last time at step ${lastRise} and only falls from then on.`
      : "The loss falls at every step.";
    const where = minimiser < 0 ? pair([x, y]) : pair(LANDSCAPES[state.name].minimisers[minimiser]);
    return [
      `converges stably to ${where}, settled ${after}. ${fall}`,
      `converges to ${where}, but not stably; settled ${after}. ${fall}`,
      `diverges: further than 1000 from the origin ${after}.`,
      `comes to rest at ${where}, where the Hessian is singular, ${after}.`,
      `comes to rest at the saddle ${where} ${after}.`,
      `cycles: still moving ${after}, but returns to where it was.`,
      `undecided ${after}: near no minimiser, not at rest and in no cycle.`,
    ][outcome];
  }

  // As many digits as tell neighbouring pixels apart
  const digits = () => clamp(Math.ceil(-Math.log10(2 * state.half / SIZE)), 3, 15);
  const plain = (value) => value.toFixed(digits()).replace(/^-0(\.0*)?$/, "0$1").replace("-", "−");
  const pair = ([x, y]) => `(${plain(x)}, ${plain(y)})`;

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

  function drawOverlay() {
    const { context, width } = fresh(overlay);
    const count = digits() > 6 ? 2 : 4;  // long labels
    const at = ([x, y]) => [((x - state.x) / state.half + 1) * width / 2, (1 - (y - state.y) / state.half) * width / 2];
    for (const { at: x, label: text } of ticks(state.x - state.half, state.x + state.half, count)) {
      const [u] = at([x, 0]);
      line(context, [[u, width], [u, width - 5]], "#000", 1);
      context.textAlign = "center";
      const wide = context.measureText(text).width / 2;
      if (u - wide > 16 && u + wide < width) label(context, text, u, width - 8);
    }
    for (const { at: y, label: text } of ticks(state.y - state.half, state.y + state.half, count)) {
      const [, v] = at([0, y]);
      line(context, [[0, v], [5, v]], "#000", 1);
      context.textAlign = "left";
      if (v > 12 && v < width - 24) label(context, text, 8, v + 4);
    }
    const points = path.map(at), lastRise = rises.at(-1) ?? 0;
    for (const [colour, thick] of [["#fff", 3.5], [null, 1.5]]) {  // a white rim around the line
      line(context, points.slice(0, lastRise + 1), colour || RISING, thick);
      line(context, points.slice(lastRise), colour || "#000", thick);
    }
    points.slice(0, 200).forEach((point, k) => dot(context, point, 2, k < lastRise ? RISING : "#000"));
    for (const [u, v] of LANDSCAPES[state.name].minimisers.map(at)) {
      for (const [colour, thick] of [["#fff", 4], ["#000", 1.5]]) {
        line(context, [[u - 5, v], [u + 5, v]], colour, thick);
        line(context, [[u, v - 5], [u, v + 5]], colour, thick);
      }
    }
    dot(context, points[0], 6, "#fff");
    dot(context, points[0], 4, "#000");
    if (document.activeElement === overlay) {
      const [u, v] = at(cross);
      for (const [colour, thick] of [["#fff", 3], ["#000", 1]])
        for (const [du, dv] of [[1, 0], [-1, 0], [0, 1], [0, -1]])
          line(context, [[u + 8 * du, v + 8 * dv], [u + 20 * du, v + 20 * dv]], colour, thick);
    }
  }

  /** The loss above the minimum on a logarithmic axis; plainly if it falls below, as f₁ may, or hardly changes. */
  function drawLoss() {
    const { context, width, height } = fresh(loss);
    const [left, right, top, bottom] = [62, width - 8, 24, height - 34];
    const ink = getComputedStyle(loss).color;
    const least = LANDSCAPES[state.name].value(...LANDSCAPES[state.name].minimisers[0]);
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
    balls = basins.traps(LANDSCAPES[state.name], stepSize());
    cross = [...state.start];
    select.value = state.name;
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
    if (arrow && event.shiftKey) moveCross(...[0, 1].map((i) => cross[i] + arrow[i] * state.half / 25));
    else if (arrow) look(view(state.x + arrow[0] * state.half / 5, state.y + arrow[1] * state.half / 5, state.half));
    else if (event.key === "+" || event.key === "=") zoomBy(1.5);
    else if (event.key === "-") zoomBy(1 / 1.5);
    else if (event.key === "0") reset();
    else if (event.key === "Enter" || event.key === " ") pick(cross);
    else return;
    event.preventDefault();
  }

  const reset = () => look(view(0, 0, FUNCTIONS[state.name].half));

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
      if (!pointers.has(event.pointerId)) return;
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

    let scrolled = -Infinity;  // a wheel that is scrolling the page goes on scrolling it when the map comes under it
    window.addEventListener("scroll", (event) => { scrolled = event.timeStamp; }, { passive: true });
    overlay.addEventListener("wheel", (event) => {
      if (event.timeStamp - scrolled < 400) return;
      event.preventDefault();
      carry(place(event), place(event), 1.0015 ** -event.deltaY);
    }, { passive: false });
  }

  // --- start -------------------------------------------------------------------------------------------------------

  const root = document.querySelector(".basin-explorer");
  root.innerHTML = HTML;  // in place of what readers without JavaScript see
  const [map, overlay, loss] = root.querySelectorAll("canvas");
  const [select, slider] = root.querySelectorAll("select, input");

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
    if (linked) {
      show(linked);
      root.scrollIntoView();
    }
    return linked;
  }
  window.addEventListener("hashchange", followAddress);
  if (!followAddress()) show(initial("f4"));
  // The first picture is computed here: workers need a while to start, and the page, busy with its mathematics, to hear them.
  while (queue.length > 0 && queue[0].stride === COARSE_TO_FINE[0]) {
    const work = queue.shift();
    received({ ...work, outcomes: basins.band(work) });
  }
  startWorkers();

  const redraw = () => { drawOverlay(); drawLoss(); };
  new ResizeObserver(redraw).observe(root);
  new MutationObserver(drawLoss).observe(document.documentElement, { attributeFilter: ["data-theme"] });
})();
