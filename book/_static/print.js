// On paper a page is light, whatever the screen shows.
(() => {
  "use strict";
  const root = document.documentElement.dataset;
  let shown;
  window.addEventListener("beforeprint", () => { [shown, root.theme] = [root.theme, "light"]; });
  window.addEventListener("afterprint", () => { root.theme = shown; });
})();
