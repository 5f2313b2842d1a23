// Loads the explorer when a reader comes within a screen of it, or follows a link #explorer?f=…&fraction=… to it.
(() => {
  "use strict";
  const root = document.querySelector(".basin-explorer"), here = document.currentScript.src;

  function load([{ isIntersecting }], observer) {
    if (!isIntersecting) return;
    observer.disconnect();
    for (const name of ["basins.js", "explorer.js"]) {
      const script = document.createElement("script");
      script.src = new URL(name, here);
      script.async = false;  // in this order
      document.head.append(script);
    }
  }
  new IntersectionObserver(load, { rootMargin: "100%" }).observe(root);

  function follow() {
    if (!location.hash.startsWith("#explorer?")) return;
    root.scrollIntoView();
    root.querySelector("select").focus({ preventScroll: true });
  }
  window.addEventListener("hashchange", follow);
  follow();
})();
