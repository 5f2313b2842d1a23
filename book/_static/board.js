// The claims board: search, filters and sorting, all kept in the address; a row that the address names is opened.
(() => {
  const board = document.querySelector(".eos-board"), form = board.querySelector("form");
  const tables = [...board.querySelectorAll("table")].map(table => ({ table, rows: [...table.tBodies[0].rows] }));
  const worstFirst = ["not reproduced", "partly", "undecided", "reproduced", "not judged", "not run"];
  const ofCell = ["preset", "verdict", "scale", "amended"], ofRow = ["chapter", "by"];

  const cells = row => [...row.querySelectorAll(".eos-cell")];
  const text = row => [row.dataset.id, ...row.querySelectorAll("summary, .eos-place")].map(x => x.textContent ?? x).join(" ");

  // The verdict at the last preset that was run, the most faithful one, or at that which is chosen
  const verdict = (row, preset) =>
    cells(row).filter(c => preset ? c.dataset.preset === preset : c.dataset.verdict !== "not run").at(-1)?.dataset.verdict;
  const keys = {
    verdict: (row, chosen) => worstFirst.indexOf(verdict(row, chosen.preset) ?? "not run"),
    chapter: row => row.cells[1].textContent,
    id: row => row.dataset.id,
  };

  const show = () => {
    const chosen = Object.fromEntries([...new FormData(form)].filter(([, value]) => value.trim()));
    const words = (chosen.q ?? "").toLowerCase().split(/\s+/);
    const asked = ofCell.filter(name => chosen[name]);
    const counts = [];
    for (const { table, rows } of tables) {
      for (const row of rows) {
        const found = cells(row).filter(cell => asked.every(name => cell.dataset[name] === chosen[name]));
        for (const cell of cells(row)) cell.classList.toggle("eos-found", asked.length > 0 && found.includes(cell));
        row.hidden = !found.length || ofRow.some(name => chosen[name] && row.dataset[name] !== chosen[name])
          || !words.every(word => text(row).toLowerCase().includes(word));
      }
      const key = keys[chosen.sort] ?? (() => 0);
      const compare = (a, b) => { const [x, y] = [a, b].map(row => key(row, chosen)); return x < y ? -1 : x > y ? 1 : 0; };
      table.tBodies[0].append(...rows.toSorted(compare));
      const shown = rows.filter(row => !row.hidden).length;
      table.hidden = !shown;
      counts.push(`${shown} of ${rows.length}`);
    }
    form.querySelector("output").textContent =
      `${counts[0]} claims${counts.length > 1 ? `, in the gallery ${counts.slice(1).join(", ")}` : ""}`;
    const query = new URLSearchParams(chosen).toString();
    history.replaceState(null, "", `${location.pathname}${query && `?${query}`}${location.hash}`);
  };

  const restore = () => {
    const asked = new URLSearchParams(location.search);
    for (const field of form.elements)
      if (field.type === "checkbox") field.checked = asked.get(field.name) === field.value;
      else if (field.name) field.value = asked.get(field.name) ?? "";
    for (const list of form.querySelectorAll("select")) if (list.selectedIndex < 0) list.value = "";
  };

  const openNamed = () => {
    const row = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!row || !board.contains(row)) return;
    if (row.hidden) { form.reset(); show(); }
    row.querySelector("details").open = true;
    row.scrollIntoView({ block: "center" });
  };

  form.addEventListener("input", show);
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(show));
  window.addEventListener("hashchange", openNamed);
  restore();
  show();
  openNamed();
})();
