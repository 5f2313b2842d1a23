// A click on a figure enlarges it. Without this script the link around it opens the file.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a.eos-enlarge");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const shown = [...link.querySelectorAll("img")].find((image) => image.offsetParent);
  const dialog = document.createElement("dialog");
  dialog.className = "eos-enlarged";
  dialog.ariaLabel = "Figure, enlarged";
  const close = Object.assign(document.createElement("button"), { textContent: "Close", onclick: () => dialog.close() });
  const image = Object.assign(new Image(), { src: shown.currentSrc, alt: shown.alt, className: "dark-light" });
  dialog.append(close, image);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
});
