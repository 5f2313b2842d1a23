// The figure that plays: reveals its curves up to an iteration, once on arrival, unless the reader prefers stillness.
(() => {
  const SECONDS = 9;
  const figure = document.querySelector(".eos-play");
  const controls = figure.querySelector(".eos-controls");
  const button = controls.querySelector("button"), range = controls.querySelector("input"), output = controls.querySelector("output");
  const covers = [...figure.querySelectorAll("clipPath rect")], width = covers[0].width.baseVal.value;
  const end = Number(range.max);
  let before = null;  // the time of the last frame, while it plays

  const show = iteration => {
    range.value = iteration;
    output.textContent = `iteration ${range.value}`;
    for (const cover of covers) cover.setAttribute("width", width * iteration / end);
  };
  const stop = () => { before = null; button.textContent = "Play"; };
  const frame = now => {
    if (before === null) return;
    at = Math.min(end, at + end * Math.max(0, now - before) / SECONDS / 1000);  // a frame's time is that of its beginning
    before = now;
    show(at);
    if (at < end) requestAnimationFrame(frame); else stop();
  };
  let at = end;
  const play = () => {
    if (at >= end) at = 0;
    button.textContent = "Pause";
    before = performance.now();
    requestAnimationFrame(frame);
  };

  button.addEventListener("click", () => before === null ? play() : stop());
  range.addEventListener("input", () => { stop(); at = Number(range.value); show(at); });
  controls.hidden = false;
  show(end);
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) play();
})();
