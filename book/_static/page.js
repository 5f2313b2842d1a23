// What every page does.
(() => {
  "use strict";
  const root = document.documentElement;

  // On paper it is light, whatever the screen shows.
  let shown;
  window.addEventListener("beforeprint", () => { [shown, root.dataset.theme] = [root.dataset.theme, "light"]; });
  window.addEventListener("afterprint", () => { root.dataset.theme = shown; });

  // Formulas keep the places that they were given until MathJax has set them and has its fonts; without MathJax they
  // are shown as TeX.
  document.addEventListener("DOMContentLoaded", async () => {
    await window.MathJax?.startup?.promise;
    await document.fonts.ready;
    root.classList.add("eos-typeset");
  });
})();
