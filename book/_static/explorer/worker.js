// What gradient descent does from a starting point: eoslib/basins.py in JavaScript, with the same formulas in the same
// order of operations, so that both compute the same doubles.
//
// All of it is one function that refers to nothing outside itself. The page calls it; and the workers are started from
// its source text, because browsers refuse a worker from a file to a page that was itself opened from a file.
function eoslibBasins() {
  "use strict";

  const REST = 1e-13, RETURN = 1e-9, SMALLEST_TRAP = 1e-5, LONGEST_CYCLE = 64;
  const ESCAPE = 1e3, TRAP = 0.5, MAX_STEPS = 5000;
  const STABLE = 0, UNSTABLE = 1, DIVERGED = 2, DEGENERATE = 3, SADDLE = 4, CYCLING = 5, WANDERING = 6;
  const UNKNOWN = 255;  // a pixel that was not computed yet

  // Chen et al. 2024, equations (43) to (46). value: f; fx, fy: its gradient; hessian: f_xx, f_xy, f_yy;
  // sharpness: λ_max at the minimisers.
  const M4 = Math.sqrt(19 / 20);
  const LANDSCAPES = {
    f1: {
      value: (x, y) => x * x + y * y + x * x * y + x * x * x + y * y * y,
      fx: (x, y) => 2 * x + 2 * x * y + 3 * x * x,
      fy: (x, y) => 2 * y + x * x + 3 * y * y,
      hessian: (x, y) => [2 + 2 * y + 6 * x, 2 * x, 2 + 6 * y],
      minimisers: [[0, 0]],
      sharpness: 2,
    },
    f2: {
      value: (x, y) => x * x + y * y + x * x * y + x * x * x * x + y * y * y * y,
      fx: (x, y) => 2 * x + 2 * x * y + 4 * x * x * x,
      fy: (x, y) => 2 * y + x * x + 4 * y * y * y,
      hessian: (x, y) => [2 + 2 * y + 12 * x * x, 2 * x, 2 + 12 * y * y],
      minimisers: [[0, 0]],
      sharpness: 2,
    },
    f3: {
      value: (x, y) => x * x * (y * y) * (x * x + y * y - 3) + 1,
      fx: (x, y) => 2 * x * (y * y) * (2 * (x * x) + y * y - 3),
      fy: (x, y) => 2 * y * (x * x) * (x * x + 2 * (y * y) - 3),
      hessian: (x, y) => [
        2 * (y * y) * (6 * (x * x) + y * y - 3),
        4 * x * y * (2 * (x * x) + 2 * (y * y) - 3),
        2 * (x * x) * (x * x + 6 * (y * y) - 3),
      ],
      minimisers: [[1, 1], [1, -1], [-1, 1], [-1, -1]],
      sharpness: 12,
    },
    f4: {
      value: (x, y) => (1 - x * y) * (1 - x * y) + (x * x + y * y) / 20,
      fx: (x, y) => -2 * (1 - x * y) * y + x / 10,
      fy: (x, y) => -2 * (1 - x * y) * x + y / 10,
      hessian: (x, y) => [(20 * y * y + 1) / 10, 4 * x * y - 2, (20 * x * x + 1) / 10],
      minimisers: [[M4, M4], [-M4, -M4]],
      sharpness: 3.8,
    },
  };

  const eigenvalues = ([xx, xy, yy]) => {
    const mean = (xx + yy) / 2, halfGap = Math.hypot((xx - yy) / 2, xy);
    return [mean - halfGap, mean + halfGap];
  };

  /** The largest radius (to 1 %) of a ball around a minimiser on which the Hessian's eigenvalues lie in (0, 2/η). */
  function trapRadius(landscape, stepSize, [x, y], grid = 64) {
    const holds = (r) => {
      for (let i = 0; i < grid; i++) {
        const angle = i * (2 * Math.PI / grid);
        for (let j = 0; j < grid; j++) {
          const radius = j === grid - 1 ? 1 : j * (1 / (grid - 1));
          const dx = radius * Math.cos(angle), dy = radius * Math.sin(angle);
          const [smallest, largest] = eigenvalues(landscape.hessian(x + r * dx, y + r * dy));
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

  /** The balls around the minimisers inside which a point's fate is decided: [x, y, radius²]. */
  function traps(landscape, stepSize) {
    const radii = landscape.minimisers.map((m) => stepSize > 0 ? TRAP * trapRadius(landscape, stepSize, m) : 0);
    if (Math.min(...radii) < SMALLEST_TRAP)
      throw new RangeError(`the step size must be positive and less than 2/λ_max at the minimisers, got ${stepSize}`);
    return landscape.minimisers.map(([x, y], m) => [x, y, radii[m] * radii[m]]);
  }

  /** Follow one starting point until it is decided. If `path` is given, the iterates are appended to it. */
  function follow(landscape, stepSize, balls, x, y, path) {
    const { value, fx, fy } = landscape;
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
    let outcome = lastRise === 0 ? STABLE : UNSTABLE;
    if (!(x * x + y * y < ESCAPE * ESCAPE)) outcome = DIVERGED;
    else if (minimiser < 0) outcome = atRestOrNot(landscape, stepSize, x, y);
    return { outcome, steps, lastRise, minimiser, x, y };
  }

  /** The outcome of a bounded iterate that no trap caught. (It is at no strict minimum: all have traps here.) */
  function atRestOrNot(landscape, stepSize, x, y) {
    const xStep = stepSize * landscape.fx(x, y), yStep = stepSize * landscape.fy(x, y);
    if (xStep * xStep + yStep * yStep < REST * REST)
      return eigenvalues(landscape.hessian(x, y))[0] < -1e-6 ? SADDLE : DEGENERATE;
    const creeps = Math.hypot(xStep, yStep) < RETURN;  // on its way to a point, too slowly to say which
    let laterX = x, laterY = y;
    for (let i = 0; i < LONGEST_CYCLE; i++) {
      const gx = landscape.fx(laterX, laterY), gy = landscape.fy(laterX, laterY);
      laterX -= stepSize * gx;
      laterY -= stepSize * gy;
      if (Math.hypot(laterX - x, laterY - y) < RETURN && !creeps) return CYCLING;
    }
    return WANDERING;
  }

  /**
   * The outcomes of a band of pixels of the map, of which one in `stride` × `stride` is computed and stands for its
   * block. `known`: the stride whose pixels an earlier, coarser pass has computed (0: none); they stay UNKNOWN here.
   * left, top: the corner of the map; pixel: the side of a pixel; size: how many there are in a row.
   */
  function band({ name, stepSize, balls, left, top, pixel, size, row, rows, stride, known }) {
    const outcomes = new Uint8Array(rows * size).fill(UNKNOWN);
    for (let j = 0; j < rows; j += stride)
      for (let i = 0; i < size; i += stride) {
        if (known && i % known === 0 && (row + j) % known === 0) continue;
        const x = left + (i + 0.5) * pixel, y = top - (row + j + 0.5) * pixel;
        const { outcome } = follow(LANDSCAPES[name], stepSize, balls, x, y);
        for (let k = j; k < j + stride; k++) outcomes.fill(outcome, k * size + i, k * size + i + stride);
      }
    return outcomes;
  }

  return { LANDSCAPES, UNKNOWN, traps, follow, band };
}
