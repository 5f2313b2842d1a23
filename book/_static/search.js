// Search results quote a page's source; here its mathematics, which is LaTeX there, becomes plain text.
(() => {
  const characters = {
    alpha: "α", beta: "β", gamma: "γ", delta: "δ", epsilon: "ε", varepsilon: "ε", zeta: "ζ", eta: "η", theta: "θ", kappa: "κ",
    lambda: "λ", mu: "μ", nu: "ν", rho: "ρ", sigma: "σ", tau: "τ", Delta: "Δ", Theta: "Θ", Omega: "Ω", ell: "ℓ", nabla: "∇",
    partial: "∂", infty: "∞", sum: "Σ", int: "∫", sqrt: "√", cdot: "·", cdots: "⋯", dots: "…", ldots: "…", times: "×", pm: "±",
    le: "≤", leq: "≤", ge: "≥", geq: "≥", ne: "≠", neq: "≠", approx: "≈", sim: "~", propto: "∝", in: "∈", subset: "⊂",
    subseteq: "⊆", setminus: "∖", to: "→", mapsto: "↦", leftarrow: "←", Leftrightarrow: "⇔", langle: "⟨", rangle: "⟩",
    lVert: "‖", rVert: "‖", perp: "⊥", dagger: "†", star: "*", top: "ᵀ", succeq: "⪰", quad: " ", qquad: " ",
    // what only changes the look of its argument
    mathrm: "", mathbb: "", mathcal: "", text: "", bar: "", tilde: "", left: "", right: "",
  };

  const readable = tex => tex
    .replace(/\\[dt]?frac\s*(\w|{[^{}]*})\s*(\w|{[^{}]*})/g, "$1/$2")
    .replace(/\\([A-Za-z]+)\s*/g, (_, name) => characters[name] ?? name)
    .replace(/\\\|/g, "‖")
    .replace(/\\[^A-Za-z]|[{}]/g, "")
    .replace(/~/g, " ");

  const textOf = Search.htmlToText;
  Search.htmlToText = (html, anchor) =>
    textOf(html.replace(/\\\((.*?)\\\)/gs, (_, tex) => readable(tex)).replace(/\\\[.*?\\\]/gs, "…"), anchor);
})();
