// What gradient descent does from a starting point: eoslib/papers/basins.py in JavaScript, with the same formulas in the
// same order of operations, so that both compute the same doubles.
//
// All of it is one function that refers to nothing outside itself. The page calls it; and the workers are started from
// its source text, because browsers refuse a worker from a file to a page that was itself opened from a file.
//
// given: name → what book/_ext/as_javascript.py makes of a landscape. One of one dimension is treated as one of two whose
// value does not depend on y.
function eoslibBasins(given) {
  "use strict";

  const REST = 1e-13, RETURN = 1e-9, SMALLEST_TRAP = 1e-5, LONGEST_CYCLE = 64;
  const ESCAPE = 1e3, TRAP = 0.5, MAX_STEPS = 5000;
  const STABLE = 0, UNSTABLE = 1, DIVERGED = 2, DEGENERATE = 3, SADDLE = 4, CYCLING = 5, WANDERING = 6;
  const UNKNOWN = 255;  // a pixel that was not computed yet

  const compiled = (expression) => new Function("x", "y", `return ${expression};`);
  const LANDSCAPES = {};
  for (const [name, { value, gradient: [fx, fy = "0"], minimisers, sharpness, view }] of Object.entries(given))
    LANDSCAPES[name] = {
      dimension: minimisers[0].length, value: compiled(value), fx: compiled(fx), fy: compiled(fy),
      minimisers: minimisers.map(([x, y = 0]) => [x, y]), sharpness, view,
    };

  /** The smallest and the largest eigenvalue of the Hessian, from differences of the gradient. */
  function eigenvalues({ dimension, fx, fy }, x, y) {
    const h = 1e-5, along = (f) => (f(x + h, y) - f(x - h, y)) / (2 * h);
    const xx = along(fx);
    if (dimension === 1) return [xx, xx];
    const xy = along(fy), yy = (fy(x, y + h) - fy(x, y - h)) / (2 * h);
    const mean = (xx + yy) / 2, halfGap = Math.hypot((xx - yy) / 2, xy);
    return [mean - halfGap, mean + halfGap];
  }

  /** The largest radius (to 1 %) of a ball around a minimiser on which the Hessian's eigenvalues lie in (0, 2/η). */
  function trapRadius(landscape, stepSize, [x, y], grid = 64) {
    const holds = (r) => {
      for (let i = 0; i < grid; i++) {
        const angle = i * (2 * Math.PI / grid);
        for (let j = 0; j < grid; j++) {
          const radius = j === grid - 1 ? 1 : j * (1 / (grid - 1));
          const dx = radius * Math.cos(angle), dy = radius * Math.sin(angle);
          const [smallest, largest] = eigenvalues(landscape, x + r * dx, y + r * dy);
          if (!(smallest > 0 && largest < 2 / stepSize)) return false;
        }
      }
      return true;
    };
    let low = 0, high = 10;
    while (high - low > 0.01 * high && high > 1e-9) {
      const middle = (low + high) / 2;
      if (holds(middle)) low = middle;
      else high = middle;
    }
    return low;
  }

  /** The ball around a minimiser inside which a point's fate is decided: [x, y, radius²]; of radius 0 if it repels. */
  function trap(landscape, stepSize, [x, y]) {
    const radius = TRAP * trapRadius(landscape, stepSize, [x, y]);
    return [x, y, radius < SMALLEST_TRAP ? 0 : radius * radius];
  }

  const traps = (landscape, stepSize) => landscape.minimisers.map((m) => trap(landscape, stepSize, m));

  /**
   * Follow one starting point until it is decided. If `path` is given, it becomes the list of the iterates. If they come
   * to rest at a strict minimum that is not listed, its trap is added to `balls`, and they are followed once more.
   */
  function follow(landscape, stepSize, balls, x, y, path) {
    const { value, fx, fy } = landscape;
    const start = [x, y];
    if (path) path.length = 0;
    let f = value(x, y), moved2 = Infinity, minimiser = -1, lastRise = 0, steps = 0;
    for (; ; steps++) {
      if (path) path.push([x, y]);
      for (let m = 0; m < balls.length; m++) {
        const dx = x - balls[m][0], dy = y - balls[m][1];
        if (dx * dx + dy * dy < balls[m][2]) minimiser = m;
      }
      if (minimiser >= 0 || !(x * x + y * y < ESCAPE * ESCAPE) || moved2 < REST * REST || steps === MAX_STEPS) break;
      const xStep = stepSize * fx(x, y), yStep = stepSize * fy(x, y);
      x -= xStep;
      y -= yStep;
      moved2 = xStep * xStep + yStep * yStep;
      const after = value(x, y);
      if (!(after < f)) lastRise = steps + 1;
      f = after;
    }
    let outcome = lastRise === 0 ? STABLE : UNSTABLE, period = 0;
    if (!(x * x + y * y < ESCAPE * ESCAPE)) outcome = DIVERGED;
    else if (minimiser < 0) {
      [outcome, period] = atRestOrNot(landscape, stepSize, x, y);
      if (outcome === DEGENERATE && eigenvalues(landscape, x, y)[0] > 1e-6) {
        const ball = trap(landscape, stepSize, [x, y]);
        if (ball[2] > 0) {
          balls.push(ball);
          return follow(landscape, stepSize, balls, ...start, path);
        }
      }
    }
    return { outcome, steps, lastRise, minimiser, period, x, y };
  }

  /** The outcome of a bounded iterate that no trap caught, and the period if it cycles. */
  function atRestOrNot(landscape, stepSize, x, y) {
    const xStep = stepSize * landscape.fx(x, y), yStep = stepSize * landscape.fy(x, y);
    if (xStep * xStep + yStep * yStep < REST * REST)
      return [eigenvalues(landscape, x, y)[0] < -1e-6 ? SADDLE : DEGENERATE, 0];
    const creeps = Math.hypot(xStep, yStep) < RETURN;  // on its way to a point, too slowly to say which
    let laterX = x, laterY = y;
    for (let i = 1; i <= LONGEST_CYCLE; i++) {
      const gx = landscape.fx(laterX, laterY), gy = landscape.fy(laterX, laterY);
      laterX -= stepSize * gx;
      laterY -= stepSize * gy;
      if (Math.hypot(laterX - x, laterY - y) < RETURN && !creeps) return [CYCLING, i];
    }
    return [WANDERING, 0];
  }

  /**
   * The outcomes of a band of pixels of the map, of which one in `stride` × `stride` is computed and stands for its
   * block. `known`: the stride whose pixels an earlier, coarser pass has computed (0: none); they stay UNKNOWN here.
   * left, top: the corner of the map; pixel: the side of a pixel; columns: how many there are in a row.
   */
  function band({ name, stepSize, balls, left, top, pixel, columns, row, rows, stride, known }) {
    const outcomes = new Uint8Array(rows * columns).fill(UNKNOWN);
    for (let j = 0; j < rows; j += stride)
      for (let i = 0; i < columns; i += stride) {
        if (known && i % known === 0 && (row + j) % known === 0) continue;
        const x = left + (i + 0.5) * pixel, y = top - (row + j + 0.5) * pixel;
        const { outcome } = follow(LANDSCAPES[name], stepSize, balls, x, y);
        for (let k = j; k < Math.min(j + stride, rows); k++)
          outcomes.fill(outcome, k * columns + i, k * columns + Math.min(i + stride, columns));
      }
    return outcomes;
  }

  return { LANDSCAPES, UNKNOWN, trap, traps, follow, band };
}
